"""Agents in files: what Stable-Baselines3 saves, and a card that says what the agent is for."""

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from vit_patch_env import agents
from vit_patch_env.experiments.options.commands import DQNOptions
from vit_patch_env.experiments.runs.folder import options_from_json

CARD = "vit_patch_env.json"
PRETRAINED = Path(agents.__file__).with_name("pretrained.zip")


@dataclass(frozen=True)
class AgentCard:
    """What must be known of an agent to make it again.

    Attributes:
        agent: its name on the command line.
        n_patches: that it picks among.
        observation: that it looks at.
        actions: how it names patches: mask, count or top_k.
        sb3: values of a Stable-Baselines3 algorithm.
        dqn: values of the agents paper and branching.
        provenance: the command, versions and machine that made it.
    """

    agent: str
    n_patches: int
    observation: str
    actions: str = "mask"
    sb3: tuple[str, ...] = ()
    dqn: DQNOptions = field(default_factory=DQNOptions)
    provenance: dict[str, Any] = field(default_factory=dict)


def save_agent(path: Path, agent: BaseAlgorithm, card: AgentCard) -> None:
    """Write an agent as Stable-Baselines3 saves it, and its card with it."""
    buffer = io.BytesIO()  # as an error in writing would not be told as such
    agent.save(buffer)
    path.write_bytes(buffer.getvalue())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(CARD, json.dumps(asdict(card), indent=2))


def read_card(path: Path) -> AgentCard:
    """The card of an agent's file.

    Raises:
        ValueError: if it is none.
    """
    try:
        with zipfile.ZipFile(path) as file:
            card: AgentCard = options_from_json(AgentCard, json.loads(file.read(CARD)))
        return card
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"agent must be a file that vit-patch pretrain wrote, got {path}: {error}"
        ) from error


def agent_path(agent: str) -> Path | None:
    """The file that an agent's name stands for; None for an agent that begins anew."""
    if agent == "pretrained":
        return PRETRAINED
    return Path(agent) if agent.endswith(".zip") or "/" in agent else None
