"""Creates the models of episodes from the arguments of the environment."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from vit_patch_env.checks import ArgumentError, named, shown
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.texts import TextData
from vit_patch_env.models import check_model, make_model, model_class
from vit_patch_env.models.contract import check_contract, plain_model
from vit_patch_env.models.model_names import family_of, is_own
from vit_patch_env.models.weights.initial import InitialWeights
from vit_patch_env.observation import Observation, check_observable
from vit_patch_env.system.memory import check_fits
from vit_patch_env.system.torch_state import (
    DrawingFrom,
    float32_by_default,
    lending_global_state,
    on_cpu,
    own_torch_state,
)
from vit_patch_env.training.freezing import freeze
from vit_patch_env.training.parameter_groups import parameter_groups
from vit_patch_env.training.precision import Precision


class ModelFactory:
    """Creates models with fresh weights, or those that training starts from.

    Args:
        config: the arguments of the environment.
        precision: device of the models, and type of their matrix products.
        observation: of the agent, which models must be able to compute.

    Raises:
        ValueError: for an unusable model, or one whose weights do not fit into memory.
    """

    def __init__(self, config: EnvConfig, precision: Precision, observation: Observation) -> None:
        self._config = config
        self._precision = precision
        self._observation = observation
        self._unchecked = not is_own(config.model)
        self._initial = self._initial_weights() if config.starts_from_weights else None
        self._check_kind()
        self._check_sizes()

    def new(self, n_classes: int, channels: int, seed: int, images: Tensor) -> nn.Module:
        """A model whose fresh weights depend only on the seed.

        Args:
            n_classes: outputs.
            channels: of the images; for texts, the size of the vocabulary.
            seed: of the weights.
            images: two of a model's inputs, on which the contract is checked once.
        """
        config = self._config
        with self._seeded(seed):
            model = self._make(n_classes, channels)
            if self._initial is not None:
                self._initial.load_into(model, self._make, channels)
            self._check_observable(model)
            if self._unchecked:
                check_contract(
                    model,
                    images.to(next(model.parameters(), images.cpu()).device),
                    n_classes=n_classes,
                    n_patches=config.n_patches,
                    observe=self._observation.function,
                    observation=config.observation,
                    per_image=config.per_image,
                )
                self._unchecked = False
        return model

    def same(self, n_classes: int, channels: int) -> nn.Module:
        """A model with weights that are the same in every call, for counting its FLOPs."""
        with self._seeded(0):
            return self._make(n_classes, channels).to(self._precision.device)

    def reference(self, n_classes: int, channels: int) -> nn.Module:
        """What budgets of FLOPs are counted in: a SimpleViT of the same sizes, or another's model.

        Its weights are the same in every call.
        """
        own = is_own(self._config.model)
        with self._seeded(0):  # all of it trains, so that the unit is the same for frozen ones
            model = make_model(
                "simple_vit" if own else self._config.model,
                n_classes=n_classes,
                channels=channels,
                **self._config.sizes,
            )
            return model if own else model.to(self._precision.device)

    def check_data(self, n_classes: int, channels: int, images: Tensor) -> None:
        """Refuse a model or weights that do not fit the data set; arguments as for `new`."""
        if self._is_named:
            self._on_meta(n_classes, channels)
        else:
            self._check_groups(self.new(n_classes, channels, 0, images))
        if self._initial is not None:  # of other channels than it was expected
            with self._seeded(0):
                self._initial.read(self._make, channels)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse weights for another number of classes."""
        if self._initial is not None:
            self._initial.check_classes(len(classes))

    def read_weights(self, saved: Path | None = None) -> None:
        """Read or download the weights that training starts from, if any, and check them.

        Args:
            saved: of `save_weights`, to read instead.

        Raises:
            ArgumentError: if they cannot be read, or are those of another model.
        """
        if self._initial is None:
            return
        with self._seeded(0):  # of a model that a library makes to convert them
            if saved is not None:
                self._initial.read_saved(saved)
            self._initial.read(self._make)

    def save_weights(self, path: Path, channels: int) -> None:
        """Save the weights that training starts from, as they are loaded into models."""
        assert self._initial is not None
        with self._seeded(0):
            self._initial.save(path, self._make, channels)

    @property
    def _is_named(self) -> bool:
        """Whether the model is one of this package or of a library, by its name."""
        return is_own(self._config.model) or family_of(self._config.model) is not None

    def _check_kind(self) -> None:
        """Refuse a model that is none, or that does not take the data set or observation."""
        config = self._config
        if isinstance(config.dataset, TextData) and isinstance(config.model, str):
            raise ArgumentError(
                "model",
                f"must be a function where {named('dataset')} is of texts, such as "
                f"vit_patch_env.bert_encoder, got {config.model}, which takes images",
            )
        if isinstance(config.model, str):
            check_model(config.model, config.keep_rate)
            if is_own(config.model):
                kind = model_class(config.model)
                check_observable(config.observation, kind, config.depth, config.model)
        elif not callable(config.model):
            raise ArgumentError(
                "model", f"must be a name, a module or a function, got {shown(config.model)}"
            )

    def _check_sizes(self) -> None:
        """Refuse models by name that do not fit into memory or lack what an argument needs."""
        config, device = self._config, self._precision.device
        if family_of(config.model):  # which also refuses a model that cannot work
            model = self._on_meta(2, 3)
            self._check_observable(model)
            n_weights = sum(weight.numel() for weight in model.parameters())
            check_fits(16 * n_weights, f"the weights of {config.model}", device)
        elif is_own(config.model):
            inner = config.heads * config.dim_head
            n_weights = config.depth * config.dim * (4 * inner + 2 * config.mlp_dim)
            n_weights += config.dim * config.patch_size**2
            n_values = config.n_patches * (2 * config.dim + 4 * inner + config.mlp_dim)
            # Weight, gradient and two moments of the optimizer; one image's values in one layer.
            check_fits(16 * n_weights + 4 * n_values, "a ViT of these sizes", device)
        if self._is_named and (config.freeze or config.layer_decay < 1):
            self._check_groups(self._on_meta(2, 3))

    def _check_groups(self, model: nn.Module) -> None:
        """Refuse a model whose parts cannot learn at rates of their own."""
        parameter_groups(model, learning_rate=1.0, layer_decay=self._config.layer_decay)

    def _check_observable(self, model: nn.Module) -> None:
        """Refuse a model that the observation cannot be computed of."""
        n_layers, name = getattr(model, "n_layers", None), type(plain_model(model)).__name__
        check_observable(self._config.observation, model, n_layers, name)

    def _initial_weights(self) -> InitialWeights:
        """The weights that training starts from, which are not read yet."""
        config = self._config
        return InitialWeights(
            config.model,
            path=config.weights,
            new_head=config.new_head,
            image_size=config.size,
            patch_size=config.patch_size,
        )

    def _on_meta(self, n_classes: int, channels: int) -> nn.Module:
        """A model without memory for its weights."""
        with DrawingFrom(torch.Generator()), torch.device("meta"):
            return self._make(n_classes, channels)

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """A context in which a model's weights depend only on the seed."""
        with own_torch_state():
            if is_own(self._config.model):
                with DrawingFrom(torch.Generator().manual_seed(seed)), on_cpu():
                    yield
                return
            # Code of others may also seed or read the global generator: it gets that one.
            with (
                lending_global_state(),
                float32_by_default,
                torch.random.fork_rng(devices=[]),
            ):
                torch.default_generator.manual_seed(seed)
                yield

    def _make(self, n_classes: int, channels: int) -> nn.Module:
        """A model; the gradients of its frozen parts are neither computed nor counted."""
        config = self._config
        model = make_model(
            config.model,
            keep_rate=config.keep_rate,
            n_classes=n_classes,
            channels=channels,
            **self._config.sizes,
        )
        freeze(model, config.freeze)
        return model
