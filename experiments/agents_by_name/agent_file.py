"""Agents in files: what Stable-Baselines3 saves, and a card that describes the agent."""

import io
import json
import zipfile
from dataclasses import field
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env import agents
from vit_patch_env.arguments import arguments, from_json, to_json
from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.options.commands import ActionsName, AgentOptions
from vit_patch_env.experiments.options.saved import with_current_names
from vit_patch_env.names import ObservationName

CARD = "vit_patch_env.json"
PRETRAINED = Path(agents.__file__).with_name("pretrained.zip")


@arguments
class AgentCard(AgentOptions):
    """What is needed to construct an agent again.

    Attributes:
        agent: its name on the command line.
        n_patches: number of patches that it selects from.
        observation: that it needs.
        actions: how it selects patches: mask, count or top_k.
        provenance: the command, versions and machine that made it.
    """

    agent: str
    n_patches: int
    observation: ObservationName
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
        with zipfile.ZipFile(path) as file:
            values = with_current_names(json.loads(file.read(CARD)))
        return from_json(AgentCard, values)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArgumentError(
            "agent", f"must be a file that vit-patch pretrain wrote, got {path}: {error}"
        ) from error


def agent_path(agent: str) -> Path | None:
    """The file of an agent with this name; None for an agent that starts untrained."""
    if agent == "pretrained":
        return PRETRAINED
    return Path(agent) if agent.endswith(".zip") or "/" in agent else None
