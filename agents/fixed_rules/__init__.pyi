from .fixed_rule import FixedRule
from .growing import GrowingCount, GrowingOptions
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
    "GrowingCount",
    "GrowingOptions",
    "MostAttendedPatches",
    "RandomPatches",
    "ScheduledCount",
    "SelectorPolicy",
    "SpreadPatches",
]
