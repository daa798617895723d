"""Copies of an environment's wrappers, with a split's batches beneath them.

Wrappers may hold state, such as stacked observations or running means, which an evaluation must
use without changing it. So they are copied, and the copies treat the batches of a split as the
steps of one episode. A copy is bytes, so that it also leaves the process of its environment.
"""

import io
import pickle
from collections.abc import Sequence
from inspect import getmembers
from typing import Any, NamedTuple

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from vit_patch_env.checks import shown
from vit_patch_env.episode import select_patches
from vit_patch_env.layers import is_transparent
from vit_patch_env.patches.selection import valid_actions

_NEEDS_TIME = {"TimeAwareObservation", "TimeFeatureWrapper"}
"""Wrappers that show an agent the time within a run, which a split does not have."""

_ENVIRONMENT = -1
"""Stands for what is beneath the copied wrappers."""


class Copied(NamedTuple):
    """Copied wrappers, the innermost first.

    Attributes:
        classes: pickled.
        states: pickled attributes of each.
    """

    classes: bytes
    states: bytes


class SplitEnv(gym.Env[NDArray[np.float32], NDArray[Any]]):
    """The batches of a split, as an episode: an action selects the patches of a batch.

    Rewards and losses, which a split does not have, are NaN, and the run is at its end.

    Args:
        views: an agent's observation of each batch, in order.
        values: the same without run features, (n_patches,).
        observation_space: of the environment.
        facts: attributes of the environment, by name.

    Attributes:
        patch_masks: (n_patches,) of each batch so far.
    """

    def __init__(
        self,
        views: Sequence[NDArray[np.float32]],
        values: Sequence[NDArray[np.float32]],
        observation_space: spaces.Space[NDArray[np.float32]],
        facts: dict[str, Any],
    ) -> None:
        vars(self).update(facts)
        self.views = views
        self.values = values
        self.observation_space = observation_space
        self.action_space = spaces.MultiBinary(len(values[0]))
        self.patch_masks: list[NDArray[np.bool_]] = []
        self._n_resets = 0

    @property
    def finished(self) -> bool:
        """Whether every batch has its patches."""
        return len(self.patch_masks) == len(self.views)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start at the first batch; once only."""
        super().reset(seed=seed)
        self._n_resets += 1
        if self._n_resets > 1:
            raise ValueError("expected a single reset, got another one")
        return self.views[0].copy(), {"progress": 1.0}

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Select the patches of a batch, and go on to the next one."""
        if self.finished:  # a wrapper repeats the action
            return self.views[-1].copy(), np.nan, False, False, {}
        selected = select_patches(action, self.values[len(self.patch_masks)])
        self.patch_masks.append(selected.patch_mask)
        info = {
            "loss": np.nan,
            "n_selected": int(selected.patch_mask.sum()),
            "reward_loss": np.nan,
            "reward_patch": np.nan,
            "progress": 1.0,
            "empty_action": selected.empty_action,
            "skipped": False,
            "diverged": False,
        }
        following = min(len(self.patch_masks), len(self.views) - 1)
        return self.views[following].copy(), np.nan, False, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """As those of the environment."""
        return valid_actions(len(self.values[0]))

    def render(self) -> Any:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError("a split has no picture to render")


def copy_wrappers(layers: Sequence[Any]) -> Copied:
    """Copies of all wrappers that may change observations or actions.

    Args:
        layers: from the outside in; the last one is what they wrap, which is not copied.

    Raises:
        ValueError: for a wrapper that cannot be copied, or needs what a split does not have.
    """
    *wrappers, base = layers
    places = {id(base): _ENVIRONMENT}
    copied: list[Any] = []
    for layer in reversed(wrappers):
        if not is_transparent(layer):
            _check_needs(layer)
            copied.append(layer)
        places[id(layer)] = len(copied) - 1  # a transparent one is the layer beneath it
    states = [_state(layer) for layer in copied]
    try:
        return Copied(
            cloudpickle.dumps([type(layer) for layer in copied]), _pickled(states, places)
        )
    except Exception as error:  # whatever an object raises that cannot be pickled
        for layer, state in zip(copied, states, strict=True):
            for name, value in state.items():
                _check_copied(layer, name, value, places)
        raise ValueError(f"wrappers must be such that they can be copied, got: {error}") from error


def rebuilt(copied: Copied, base: Any) -> Any:
    """The outermost of the copied wrappers, around another environment.

    Running means are no longer updated.
    """
    classes = pickle.loads(copied.classes)
    layers: list[Any] = [kind.__new__(kind) for kind in classes]
    states = _Unpickler(io.BytesIO(copied.states), [*layers, base]).load()
    for layer, state in zip(layers, states, strict=True):
        vars(layer).update(state)
        if hasattr(layer, "step_wait"):
            layer.class_attributes = dict(getmembers(type(layer)))
        names = {kind.__name__ for kind in type(layer).__mro__}
        if "NormalizeObservation" in names:
            layer.update_running_mean = False
        if "VecNormalize" in names:
            layer.training = False
    return [base, *layers][-1]


def _state(layer: Any) -> dict[str, Any]:
    """The attributes of a wrapper, without those that Stable-Baselines3 derives from its class."""
    return {name: value for name, value in vars(layer).items() if name != "class_attributes"}


def _check_needs(layer: Any) -> None:
    if not _NEEDS_TIME.isdisjoint(kind.__name__ for kind in type(layer).__mro__):
        raise ValueError(
            "wrappers must not need the time within a run, which a split does not have, "
            f"got {type(layer).__name__}"
        )


def _check_copied(layer: Any, name: str, value: Any, places: dict[int, int]) -> None:
    try:
        _pickled(value, places)
    except Exception as error:
        raise ValueError(
            f"wrappers must be such that they can be copied, got {type(layer).__name__} whose "
            f"{name} cannot be: {shown(value)}"
        ) from error


def _pickled(value: Any, places: dict[int, int]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, places).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes layers as their places, and no specs, which may hold a data set."""

    def __init__(self, file: io.BytesIO, places: dict[int, int]) -> None:
        super().__init__(file)
        self._places = places

    def persistent_id(self, obj: Any) -> int | str | None:
        return "spec" if isinstance(obj, EnvSpec) else self._places.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(file)
        self._layers = layers

    def persistent_load(self, pid: Any) -> Any:
        return None if pid == "spec" else self._layers[pid]
