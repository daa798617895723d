"""The folder of a pretraining that is not finished: its options and checkpoints."""

import shutil
import warnings
from pathlib import Path

from vit_patch_env.arguments import from_json, to_json
from vit_patch_env.checks import ArgumentError, InputError, named
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.options.commands import PretrainOptions
from vit_patch_env.experiments.options.flat import replaced
from vit_patch_env.experiments.options.resumed import given_changes
from vit_patch_env.experiments.run_folder.folder import CHECKPOINTS, CONFIG, write_json
from vit_patch_env.reading import read_json
from vit_patch_env.system.files import remove_partial


class PretrainFolder:
    """Beside the agent's file, until pretraining is finished.

    Args:
        agent: the agent's file.

    Attributes:
        path: of the folder.
        checkpoints: folder of the checkpoints.
    """

    def __init__(self, agent: Path) -> None:
        self.agent = agent
        self.path = agent.with_name(f"{agent.stem}.unfinished")
        self.checkpoints = self.path / CHECKPOINTS

    @property
    def exists(self) -> bool:
        """Whether there is a pretraining to resume."""
        return (self.path / CONFIG).is_file()

    def create(self, options: PretrainOptions, compiled_attention: bool | None) -> None:
        """Make it that of a new pretraining."""
        self.prepare()
        CheckpointFolder(self.checkpoints).clear()
        content = {"options": to_json(options), "compiled_attention": compiled_attention}
        write_json(self.path / CONFIG, content)

    def prepare(self) -> None:
        """Remove temporary files that killed processes left."""
        CheckpointFolder(self.checkpoints).remove_partial()
        remove_partial(self.path)

    def check_path(self) -> None:
        """Refuse a link in place of the folder.

        Raises:
            ArgumentError: for one.
        """
        if self.path.is_symlink():
            raise ArgumentError("out", f"must have no link beside it, got {self.path}")

    def check_none_unfinished(self) -> None:
        """Refuse to begin where a pretraining was interrupted.

        Raises:
            ArgumentError: saying how to resume it.
        """
        if self.exists:
            raise ArgumentError(
                "out",
                f"must be a new file, got {self.agent}, whose pretraining was interrupted: resume "
                f"it ({named('resume')} {self.agent}), or add {named('overwrite')}",
            )

    @property
    def compiled_attention(self) -> bool | None:
        """Whether attention is that of the compiled kernel; None if it is not known."""
        recorded = read_json(self.path / CONFIG).get("compiled_attention")
        return recorded if isinstance(recorded, bool) else None

    def resumed_options(self, options: PretrainOptions) -> PretrainOptions:
        """The options of the pretraining, with the values that may change.

        Raises:
            ValueError: if there is none to resume, or a given value must not change.
        """
        if not self.exists:
            raise ArgumentError(
                "resume",
                f"must be the file of an interrupted pretraining, got {self.agent}: there is no "
                f"{self.path / CONFIG}",
            )
        try:
            saved = from_json(PretrainOptions, read_json(self.path / CONFIG).get("options"))
        except ArgumentError as error:
            raise InputError(
                f"expected this version's options in {self.path / CONFIG}, got: {error}"
            ) from error
        changes = given_changes(options, saved, "the resumed pretraining")
        if Path(changes.get("out", self.agent)) != self.agent:
            raise ArgumentError(
                "out", f"must be the resumed file, {self.agent}, got {changes['out']}"
            )
        own = {"out": str(self.agent), "resume": None, "overwrite": False}
        return replaced(saved, {**changes, **own})

    def remove(self) -> None:
        """Remove it, as pretraining is finished."""
        (self.path / CONFIG).unlink(missing_ok=True)  # first: without it there is none to resume
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            warnings.warn(f"{self.path} cannot be removed: {error.strerror}", stacklevel=2)
