from .bandit import BanditOptions, BanditPolicy, PatchBandit
from .common.frozen import Frozen
from .fixed_rules import (
    RULES,
    SCHEDULES,
    AllPatches,
    CentrePatches,
    FixedRule,
    GrowingCount,
    GrowingOptions,
    MostAttendedPatches,
    RandomPatches,
    ScheduledCount,
    SelectorPolicy,
    SpreadPatches,
)
from .multi_output_dqn import (
    BranchingMlpPolicy,
    CountMlpPolicy,
    DQNOptions,
    MlpPolicy,
    MultiOutputDQN,
)
from .schedule_bandit import RunContext, ScheduleBandit, ScheduleOptions, SchedulePolicy

__all__ = [
    "RULES",
    "SCHEDULES",
    "AllPatches",
    "BanditOptions",
    "BanditPolicy",
    "BranchingMlpPolicy",
    "CentrePatches",
    "CountMlpPolicy",
    "DQNOptions",
    "FixedRule",
    "Frozen",
    "GrowingCount",
    "GrowingOptions",
    "MlpPolicy",
    "MostAttendedPatches",
    "MultiOutputDQN",
    "PatchBandit",
    "RandomPatches",
    "RunContext",
    "ScheduleBandit",
    "ScheduleOptions",
    "SchedulePolicy",
    "ScheduledCount",
    "SelectorPolicy",
    "SpreadPatches",
]
