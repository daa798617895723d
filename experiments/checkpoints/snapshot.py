"""Snapshots of Stable-Baselines3's objects as plain data and tensors, restored in place.

A snapshot holds the contents of an object, not the object. It is restored into an object that was
constructed in the same way. So no code is loaded from a file, and functions, classes and
environments, which the constructor sets, remain those of the new object.
"""

import functools
import inspect
import io
import random
import types
from collections import deque
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Env, Space
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, KVWriter, Video
from stable_baselines3.common.logger import Image as LoggedImage
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from vit_patch_env.checks import InputError, shown
from vit_patch_env.system.tensors import check_optimizer_state

_STATIC = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type,
    functools.partial, property, Enum, Path, io.IOBase, np.dtype, torch.dtype, torch.device,
    torch.distributions.Distribution, KVWriter, ResultsWriter, HParam, LoggedImage, Video,
)  # fmt: skip
"""Types that are not stored: the constructor sets them, or they are used once."""

_EXCLUDED: dict[type, frozenset[str]] = {
    BaseAlgorithm: frozenset({
        "env", "_vec_normalize_env", "_logger", "_custom_logger", "start_time", "device",
        "tensorboard_log", "verbose", "_total_timesteps",
    }),
    BaseCallback: frozenset({"model", "locals", "globals", "parent"}),
    VecEnv: frozenset({"venv", "envs", "class_attributes"}),
    Env: frozenset({"env", "spec", "_cached_spec", "t_start"}),
    nn.Module: frozenset(vars(nn.Module())),
}  # fmt: skip
"""Attributes that belong to the running process, by the type of their object."""

_PLAIN = (bool, int, float, str, type(None))


def snapshot(thing: Any) -> Any:
    """The contents of `thing` as tensors and plain data, ready for `save_state`.

    Tensors and arrays are not copied, except those of target networks. For objects with
    `state_dict` and `load_state_dict` these are used, for others all attributes.

    Raises:
        ValueError: if something inside cannot be saved; names it.
    """
    return _snapshot(thing, type(thing).__name__, set())


def restore(thing: Any, state: Any) -> Any:
    """Restore `thing` to a snapshot of another object that was constructed in the same way.

    Args:
        thing: an object, generator, module or optimizer, changed in place; for plain data it may
            be None.
        state: from `snapshot`.

    Returns:
        `thing`, or the new plain data.

    Raises:
        ValueError: if the snapshot does not match.
    """
    if type(state) in _PLAIN and state is not None and type(thing) not in _PLAIN:
        raise InputError(f"expected the state of a {type(thing).__name__}, got {shown(state)}")
    try:
        return _restore(thing, state, type(thing).__name__)
    except InputError:
        raise
    except (
        AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        reason = str(error).split("\n")[0]
        raise InputError(f"expected the state of this run's agent, got: {reason}") from error


def _snapshot(thing: Any, name: str, seen: set[int]) -> Any:
    if type(thing) in _PLAIN:
        return thing
    if isinstance(thing, Tensor):
        return thing.detach()
    if isinstance(thing, np.ndarray | np.generic):
        return ("array", _as_tensor(np.asarray(thing), name), isinstance(thing, np.generic))
    if isinstance(thing, _STATIC):
        return ("static",)
    if isinstance(thing, list | tuple | deque):
        items = [_snapshot(item, f"{name}[{index}]", seen) for index, item in enumerate(thing)]
        return ("items", "tuple" if isinstance(thing, tuple) else "list", items)
    if isinstance(thing, dict):
        other = [key for key in thing if type(key) not in _PLAIN]
        if other:
            raise InputError(f"expected numbers or text as keys of {name}, got {other[0]!r}")
        return (
            "dict",
            [(key, _snapshot(item, f"{name}[{key!r}]", seen)) for key, item in thing.items()],
        )
    if _is_value(thing):
        return ("value", _class_name(thing), _snapshot(_values(thing), name, seen))
    if id(thing) in seen:
        return ("static",)  # stored where it occurred first
    seen.add(id(thing))
    if isinstance(thing, np.random.Generator):
        return ("generator", _snapshot(thing.bit_generator.state, name, seen))
    if isinstance(thing, Space):
        generator = thing._np_random
        return ("space", None if generator is None else generator.bit_generator.state)
    state_dict = None
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        state_dict = _snapshot(
            {
                # Copied, since some algorithms update it within the rollout, before it is saved.
                key: value.clone() if "target" in name + key else value
                for key, value in thing.state_dict().items()
            },
            name,
            seen,
        )
        if not isinstance(thing, nn.Module):
            return ("object", _class_name(thing), state_dict, {})
    if isinstance(thing, BaseBuffer):
        return ("object", _class_name(thing), state_dict, _snapshot_buffer(thing, name, seen))
    if not hasattr(thing, "__dict__") or isinstance(thing, random.Random):
        raise InputError(f"expected an object whose state can be saved in {name}, got {thing!r}")
    attributes = {
        key: _snapshot(value, f"{name}.{key}", seen)
        for key, value in vars(thing).items()
        if key not in _excluded(thing) and not isinstance(value, VecEnv | Env)
    }
    return ("object", _class_name(thing), state_dict, attributes)


def _snapshot_buffer(buffer: BaseBuffer, name: str, seen: set[int]) -> dict[str, Any]:
    """Attributes of a buffer; of its arrays only the filled part."""
    attributes = {}
    # Plus one, which may hold the next observation of the last transition.
    n_filled = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
    for key, value in vars(buffer).items():
        if isinstance(value, np.ndarray) and value.shape[:1] == (buffer.buffer_size,):
            attributes[key] = ("filled", _as_tensor(value[:n_filled], f"{name}.{key}"))
        else:
            attributes[key] = _snapshot(value, f"{name}.{key}", seen)
    return attributes


def _restore(thing: Any, state: Any, name: str) -> Any:
    if type(state) in _PLAIN:
        _check_kind(thing, state, name)
        return state
    if isinstance(state, Tensor):
        if isinstance(thing, Tensor) and thing.shape == state.shape:
            with torch.no_grad():
                return thing.copy_(state)  # in place, as an optimizer may hold a reference
        return state
    kind, *content = state
    if kind == "static":
        return thing
    if kind == "array":
        array, scalar = content
        return array.numpy()[()] if scalar else array.numpy()
    if kind == "filled":
        filled = content[0].numpy()
        if thing.shape[1:] != filled.shape[1:] or len(thing) < len(filled):
            raise InputError(
                f"{name} must hold arrays of shape {filled.shape[1:]}, at least {len(filled)}, "
                f"got {len(thing)} of {thing.shape[1:]}"
            )
        thing[: len(filled)] = filled
        return thing
    if kind == "items":
        return _restore_items(thing, content[0], content[1], name)
    if kind == "dict":
        target = thing if isinstance(thing, dict) else {}
        items = {
            key: _restore(target.get(key), item, f"{name}[{key!r}]") for key, item in content[0]
        }
        target.clear()
        target.update(items)
        return target
    if kind == "value":
        if _class_name(thing) != content[0]:
            raise InputError(f"{name} must be a {content[0]}, as in the saved state, got {thing!r}")
        # A new one, as others may hold the old one.
        return type(thing)(**_restore(_values(thing), content[1], name))
    if kind == "generator":
        generator = np.random.default_rng() if thing is None else thing
        generator.bit_generator.state = _restore(None, content[0], name)
        return generator
    if kind == "space":
        if content[0] is not None:
            thing.np_random.bit_generator.state = content[0]
        return thing
    expected, state_dict, attributes = content
    if _class_name(thing) != expected:
        raise InputError(f"{name} must be a {expected}, as in the saved state, got {thing!r}")
    if state_dict is not None:
        loaded = _restore(None, state_dict, name)
        if isinstance(thing, torch.optim.Optimizer):
            check_optimizer_state(thing, loaded)
        thing.load_state_dict(loaded)
    arguments = _arguments(type(thing)) if isinstance(thing, BaseAlgorithm) else set()
    for key, value in attributes.items():
        if key in _excluded(thing) or (value == ("static",) and key not in vars(thing)):
            continue
        old = vars(thing).get(key)
        if key in arguments and type(old) in _PLAIN and value != old:
            raise InputError(
                f"{name}.{key} must be {shown(old)}, as in this run, got {shown(value)}"
            )
        known = set(old) if isinstance(old, dict) and _is_ours(thing) else set()
        new = vars(thing)[key] = _restore(old, value, f"{name}.{key}")
        if known and not (isinstance(new, dict) and known <= set(new)):
            raise InputError(
                f"{name}.{key} must have {', '.join(map(str, known))}, got {shown(new)}"
            )
    return thing


def _check_kind(thing: Any, state: Any, name: str) -> None:
    """Refuse text in the place of a number, a number in that of text, and either for a container.

    The constructor makes attributes of the right kind, or None.
    """
    if thing is None or state is None:
        return
    numbers = (bool, int, float)
    expected = next((kind for kind in (numbers, str) if isinstance(thing, kind)), None)
    if expected is None and not isinstance(thing, dict | list | tuple | deque | np.ndarray):
        return
    if expected is None or not isinstance(state, expected):
        raise InputError(f"{name} must be a {type(thing).__name__}, got {shown(state)}")


def _restore_items(thing: Any, kind: str, states: list[Any], name: str) -> Any:
    old = list(thing) if isinstance(thing, list | tuple | deque) else []
    old += [None] * (len(states) - len(old))
    items = [
        _restore(item, state, f"{name}[{index}]")
        for index, (item, state) in enumerate(zip(old, states, strict=False))
    ]
    if isinstance(thing, deque):
        thing.clear()
        thing.extend(items)
        return thing
    if kind == "list":
        if not isinstance(thing, list):
            return items
        thing[:] = items
        return thing
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*items)
    return tuple(items)


def _is_value(thing: Any) -> bool:
    """Whether an object never changes, as those of frozen dataclasses."""
    parameters = getattr(type(thing), "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


def _values(thing: Any) -> dict[str, Any]:
    return {one.name: getattr(thing, one.name) for one in fields(thing)}


def _excluded(thing: Any) -> set[str]:
    return {name for kind, names in _EXCLUDED.items() if isinstance(thing, kind) for name in names}


def _arguments(algorithm: type) -> set[str]:
    """Names of what an algorithm is constructed with, and training does not change."""
    return {
        name
        for kind in algorithm.__mro__
        if "__init__" in vars(kind) and kind is not object
        for name in inspect.signature(kind).parameters
        if name not in getattr(algorithm, "scaled_arguments", ())
    }


def _is_ours(thing: Any) -> bool:
    """Whether an object's class is of this package, whose dictionaries keep their keys."""
    return type(thing).__module__.startswith("vit_patch_env.")


def _class_name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _as_tensor(array: NDArray[Any], name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError as error:
        raise InputError(f"expected numbers in {name}, got an array of {array.dtype}") from error
