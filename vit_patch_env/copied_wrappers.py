"""Copies of an environment's wrappers, with a split's batches beneath them.

Wrappers may hold state, such as stacked observations or running means, which an evaluation must
use without changing it. So they are copied, in the process that they are in, and the copies treat
the batches of a split as the steps of one episode. What wrappers share with other code (classes,
functions, modules, globals) is not copied.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import getmembers
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from vit_patch_env.checks import InputError, shown
from vit_patch_env.episode import context_info, select_patches
from vit_patch_env.layers import is_transparent, is_vectorised
from vit_patch_env.patches.selection import valid_actions
from vit_patch_env.system.copying import copy_with

_NEEDS_TIME = {"TimeAwareObservation", "TimeFeatureWrapper"}
"""Wrappers that show an agent the time within a run, which a split does not have."""

_OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
"""Errors that are nobody's mistake."""


class SplitEnv(gym.Env[NDArray[np.float32], NDArray[Any]]):
    """The batches of a split, as an episode: an action selects the patches of a batch.

    Rewards and losses, which a split does not have, are NaN, and the run is at its end. Generators
    have the seed 0.

    Args:
        views: an agent's observation of each batch, in order.
        values: the same without run features, (n_patches,).
        observation_space: of the environment.
        facts: attributes of the environment, by name.

    Attributes:
        patch_masks: (n_patches,) of each batch so far.
    """

    epochs: float
    context: dict[str, Any]

    def __init__(
        self,
        views: Sequence[NDArray[np.float32]],
        values: Sequence[NDArray[np.float32]],
        observation_space: spaces.Space[NDArray[np.float32]],
        facts: dict[str, Any],
    ) -> None:
        vars(self).update(facts)
        self.observation_space = deepcopy(observation_space)
        self.observation_space.seed(0)
        self.action_space = spaces.MultiBinary(len(values[0]), seed=0)
        self.patch_masks: list[NDArray[np.bool_]] = []
        self._views = views
        self._values = values
        self._n_resets = 0
        self._empty_action = False
        super().reset(seed=0)

    @property
    def finished(self) -> bool:
        """Whether every batch has its patches."""
        return len(self.patch_masks) == len(self._views)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start at the first batch; once only."""
        super().reset(seed=seed)
        self._n_resets += 1
        if self._n_resets > 1:
            raise InputError("wrappers must reset the environment once, got another reset")
        info = {
            "epoch": np.int64(math.ceil(self.epochs)),
            "progress": np.float64(1),
            **context_info(self.context),
        }
        return self._views[0].copy(), info

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Select the patches of a batch, and go on to the next one."""
        if not self.finished:  # otherwise a wrapper repeats the action
            selection = select_patches(action, self._values[len(self.patch_masks)])
            self.patch_masks.append(selection.patch_mask)
            self._empty_action = selection.empty_action
        following = min(len(self.patch_masks), len(self._views) - 1)
        return self._views[following].copy(), np.nan, False, False, self._step_info()

    def _step_info(self) -> dict[str, Any]:
        n_selected = [int(patch_mask.sum()) for patch_mask in self.patch_masks]
        return {
            "loss": np.nan,
            "n_selected": n_selected[-1],
            "reward_loss": np.nan,
            "reward_patch": np.nan,
            "epoch": math.ceil(self.epochs) - 1,
            "progress": 1.0,
            "empty_action": self._empty_action,
            "skipped": False,
            "diverged": False,
            "loss_mean": np.nan,
            "n_selected_mean": float(np.mean(n_selected)),
        }

    def action_masks(self) -> NDArray[np.bool_]:
        """As those of the environment."""
        return valid_actions(len(self._values[0]))

    def render(self) -> Any:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise InputError("a split has no picture to render")


class WrapperError(ValueError):
    """A split cannot be shown through the copied wrappers."""


class Copies:
    """Copies of all wrappers that may change observations or actions, around another environment.

    Running means of Gymnasium's and Stable-Baselines3's wrappers are no longer updated, and their
    spaces have the seed 0.

    Args:
        layers: from the outside in; the last one is what they wrap, which is not copied.
        base: what the copies wrap.
        shared: other objects that are not copied.

    Attributes:
        outermost: the outermost copy, or `base` if there is none.

    Raises:
        ValueError: for a wrapper that cannot be copied, or needs what a split does not have.
    """

    def __init__(self, layers: Sequence[Any], base: Any, shared: Sequence[Any] = ()) -> None:
        *wrappers, beneath = layers
        self.outermost = base
        self._copied: list[Any] = []
        stand_ins = {id(one): one for one in shared} | {id(beneath): base}
        for layer in reversed(wrappers):  # all, before their attributes, which may hold others
            if not is_transparent(layer):
                _check_needs(layer)
                self._copied.append(layer)
                self.outermost = object.__new__(type(layer))  # whatever its own __new__ needs
            stand_ins[id(layer)] = self.outermost
        for layer, state in zip(self._copied, self._copied_states(stand_ins), strict=True):
            vars(stand_ins[id(layer)]).update(state)
            _settle(stand_ins[id(layer)])
        kinds = {kind for layer in self._copied for kind in type(layer).__mro__}
        self._class_attributes = [(kind, dict(vars(kind))) for kind in kinds]

    def _copied_states(self, stand_ins: dict[int, Any]) -> list[dict[str, Any]]:
        states = [_state(layer) for layer in self._copied]
        specs = [value for one in states for value in one.values() if isinstance(value, EnvSpec)]
        stand_ins |= {id(spec): spec for spec in specs}  # they may hold a data set
        try:
            return copy_with(states, stand_ins)  # at once, as they may share objects
        except _OUT_OF_MEMORY:
            raise
        except Exception as error:  # whatever an object raises that cannot be copied
            for layer, state in zip(self._copied, states, strict=True):
                for name, value in state.items():
                    _check_copied(layer, name, value, stand_ins)
            raise InputError(
                f"wrappers must be such that they can be copied, got: {error}"
            ) from error

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block, errors that the copies may have caused are said to be theirs.

        Errors of this package's checks, such as those of actions, say themselves what is wrong.

        Raises:
            WrapperError: in one line, from the error.
        """
        try:
            yield
        except (WrapperError, *_OUT_OF_MEMORY):
            raise
        except Exception as error:
            if not self._copied or (isinstance(error, ValueError) and _is_raised_here(error)):
                raise
            reason = str(error).split("\n")[0]
            raise WrapperError(
                "expected wrappers that a split can be shown through, "
                f"got {type(error).__name__}: {reason}"
            ) from error

    def close(self) -> None:
        """Restore attributes of the wrappers' classes that the copies have assigned."""
        for kind, before in self._class_attributes:
            for name in [name for name in vars(kind) if not name.startswith("__")]:
                if name not in before:
                    delattr(kind, name)
                elif vars(kind)[name] is not before[name]:
                    setattr(kind, name, before[name])


def _state(layer: Any) -> dict[str, Any]:
    """The attributes of a wrapper, without those that Stable-Baselines3 derives from its class."""
    return {name: value for name, value in vars(layer).items() if name != "class_attributes"}


def _settle(layer: Any) -> None:
    """Complete a copy, whose running means are no longer updated."""
    names = {kind.__name__ for kind in type(layer).__mro__}
    if is_vectorised(layer):
        layer.class_attributes = dict(getmembers(type(layer)))
    if "NormalizeObservation" in names:
        layer.update_running_mean = False
    if "VecNormalize" in names:
        layer.training = False
    for value in vars(layer).values():
        if isinstance(value, spaces.Space):
            value.seed(0)


def _check_needs(layer: Any) -> None:
    if not _NEEDS_TIME.isdisjoint(kind.__name__ for kind in type(layer).__mro__):
        raise InputError(
            "wrappers must not need the time within a run, which a split does not have, "
            f"got {type(layer).__name__}"
        )


def _check_copied(layer: Any, name: str, value: Any, stand_ins: dict[int, Any]) -> None:
    try:
        copy_with(value, stand_ins)
    except Exception as error:
        raise InputError(
            f"wrappers must be such that they can be copied, got {type(layer).__name__} whose "
            f"{name} cannot be: {shown(value)}"
        ) from error


def _is_raised_here(error: Exception) -> bool:
    """Whether this package has raised an error."""
    traceback = error.__traceback__
    assert traceback is not None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    module: str = traceback.tb_frame.f_globals.get("__name__", "")
    return module.split(".")[0] == __name__.split(".")[0]
