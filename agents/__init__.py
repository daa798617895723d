"""Agents for MultiBinary environments; they know the Gymnasium API and nothing of the ViT."""

from vit_patch_env.agents.bandit import BanditPolicy, PatchBandit
from vit_patch_env.agents.common.playing import Frozen
from vit_patch_env.agents.fixed_rules.rules import (
    AllPatches,
    CentrePatches,
    FixedRule,
    MostAttendedPatches,
    RandomPatches,
    SpreadPatches,
)
from vit_patch_env.agents.fixed_rules.schedules import SCHEDULES, ScheduledCount
from vit_patch_env.agents.multi_output_dqn import BranchingMlpPolicy, MlpPolicy, MultiOutputDQN

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
