from .progress import count_step_flops
from .schedule import PatchSchedule

__all__ = ["PatchSchedule", "count_step_flops"]
