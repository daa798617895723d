"""Loading of agents that were saved before names in this package changed."""

import base64
import io
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from annotated_types import Interval
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from vit_patch_env.arguments import declared
from vit_patch_env.checks import check
from vit_patch_env.reading import MEGABYTE, open_archive, parse_json, read_bytes, read_member

Seed = Annotated[int | None, Interval(ge=0, le=2**32 - 1)]
"""Of NumPy's global generator, which Stable-Baselines3 seeds."""

Count = Annotated[int, Interval(ge=1)]

_DATA_BYTES = 256 * MEGABYTE
"""Of the attributes of an algorithm, as JSON; a rule's numbers of patches are among them."""

SelfSavedAlgorithm = TypeVar("SelfSavedAlgorithm", bound="SavedAlgorithm")

MOVED_MODULES: Mapping[str, str] = {
    "agents.bandit.bandit": "vit_patch_env.agents.bandit.bandit",
    "agents.bandit.policies": "vit_patch_env.agents.bandit.policies",
    "agents.multi_output_dqn.policies": "vit_patch_env.agents.multi_output_dqn.policies",
    "agents.schedules": "vit_patch_env.agents.fixed_rules.schedules",
    "agents.selectors": "vit_patch_env.agents.fixed_rules.rules",
}
"""Where the classes of a module are now, by the module that older files name."""


class SavedAlgorithm(BaseAlgorithm):
    """An algorithm whose `load` also reads files with former names of classes and arguments.

    Seeds and sizes may be NumPy's integers.

    Attributes:
        renamed: current name by former name, of attributes and of policy_kwargs.
        options: the class that declares the hyperparameters.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    options: ClassVar[Any] = None

    def __init__(
        self, *args: Any, seed: int | None = None, stats_window_size: int = 100, **kwargs: Any
    ) -> None:
        kwargs["seed"] = check(Seed, seed=seed)
        kwargs["stats_window_size"] = check(Count, stats_window_size=stats_window_size)
        super().__init__(*args, **kwargs)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the agent, its environment and the global generators.

        Raises:
            ValueError: for a seed that is not an integer in [0, 2**32 - 1].
        """
        super().set_random_seed(check(Seed, seed=seed))

    @classmethod
    def load(
        cls: type[SelfSavedAlgorithm],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SelfSavedAlgorithm:
        """Load an agent; arguments as in Stable-Baselines3.

        Raises:
            ValueError: for a hyperparameter outside its range.
        """
        kwargs = cls._checked_arguments(kwargs)
        data = _read_data(path)
        objects = {name: _unpickle(item) for name, item in data.items() if _has_moved(item)}
        policy_kwargs = _unpickle(data.get("policy_kwargs", {}))
        if cls.renamed.keys() & policy_kwargs.keys():
            objects["policy_kwargs"] = {
                cls.renamed.get(name, name): value for name, value in policy_kwargs.items()
            }
        if "observation_space" in data:
            objects["observation_space"] = _unbounded(_unpickle(data["observation_space"]))
        former = cls.renamed.keys() & data.keys()
        values = {cls.renamed[name]: data[name] for name in former}
        objects |= custom_objects or {}
        model = super().load(path, env, device, objects, *args, **(values | kwargs))
        for name in former:
            delattr(model, name)
        if "seed" in kwargs:  # as otherwise the random stream continues
            model.set_random_seed(kwargs["seed"])
        return model

    @classmethod
    def _checked_arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Values for attributes, of which the hyperparameters are checked."""
        known = {one.name: one.annotation for one in declared(cls.options)} if cls.options else {}
        return {
            # A schedule or a tuple is Stable-Baselines3's to check.
            name: check(known[name], **{name: value})
            if name in known and not callable(value) and not isinstance(value, tuple)
            else value
            for name, value in given.items()
        }


def _unbounded(space: Any) -> Any:
    """An observation space without the bounds of ±3.4e38 that stood for none before version 0.2."""
    if not isinstance(space, spaces.Box) or space.dtype != np.float32:
        return space
    largest = np.finfo(np.float32).max
    low = np.where(space.low == -largest, -np.inf, space.low).astype(np.float32)
    high = np.where(space.high == largest, np.inf, space.high).astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(MOVED_MODULES.get(module, module), name)


def _read_data(path: str | Path | io.BufferedIOBase) -> dict[str, Any]:
    """The attributes in a saved file, as in its JSON; empty if Stable-Baselines3 will reject it.

    Raises:
        InputError: for a file that unpacks to much more than its size.
    """
    content = _content(path)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return {}
    with open_archive(content) as archive:
        if "data" not in archive.namelist():
            return {}
        data = parse_json(read_member(archive, "data", _DATA_BYTES))
    return data if isinstance(data, dict) else {}


def _content(path: str | Path | io.BufferedIOBase) -> bytes:
    """The content of a file, with the name that Stable-Baselines3 finds it by; empty if missing."""
    if not isinstance(path, str | Path):
        content = path.read()
        path.seek(0)
        return content
    for name in (Path(path), Path(f"{path}.zip")):
        if name.exists():
            return read_bytes(name, math.inf, "an agent")
    return b""


def _pickled(item: Any) -> bytes:
    """The pickle that Stable-Baselines3 stores of an object; empty for plain JSON values."""
    text = item.get(":serialized:", "") if isinstance(item, dict) else ""
    return base64.b64decode(text)


def _has_moved(item: Any) -> bool:
    pickled = _pickled(item)
    names = "|".join(map(re.escape, MOVED_MODULES)).encode()
    return re.search(rb"(?<!vit_patch_env\.)(" + names + rb")(?!\w)", pickled) is not None


def _unpickle(item: Any) -> Any:
    pickled = _pickled(item)
    return _Unpickler(io.BytesIO(pickled)).load() if pickled else item
