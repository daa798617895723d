"""Agents for MultiBinary environments; they know the Gymnasium API and nothing of the ViT."""

from agents.bandit import BanditPolicy, PatchBandit
from agents.multi_output_dqn import BranchingMlpPolicy, MlpPolicy, MultiOutputDQN
from agents.playing import Frozen
from agents.schedules import SCHEDULES, ScheduledCount
from agents.selectors import (
    AllPatches,
    CentrePatches,
    FixedRule,
    MostAttendedPatches,
    RandomPatches,
    SpreadPatches,
)

__all__ = [
    "SCHEDULES",
    "AllPatches",
    "BanditPolicy",
    "BranchingMlpPolicy",
    "CentrePatches",
    "FixedRule",
    "Frozen",
    "MlpPolicy",
    "MostAttendedPatches",
    "MultiOutputDQN",
    "PatchBandit",
    "RandomPatches",
    "ScheduledCount",
    "SpreadPatches",
]
