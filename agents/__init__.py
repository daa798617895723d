"""Agents for MultiBinary environments; they know the Gymnasium API and nothing of the ViT."""

from agents.multi_output_dqn import BranchingMlpPolicy, MlpPolicy, MultiOutputDQN
from agents.schedules import SCHEDULES
from agents.selectors import (
    AllPatches,
    CentrePatches,
    FixedRule,
    MostAttendedPatches,
    RandomPatches,
)

__all__ = [
    "SCHEDULES",
    "AllPatches",
    "BranchingMlpPolicy",
    "CentrePatches",
    "FixedRule",
    "MlpPolicy",
    "MostAttendedPatches",
    "MultiOutputDQN",
    "RandomPatches",
]
