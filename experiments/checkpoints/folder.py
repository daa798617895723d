"""The folder of a run's checkpoints, which keeps the newest few."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vit_patch_env.checks import InputError, check_integer
from vit_patch_env.experiments.checkpoints.contents import checkpoint_name
from vit_patch_env.system.files import VersionError, load_state, remove_partial, save_state


class CheckpointFolder:
    """A folder of checkpoints, `step-<steps>.ckpt`.

    Args:
        path: the folder; created with the first checkpoint.
        checkpoints_kept: how many of the newest checkpoints to keep, at least 1.

    Attributes:
        loaded: the checkpoint that `load_newest` returned the state of; None before.

    Raises:
        ValueError: if `checkpoints_kept` is out of range or `path` is a link.
    """

    def __init__(self, path: Path, checkpoints_kept: int = 3) -> None:
        check_integer(1, checkpoints_kept=checkpoints_kept)
        if path.is_symlink():
            raise InputError(f"expected a folder of checkpoints, got the link {path}")
        self.path = path
        self.checkpoints_kept = checkpoints_kept
        self.loaded: Path | None = None

    @property
    def files(self) -> list[Path]:
        """Paths of the checkpoints and of what else has such a name, the newest first."""
        return sorted(self.path.glob("step-*.ckpt"), reverse=True)

    def save(self, step: int, state: Any, *, more: int = 0) -> None:
        """Save a checkpoint, then remove the oldest ones beyond `checkpoints_kept`.

        Args:
            step: number of steps so far.
            state: to be saved.
            more: how many more to keep this time.

        Raises:
            OSError: if it cannot be written; earlier checkpoints are kept.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        save_state(self.path / checkpoint_name(step), state)
        self.keep(self.checkpoints_kept + more)

    def keep(self, n_kept: int) -> None:
        """Remove the oldest checkpoints beyond so many.

        Warns of what cannot be removed.
        """
        self._remove([path for path in self.files if path.is_file()][n_kept:])

    def load_newest(self, wanted: Callable[[Any], bool] = lambda state: True) -> Any | None:
        """Load the newest intact checkpoint, with a warning for each damaged one that is newer.

        Args:
            wanted: whether to take a checkpoint with these contents; others are left out.

        Returns:
            Its state, or None if there are no checkpoints.

        Raises:
            ValueError: if there are checkpoints and all are damaged, or the newest intact one was
                written by another version.
        """
        files, problem = self.files, None
        for path in files:
            try:
                state = load_state(path)
                if wanted(state):
                    self.loaded = path
                    return state
            except VersionError:
                raise  # older checkpoints will not be of a newer version
            except ValueError as error:
                problem = error
                if path != files[-1]:
                    warnings.warn(f"using an older checkpoint: {error}", stacklevel=2)
        if problem is not None:
            raise InputError(f"no checkpoint in {self.path} is intact: {problem}")
        return None

    def clear(self) -> None:
        """Remove all checkpoints, complete or partial, and the folder if it is then empty.

        Warns of what cannot be removed.
        """
        self.remove_partial()
        self._remove(self.files)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing is in it."""
        with suppress(OSError):  # it holds files or does not exist
            self.path.rmdir()

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of steps after this one, from which a run resumes.

        Warns of what cannot be removed.
        """
        self._remove([path for path in self.files if path.name > checkpoint_name(step)])

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            try:
                path.unlink()
            except OSError as error:
                warnings.warn(f"{path} cannot be removed: {error.strerror}", stacklevel=3)

    def remove_partial(self) -> None:
        """Remove partially written checkpoints that killed processes left."""
        remove_partial(self.path)
