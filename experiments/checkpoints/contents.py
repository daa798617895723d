"""Whether the contents of a checkpoint are those of the run that resumes from it."""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vit_patch_env.checks import InputError, named, shown

_Count = Annotated[int, Interval(ge=0, le=2**63 - 1)]


class _Contents(TypedDict):
    """A checkpoint: snapshots are tuples of their kind and content."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    run_config: Any
    n_steps: _Count
    n_calls: _Count
    agent: tuple[Any, ...]
    generators: tuple[Any, ...]
    transitions: tuple[Any, ...]
    environments: list[tuple[Any, ...]]
    callback: Any
    extra: dict[str, tuple[Any, ...]]
    ended: bool


_CONTENTS = TypeAdapter(_Contents)


def checkpoint_name(step: Any) -> str:
    """The name of a step's checkpoint; of what is no step, that of none."""
    return f"step-{step:012}.ckpt" if type(step) is int else ""


def check_checkpoint(state: Any, run_config: Any, path: Path) -> None:
    """Require a loaded checkpoint to be one of this run.

    Args:
        state: the contents of the file.
        run_config: of the run that resumes.
        path: of the checkpoint, for the error message.

    Raises:
        ValueError: if it is another file, or a checkpoint of a run with another configuration.
    """
    if not isinstance(state, dict) or "n_steps" not in state or "run_config" not in state:
        raise InputError(f"expected a run's checkpoint in {path}, got another file")
    if path.name != checkpoint_name(state["n_steps"]):  # by which it is newer or older than others
        raise InputError(
            f"expected the checkpoint of that step in {path}, got step {shown(state['n_steps'])}"
        )
    if not is_same(state["run_config"], run_config):
        raise InputError(
            f"expected a checkpoint of this run in {path}, got one of another: "
            f"{_difference(state['run_config'], run_config)}"
        )
    try:
        _CONTENTS.validate_python(state)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"expected a run's checkpoint in {path}, got {name} {shown(first['input'])}"
        ) from error


def is_same(found: Any, expected: Any) -> bool:
    """Whether two configurations are equal; tensors are none."""
    try:
        return bool(found == expected)
    except (RuntimeError, TypeError, ValueError):  # raised by tensors of other shapes
        return False


def as_of(state: dict[str, Any], run_config: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's contents as those of the run after it was extended.

    Args:
        state: the contents, of the run before.
        run_config: of the run now, whose environments have arguments of the same names.
    """
    before = state["run_config"]
    changes = {name: value for name, value in run_config.items() if before.get(name) != value}
    environments = [_with_arguments(layer, changes) for layer in state["environments"]]
    return {**state, "run_config": run_config, "environments": environments}


def _with_arguments(layer: Any, changes: dict[str, Any]) -> Any:
    """A snapshot of a layer of an environment, with other arguments if it holds them."""
    kind, name, content, attributes = layer
    if content is None:
        return layer
    entries = dict(content[1])
    if "arguments" not in entries:
        return layer
    arguments = dict(entries["arguments"][1])
    arguments |= {key: value for key, value in changes.items() if key in arguments}
    entries["arguments"] = ("dict", list(arguments.items()))
    return kind, name, ("dict", list(entries.items())), attributes


def _difference(found: Any, expected: Any) -> str:
    """The values in which two configurations differ."""
    if not (isinstance(found, dict) and isinstance(expected, dict)):
        return f"{shown(found)}, expected {shown(expected)}"
    return ", ".join(
        f"{named(name)} {found.get(name)} instead of {expected.get(name)}"
        for name in {**found, **expected}
        if not is_same(found.get(name), expected.get(name))
    )
