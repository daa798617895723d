"""The folder of a pretraining that is not finished: its options and checkpoints."""

import shutil
from pathlib import Path
from typing import Any

from vit_patch_env.arguments import from_json, to_json
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.options.commands import PretrainOptions
from vit_patch_env.experiments.options.flat import flat, replaced, same_run
from vit_patch_env.experiments.run_folder.folder import CHECKPOINTS, CONFIG, write_json
from vit_patch_env.reading import read_json


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
        CheckpointFolder(self.checkpoints).clear()
        content = {"options": to_json(options), "compiled_attention": compiled_attention}
        write_json(self.path / CONFIG, content)

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
        given, defaults, before = flat(options), flat(PretrainOptions()), flat(saved)
        may_differ = same_run(options)
        for name, value in given.items():
            is_given = name in options.given or value != defaults[name]
            if name not in may_differ and is_given and value != before[name]:
                raise ArgumentError(
                    name, f"must be that of the resumed pretraining, {before[name]}, got {value}"
                )
        changes: dict[str, Any] = {
            name: given[name] for name in may_differ if given[name] != defaults[name]
        }
        return replaced(saved, {**changes, "out": str(self.agent), "resume": None})

    def remove(self) -> None:
        """Remove it, as pretraining is finished."""
        shutil.rmtree(self.path, ignore_errors=True)
