"""The methods of a comparison: those of the table, and agents in files, which it copies."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_patch_env.checks import ArgumentError, InputError, shown
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path, read_card
from vit_patch_env.experiments.compare.methods import METHODS, Method
from vit_patch_env.experiments.run_folder.folder import checksum
from vit_patch_env.system.files import replacing

_FILE = ".zip"

_AGENTS = "agents"
"""The folder of the copies in a comparison's folder, and the field of compare.json."""


def is_file(given: str) -> bool:
    """Whether a text names the file of an agent."""
    return given.endswith(_FILE)


def method_key(given: str) -> str:
    """A method's name in files and folders: that of an agent's file is without its ending."""
    return Path(given).stem if is_file(given) else given


def find_methods(given: Iterable[str]) -> dict[str, Method]:
    """Methods by their keys, which differ, given by names and agents' files.

    Raises:
        ArgumentError: for a name that does not exist, or a file that is no agent's or cannot be
            told from another method by its name.
    """
    return {method_key(one): _of_file(one) if is_file(one) else _of_name(one) for one in given}


def _of_name(name: str) -> Method:
    if name not in METHODS:
        raise ArgumentError(
            "methods",
            f"must be one of {', '.join(METHODS)}, or the file of an agent, which ends in {_FILE}, "
            f"got {shown(name)}",
        )
    return METHODS[name]


def _of_file(path: str) -> Method:
    key = method_key(path)
    if not re.fullmatch(r"\w+", key) or key in METHODS:  # it is part of a folder's name
        raise ArgumentError(
            "methods",
            "must have files whose names are letters, digits and underscores, and not those of "
            f"other methods, got {path}",
        )
    try:
        card = read_card(Path(path))
    except ArgumentError as error:
        raise ArgumentError("methods", f"must have agents' files, got {path}: {error}") from error
    source = f"an agent in a file, {card.agent}, which does not learn"
    return Method(key, "agent", source, agent=path, observation=card.observation)


def agents_of(methods: Mapping[str, Method]) -> dict[str, dict[str, str]]:
    """Path or name, and checksum, of each agent in a file, by its key, as compare.json has them.

    The one that ships with the package is one of them: other versions ship others.
    """
    files = {key: agent_path(method.agent) for key, method in methods.items()}
    return {
        key: {"path": methods[key].agent, "sha256": checksum(file)}
        for key, file in files.items()
        if file is not None
    }


def check_same_agents(
    saved: Mapping[str, Any], agents: Mapping[str, Mapping[str, str]], folder: Path
) -> None:
    """Refuse agents that are not those of the runs in a folder.

    Args:
        saved: content of compare.json.
        agents: of this call, by `agents_of`.
        folder: of the comparison.

    Raises:
        ValueError: naming the agent, or for a compare.json that lacks one.
    """
    of_runs = saved.get(_AGENTS, {})
    wrong = [key for key in of_runs if _is_no_file(key) or key not in saved["methods"]]
    if wrong:
        raise InputError(f"{folder}: damaged: expected agents of its methods, got {wrong[0]!r}")
    for key, agent in agents.items():
        if (
            key in saved.get("methods", ())
            and of_runs.get(key, {}).get("sha256") != agent["sha256"]
        ):
            raise _another_agent(agent["path"], folder)


def with_copies(
    methods: Mapping[str, Method], agents: Mapping[str, Mapping[str, str]], folder: Path
) -> dict[str, Method]:
    """The methods, with copies of agents' files in a folder, which later changes do not affect.

    Args:
        methods: of this call.
        agents: of them, by `agents_of`.
        folder: of the comparison.

    Raises:
        ArgumentError: if the folder has a copy of another agent of the same name.
    """
    kept = dict(methods)
    for key, agent in agents.items():
        if key in METHODS:  # it ships with the package
            continue
        copy = folder / _AGENTS / f"{key}{_FILE}"
        if copy.exists() and checksum(copy) != agent["sha256"]:
            raise _another_agent(agent["path"], folder)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with replacing(copy) as unfinished:
                shutil.copyfile(agent["path"], unfinished)
        kept[key] = methods[key]._replace(agent=str(copy.resolve()))
    return kept


def _is_no_file(key: str) -> bool:
    """Whether a method is known, and is none with an agent in a file."""
    return key in METHODS and agent_path(METHODS[key].agent) is None


def _another_agent(path: str, folder: Path) -> ArgumentError:
    return ArgumentError(
        "methods", f"must have the same agents as the runs in {folder}, got another one in {path}"
    )
