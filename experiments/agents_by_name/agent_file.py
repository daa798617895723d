"""Agents in files: what Stable-Baselines3 saves, and a card that describes the agent."""

import io
import json
import math
import zipfile
from dataclasses import field
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env import agents
from vit_patch_env.arguments import arguments, from_json, to_json
from vit_patch_env.checks import ArgumentError, Count, InputError, shown
from vit_patch_env.experiments.options.commands import ActionsName, AgentOptions
from vit_patch_env.experiments.options.saved import with_current_names
from vit_patch_env.reading import MEGABYTE, open_archive, parse_json, read_bytes, read_member
from vit_patch_env.system.files import load_tensors
from vit_patch_env.system.limits import memory_limit

CARD = "vit_patch_env.json"
_CARD_BYTES = MEGABYTE
_TENSORS = ".pth"
_NOT_PARAMETERS = ("pytorch_variables.pth", "tensors.pth")
"""Stable-Baselines3's names for tensors that are not those of a network or an optimizer."""

PRETRAINED = Path(agents.__file__).with_name("pretrained.zip")


@arguments
class AgentCard(AgentOptions):
    """What is needed to construct an agent again.

    Attributes:
        agent: its name on the command line.
        grid: rows and columns of the patches that it selects from, if it has an output or an input
            for each; None for one that decides in shares of the patches, on any grid.
        observation: that it needs.
        actions: how it selects patches: mask, count or top_k.
        provenance: the command, versions and machine that made it.
    """

    agent: str
    grid: tuple[Count, Count] | None
    observation: str
    actions: ActionsName = "mask"
    provenance: dict[str, Any] = field(default_factory=dict)


def save_agent(path: Path, agent: BaseAlgorithm, card: AgentCard) -> None:
    """Write an agent as Stable-Baselines3 saves it, and its card with it."""
    buffer = io.BytesIO()  # since zipfile hides errors in writing
    agent.save(buffer)
    path.write_bytes(buffer.getvalue())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(CARD, json.dumps(to_json(card), indent=2))


def read_card(path: Path) -> AgentCard:
    """The card of an agent's file.

    Raises:
        ArgumentError: if it is not an agent's file.
    """
    try:
        with _archive(path) as archive:
            values = parse_json(read_member(archive, CARD, _CARD_BYTES))
        if not isinstance(values, dict) or not {"agent", "observation"} <= values.keys():
            raise InputError(f"no card, agent and observation, in {CARD}")
        return from_json(AgentCard, with_current_names(_with_grid(values)))
    except InputError as error:
        raise ArgumentError(
            "agent", f"must be a file that vit-patch pretrain wrote, got {path}: {error}"
        ) from error


def _with_grid(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a card with its grid, of which former versions wrote the number of patches.

    Raises:
        InputError: if it has neither.
    """
    if "n_patches" not in values:
        return values
    n_patches = values["n_patches"]
    side = math.isqrt(n_patches) if type(n_patches) is int and n_patches > 0 else 0
    if not side or side**2 != n_patches:
        raise InputError(f"n_patches must be a square number, got {shown(n_patches)}")
    return {name: one for name, one in values.items() if name != "n_patches"} | {
        "grid": [side, side]
    }


def read_parameters(path: Path) -> dict[str, Any]:
    """What an agent's file has for `set_parameters`: the state of each network and optimizer.

    Nothing else of the file is unpacked, and no code in it is executed.

    Raises:
        InputError: if it is not an agent's file; says what came.
    """
    with _archive(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(_TENSORS)]
        if len(set(names)) < len(names):
            raise InputError("a zip file with two members of one name")
        return {
            name.removesuffix(_TENSORS): load_tensors(read_member(archive, name, math.inf))
            for name in names
            if name not in _NOT_PARAMETERS
        }


def _archive(path: Path) -> zipfile.ZipFile:
    return open_archive(read_bytes(path, memory_limit(), "an agent"))


def agent_path(agent: str) -> Path | None:
    """The file of an agent with this name; None for an agent that starts untrained."""
    if agent == "pretrained":
        return PRETRAINED
    return Path(agent) if agent.endswith(".zip") or "/" in agent else None
