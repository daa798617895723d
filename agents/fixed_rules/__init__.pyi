from .fixed_rule import FixedRule
from .rules import (
    RULES,
    AllPatches,
    CentrePatches,
    MostAttendedPatches,
    RandomPatches,
    SpreadPatches,
)
from .schedules import SCHEDULES, ScheduledCount
from .selector_policy import SelectorPolicy

__all__ = [
    "RULES",
    "SCHEDULES",
    "AllPatches",
    "CentrePatches",
    "FixedRule",
    "MostAttendedPatches",
    "RandomPatches",
    "ScheduledCount",
    "SelectorPolicy",
    "SpreadPatches",
]
