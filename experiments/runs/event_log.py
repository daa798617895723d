"""TensorBoard's event files of a run, written without failing when the disk is full."""

import errno
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

_NEEDED_BYTES = 2**20
_RETRY_SECONDS = 60.0


class EventLog(TensorBoardOutputFormat):
    """Stable-Baselines3's TensorBoard output, which warns and retries if it cannot write.

    Points that could not be written are lost; the run's tables contain every epoch.

    Args:
        folder: of the run.
        from_step: the first step to log when a run is resumed; TensorBoard hides the points of
            earlier files from this step on. None for a new run.
    """

    writer: SummaryWriter | None  # type: ignore[assignment]  # None until it can write

    def __init__(self, folder: Path, from_step: int | None = None) -> None:
        self.folder = folder
        self.from_step = from_step
        self.writer = None
        self._is_closed = False
        self._retry_at = 0.0

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write the values of a step."""
        if time.monotonic() < self._retry_at:
            return
        try:
            # Checked first, since the thread of SummaryWriter does not survive a failed write.
            if shutil.disk_usage(self.folder).free < _NEEDED_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.writer is None:
                self.writer = SummaryWriter(str(self.folder), purge_step=self.from_step)
            super().write(key_values, key_excluded, step)
        except OSError as error:
            self.writer = None
            self.from_step = step
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            warnings.warn(
                f"TensorBoard's points cannot be written to {self.folder}: {error.strerror}; the "
                f"run continues, and writing is retried in {_RETRY_SECONDS:.0f} s",
                stacklevel=2,
            )

    def close(self) -> None:
        """Write the remaining points and close the file."""
        try:
            super().close()
        except OSError as error:
            warnings.warn(f"TensorBoard's last points are lost: {error}", stacklevel=2)
