"""The state of Stable-Baselines3's objects as plain data and tensors: taken and put back in place.

An object is not stored but what it holds is; it is put back into an object that was made anew in
the same way. So no code comes out of a file, and functions, classes and environments, which the
constructor brings along, stay those of the new object.
"""

import functools
import io
import random
import types
from collections import deque
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

_STATIC = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type,
    functools.partial, property, Enum, Path, io.IOBase, np.dtype, torch.dtype, torch.device,
    torch.distributions.Distribution, KVWriter, ResultsWriter, HParam, LoggedImage, Video,
)  # fmt: skip
"""What is not stored: it is made anew, or used up at once."""

_LEFT_OUT: dict[type, frozenset[str]] = {
    BaseAlgorithm: frozenset({
        "env", "_vec_normalize_env", "_logger", "_custom_logger", "start_time", "device",
        "tensorboard_log", "verbose",
    }),
    BaseCallback: frozenset({"model", "locals", "globals", "parent"}),
    VecEnv: frozenset({"venv", "envs", "class_attributes"}),
    Env: frozenset({"env", "spec", "_cached_spec", "t_start"}),
    nn.Module: frozenset(vars(nn.Module())),
}  # fmt: skip
"""Attributes that belong to the process: by what an object is."""

_PLAIN = (bool, int, float, str, type(None))


def take(thing: Any) -> Any:
    """What `thing` holds, as tensors and plain data for `vit_patch_env.system.files.save_state`.

    Tensors and arrays are not copied, but those of target networks. Objects with `state_dict` and
    `load_state_dict` are asked for theirs; of others every attribute is taken.

    Raises:
        ValueError: for something whose state cannot be taken, by name.
    """
    return _take(thing, type(thing).__name__, set())


def put(thing: Any, state: Any) -> Any:
    """`thing` with the state that `take` took of another that was made in the same way.

    Objects, generators, modules and optimisers are changed in place and returned; plain data,
    where `thing` may be None, is made anew.

    Raises:
        ValueError: if the state is of something else.
    """
    try:
        return _put(thing, state, type(thing).__name__)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"expected the state of this run's agent, got: {reason}") from error


def take_generators() -> Any:
    """Where Python's, numpy's and torch's global generators are."""
    version, words, gauss = random.getstate()
    state = {
        "python": (version, np.array(words, dtype=np.uint32), gauss),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (Stable-Baselines3 draws there)
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
    }
    return take(state)


def put_generators(taken: Any) -> None:
    """Let the global generators go on from where they were taken."""
    state = put(None, taken)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _take(thing: Any, name: str, seen: set[int]) -> Any:
    if type(thing) in _PLAIN:
        return thing
    if isinstance(thing, Tensor):
        return thing.detach()
    if isinstance(thing, np.ndarray | np.generic):
        return ("array", _as_tensor(np.asarray(thing), name), isinstance(thing, np.generic))
    if isinstance(thing, _STATIC):
        return ("static",)
    if isinstance(thing, list | tuple | deque):
        items = [_take(item, f"{name}[{index}]", seen) for index, item in enumerate(thing)]
        return ("items", "tuple" if isinstance(thing, tuple) else "list", items)
    if isinstance(thing, dict):
        unusual = [key for key in thing if type(key) not in _PLAIN]
        if unusual:
            raise ValueError(f"expected numbers or text as keys of {name}, got {unusual[0]!r}")
        return (
            "dict",
            [(key, _take(item, f"{name}[{key!r}]", seen)) for key, item in thing.items()],
        )
    if id(thing) in seen:
        return ("static",)  # taken where it was met first
    seen.add(id(thing))
    if isinstance(thing, np.random.Generator):
        return ("generator", _take(thing.bit_generator.state, name, seen))
    if isinstance(thing, Space):
        drawn = thing._np_random
        return ("space", None if drawn is None else drawn.bit_generator.state)
    kept = None
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        kept = _take(
            {
                # Some algorithms move it in the middle of a rollout, when it is still to be saved.
                key: value.clone() if "target" in name + key else value
                for key, value in thing.state_dict().items()
            },
            name,
            seen,
        )
        if not isinstance(thing, nn.Module):
            return ("object", _class_name(thing), kept, {})
    if isinstance(thing, BaseBuffer):
        return ("object", _class_name(thing), kept, _take_buffer(thing, name, seen))
    if not hasattr(thing, "__dict__") or isinstance(thing, random.Random):
        raise ValueError(f"expected something whose state can be saved in {name}, got {thing!r}")
    attributes = {
        key: _take(value, f"{name}.{key}", seen)
        for key, value in vars(thing).items()
        if key not in _left_out(thing) and not isinstance(value, VecEnv | Env)
    }
    return ("object", _class_name(thing), kept, attributes)


def _take_buffer(buffer: BaseBuffer, name: str, seen: set[int]) -> dict[str, Any]:
    """Attributes of a buffer; of its arrays only what has been filled."""
    attributes = {}
    # One more, which may hold the next observation of the last transition.
    n_filled = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
    for key, value in vars(buffer).items():
        if isinstance(value, np.ndarray) and value.shape[:1] == (buffer.buffer_size,):
            attributes[key] = ("filled", _as_tensor(value[:n_filled], f"{name}.{key}"))
        else:
            attributes[key] = _take(value, f"{name}.{key}", seen)
    return attributes


def _put(thing: Any, state: Any, name: str) -> Any:
    if type(state) in _PLAIN:
        return state
    if isinstance(state, Tensor):
        if isinstance(thing, Tensor) and thing.shape == state.shape:
            with torch.no_grad():
                return thing.copy_(state)  # in place, as an optimiser may know it
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
            raise ValueError(
                f"{name} must hold arrays of shape {filled.shape[1:]}, at least {len(filled)}, "
                f"got {len(thing)} of {thing.shape[1:]}"
            )
        thing[: len(filled)] = filled
        return thing
    if kind == "items":
        return _put_items(thing, content[0], content[1], name)
    if kind == "dict":
        there = thing if isinstance(thing, dict) else {}
        items = {key: _put(there.get(key), item, f"{name}[{key!r}]") for key, item in content[0]}
        there.clear()
        there.update(items)
        return there
    if kind == "generator":
        generator = np.random.default_rng() if thing is None else thing
        generator.bit_generator.state = _put(None, content[0], name)
        return generator
    if kind == "space":
        if content[0] is not None:
            thing.np_random.bit_generator.state = content[0]
        return thing
    expected, kept, attributes = content
    if _class_name(thing) != expected:
        raise ValueError(
            f"{name} must be a {expected}, as where the state was taken, got {thing!r}"
        )
    if kept is not None:
        thing.load_state_dict(_put(None, kept, name))
    for key, value in attributes.items():
        if value == ("static",) and key not in vars(thing):
            continue
        vars(thing)[key] = _put(vars(thing).get(key), value, f"{name}.{key}")
    return thing


def _put_items(thing: Any, kind: str, states: list[Any], name: str) -> Any:
    there = list(thing) if isinstance(thing, list | tuple | deque) else []
    there += [None] * (len(states) - len(there))
    items = [
        _put(one, state, f"{name}[{index}]")
        for index, (one, state) in enumerate(zip(there, states, strict=False))
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


def _left_out(thing: Any) -> set[str]:
    return {name for kind, names in _LEFT_OUT.items() if isinstance(thing, kind) for name in names}


def _class_name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _as_tensor(array: NDArray[Any], name: str) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    except TypeError as error:
        raise ValueError(f"expected numbers in {name}, got an array of {array.dtype}") from error
