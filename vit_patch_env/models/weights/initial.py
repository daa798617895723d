"""The weights that models start from: read once, checked by name and shape, loaded into each."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.models.contract import plain_model
from vit_patch_env.models.families.hugging_face_vits import without_hub_warnings
from vit_patch_env.models.model_names import family_of, is_own
from vit_patch_env.models.weights.card import read_card
from vit_patch_env.models.weights.files import read_weights
from vit_patch_env.models.weights.positions import with_positions_for
from vit_patch_env.names import PublishedFamily
from vit_patch_env.patches.grid import patch_grid
from vit_patch_env.system.shown import escaped

Make = Callable[[int, int], nn.Module]
"""Makes a model of (n_classes, channels)."""

_MOST = 3
"""Wrong weights that a message names."""


class InitialWeights:
    """The weights that the models of an environment start from.

    Args:
        model: name of a model, or an object.
        path: file of weights; None for those that the model's library publishes.
        new_head: whether the head stays new.
        image_size: height and width of the images, in pixels.
        patch_size: in pixels.
    """

    def __init__(
        self,
        model: object,
        *,
        path: str | Path | None,
        new_head: bool,
        image_size: tuple[int, int],
        patch_size: int,
    ) -> None:
        self._model = model
        self._path = None if path is None else Path(path)
        self._new_head = new_head
        self._sizes: dict[str, Any] = {"image_size": image_size, "patch_size": patch_size}
        self._argument = "pretrained" if path is None else "weights"
        self._saved: Path | None = None
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._head_names: tuple[str, ...] | None = None

    def read(self, make: Make, channels: int | None = None) -> None:
        """Read or download them, and compare them with a model that is made without memory.

        Args:
            make: makes the model; an object's weights are compared when they are loaded.
            channels: of the images; None before they are known.

        Raises:
            ArgumentError: for a file that cannot be read or is of another model, or weights that
                cannot be downloaded.
        """
        if channels is not None:
            self._read(make, channels)
        elif not self._weights:
            try:
                self._read(make, 3)
            except ArgumentError:
                if not self._is_local or not self._are_for_grey(make):
                    raise

    @property
    def _is_local(self) -> bool:
        """Whether they can be read again at once."""
        folder = str(self._model).partition(":")[2]
        return self._path is not None or self._saved is not None or Path(folder).is_dir()

    def _are_for_grey(self, make: Make) -> bool:
        """Whether they are weights for images of one channel, which are then read."""
        try:
            self._read(make, 1)
        except ArgumentError:
            return False
        return True

    def _read(self, make: Make, channels: int) -> None:
        if channels in self._weights:
            return
        if self._saved is not None:
            weights = self._of_file(self._saved)
        elif self._is_of_library:
            weights = self._of_library(make, channels)
        else:
            weights = self._of_file(self._path)
        if is_own(self._model) or family_of(self._model):
            with torch.device("meta"):
                self._check(make(2, channels), weights, besides_head=True)
        self._weights = {channels: weights}

    def read_saved(self, path: Path) -> None:
        """Read them from a file of `save` from now on."""
        self._saved = path

    def save(self, path: Path, make: Make, channels: int) -> None:
        """Save them, as safetensors.

        Args:
            path: of the file.
            make: as for `read`.
            channels: of the images.
        """
        self.read(make, channels)
        save_file(
            {name: one.contiguous().clone() for name, one in self._weights[channels].items()}, path
        )

    def check_classes(self, n_classes: int) -> None:
        """Refuse a head of another number of classes, unless it is replaced.

        Args:
            n_classes: of the data set.

        Raises:
            ArgumentError: with the option that replaces it.
        """
        weights = next(iter(self._weights.values()))
        if self._new_head or self._head_names is None:
            return
        head = next((one for one in self._head_names if f"{one}.weight" in weights), None)
        n_found = 0 if head is None else len(weights[f"{head}.weight"])
        if n_found != n_classes:
            got = "weights without a head" if head is None else counted(n_found, "class")
            raise ArgumentError(
                self._argument,
                f"must have a head of {counted(n_classes, 'class')}, as the data set, got {got}: "
                f"{named('new_head')} trains a new one",
            )

    def load_into(self, model: nn.Module, make: Make, channels: int) -> None:
        """Load them into a model with fresh weights, whose head stays as it is if it is replaced.

        Args:
            model: of the environment.
            make: as for `read`.
            channels: of the images.

        Raises:
            ArgumentError: as `read` does.
        """
        self.read(make, channels)
        weights = self._weights[channels]
        self._check(model, weights, besides_head=self._new_head)
        if self._new_head:
            weights = {name: one for name, one in weights.items() if not self._is_of_head(name)}
        plain_model(model).load_state_dict(weights, strict=not self._new_head)

    @property
    def _is_of_library(self) -> bool:
        """Whether the weights are of a library that can also convert those of a file."""
        return family_of(self._model) in get_args(PublishedFamily)

    def _of_file(self, path: Path | None) -> dict[str, Tensor]:
        assert path is not None
        try:
            return read_weights(path)
        except InputError as error:
            raise ArgumentError(self._argument, f"must be readable: {error.marked}") from error

    def _of_library(self, make: Make, channels: int) -> dict[str, Tensor]:
        """Those of the library, or of a file as the library converts them to the model's size."""
        family, _, name = str(self._model).partition(":")
        library: Any = importlib.import_module(f"{__package__}.{family}_weights")
        if self._path is None:
            try:
                with without_hub_warnings():
                    return library.published(name, channels=channels, **self._sizes)  # type: ignore[no-any-return]
            except MemoryError:
                raise
            except Exception as error:  # of many kinds, by what the network or the library lacks
                raise ArgumentError(
                    "pretrained",
                    f"needs the weights of {self._model}, from {library.source(name)}, which could "
                    f"not be loaded: {_reason(error)}; {named('weights')} takes a file with them",
                ) from error
        weights = self._on_own_grid(self._of_file(self._path))
        try:
            return library.converted(name, weights, channels=channels, **self._sizes)  # type: ignore[no-any-return]
        except MemoryError:
            raise
        except Exception as error:  # the libraries raise anything for another model's
            with torch.device("meta"):
                self._check(make(2, channels), weights, besides_head=True)
            raise self._of_another_model(_reason(error)) from error

    def _on_own_grid(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a file with positions for the model's grid, where a card says their own."""
        assert self._path is not None
        try:
            card = read_card(self._path)
        except InputError as error:
            raise ArgumentError(self._argument, f"must be readable: {error.marked}") from error
        if card is None:
            return weights
        return with_positions_for(weights, card.grid, patch_grid(**self._sizes))

    def _check(self, model: nn.Module, weights: Mapping[str, Tensor], besides_head: bool) -> None:
        """Refuse weights of other names or shapes than a model's.

        Args:
            model: that they are for.
            weights: by name.
            besides_head: whether the head may differ or be missing.
        """
        self._head_names = getattr(model, "head_names", None)
        if self._new_head and self._head_names is None:
            raise ArgumentError(
                "new_head",
                f"needs a model with head_names, the names of its last layers, got "
                f"{type(model).__name__}",
            )
        own: dict[str, Tensor] = plain_model(model).state_dict()
        compared = [
            {
                name: one.shape
                for name, one in of.items()
                if not (besides_head and self._is_of_head(name))
            }
            for of in (own, weights)
        ]
        if problem := _difference(*compared):
            raise self._of_another_model(problem)

    def _is_of_head(self, name: str) -> bool:
        return name.startswith(tuple(f"{one}." for one in self._head_names or ()))

    def _of_another_model(self, got: str) -> ArgumentError:
        expected = self._model if isinstance(self._model, str) else "the model"
        where = "" if self._path is None else f" in {self._path}"
        return ArgumentError(self._argument, f"must be those of {expected}{where}, got {got}")


def _difference(expected: Mapping[str, torch.Size], got: Mapping[str, torch.Size]) -> str:
    """How weights differ from those expected, in words; empty if they do not.

    Args:
        expected: shapes by name.
        got: shapes by name.
    """
    shapes = [
        f"{escaped(name)} of shape {tuple(got[name])} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if got.get(name, shape) != shape
    ]
    missing = [escaped(name) for name in expected if name not in got]
    unknown = [escaped(name) for name in got if name not in expected]
    problems = [f"weights without {_few(missing)}"] if missing else []
    problems += [f"weights with {_few(unknown)}, which it does not have"] if unknown else []
    if shapes and not problems:  # of another model all may differ
        problems = [_few(shapes)]
    return ", and ".join(problems).replace(", and weights", ", and")


def _few(words: Sequence[str]) -> str:
    """The first of some words: "a, b, c and 7 more"."""
    more = f" and {len(words) - _MOST} more" if len(words) > _MOST else ""
    return ", ".join(words[:_MOST]) + more


def _reason(error: Exception) -> str:
    return escaped(str(error).strip().partition("\n")[0] or type(error).__name__)
