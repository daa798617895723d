"""The checkpoints of a run: whole files, of which the last few are kept."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from vit_patch_env.system.files import load_state, remove_partial, save_state


class CheckpointFolder:
    """A folder of checkpoints, `step-<steps>.ckpt`.

    Args:
        path: of the folder, which is made when it is needed.
        keep: checkpoints to keep, at least 1.

    Raises:
        ValueError: for another number, or a link in the folder's place.
    """

    def __init__(self, path: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if path.is_symlink():
            raise ValueError(f"expected a folder of checkpoints, got the link {path}")
        self.path = path
        self.keep = keep

    @property
    def files(self) -> list[Path]:
        """Paths of the checkpoints, the newest first."""
        return sorted(self.path.glob("step-*.ckpt"), reverse=True)

    def write(self, step: int, state: Any) -> None:
        """Write a checkpoint, and remove those that are one too many.

        Raises:
            OSError: if it cannot be written; those that are there stay.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        save_state(self.path / self._name(step), state)
        for path in self.files[self.keep :]:
            path.unlink()

    def _name(self, step: int) -> str:
        return f"step-{step:012}.ckpt"

    def newest(self) -> Any | None:
        """The newest checkpoint that is whole; None where there are none. A damaged one is named.

        Raises:
            ValueError: if there are some, and none is whole.
        """
        files, problem = self.files, None
        for path in files:
            try:
                return load_state(path)
            except ValueError as error:
                problem = error
                if path != files[-1]:
                    warnings.warn(f"an older checkpoint is taken: {error}", stacklevel=2)
        if problem is not None:
            raise ValueError(f"no checkpoint in {self.path} is whole: {problem}")
        return None

    def clear(self) -> None:
        """Remove all checkpoints, what a process that died left of one, and the empty folder."""
        self.remove_partial()
        for path in self.files:
            path.unlink()
        with suppress(OSError):  # it holds something else, or is not there
            self.path.rmdir()

    def remove_after(self, step: int) -> None:
        """Remove checkpoints of later steps: a run goes on from this one."""
        for path in self.files:
            if path.name > self._name(step):
                path.unlink()

    def remove_partial(self) -> None:
        """Remove what a process that died left of a checkpoint."""
        remove_partial(self.path)
