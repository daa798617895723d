"""The methods of a comparison: those of the table, and agents in files."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vit_patch_env.checks import ArgumentError, shown
from vit_patch_env.experiments.agents_by_name.agent_file import read_card
from vit_patch_env.experiments.compare.methods import METHODS, Method
from vit_patch_env.experiments.run_folder.folder import checksum

_FILE = ".zip"


def is_file(method: str) -> bool:
    """Whether a method is given by the file of an agent."""
    return method.endswith(_FILE)


def method_key(method: str) -> str:
    """The name of a method in files and folders: that of an agent's file is without its ending."""
    return Path(method).stem if is_file(method) else method


def find_method(method: str) -> Method:
    """The method of a name or of an agent's file.

    Raises:
        ArgumentError: for a name that does not exist, or a file that is no agent's or cannot be
            told from a method by its name.
    """
    if not is_file(method):
        if method not in METHODS:
            raise ArgumentError(
                "methods",
                f"must be one of {', '.join(METHODS)}, or the file of an agent, such as agent.zip, "
                f"got {shown(method)}",
            )
        return METHODS[method]
    key = method_key(method)
    if not re.fullmatch(r"\w+", key) or key in METHODS:  # it is part of a folder's name
        raise ArgumentError(
            "methods",
            "must have files whose names are letters, digits and underscores, and not those of "
            f"other methods, got {method}",
        )
    card = read_card(Path(method))
    title = key.replace("_", " ").capitalize()
    source = f"the agent of a file, {card.agent}, frozen"
    return Method(title, "agent", source, agent=method, observation=card.observation)


def described(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What compare.json has of each method: titles, groups, sources and agents, by its key.

    Raises:
        ArgumentError: as `find_method`.
    """
    content: dict[str, dict[str, Any]] = {
        name: {} for name in ("titles", "groups", "sources", "agents")
    }
    for name in methods:
        method, key = find_method(name), method_key(name)
        content["titles"][key] = method.title
        content["groups"][key] = method.group
        content["sources"][key] = method.source
        if is_file(name):
            content["agents"][key] = {"path": name, "sha256": checksum(Path(name))}
    return content
