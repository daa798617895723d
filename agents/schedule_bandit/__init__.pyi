from .context import RunContext
from .options import ScheduleOptions
from .policy import SchedulePolicy
from .schedule_bandit import ScheduleBandit

__all__ = ["RunContext", "ScheduleBandit", "ScheduleOptions", "SchedulePolicy"]
