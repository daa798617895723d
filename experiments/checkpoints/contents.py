"""Whether the contents of a checkpoint are those of the run that resumes from it."""

from pathlib import Path
from typing import Any

from vit_patch_env.checks import InputError


def check_checkpoint(state: Any, run_config: Any, folder: Path) -> None:
    """Require a loaded checkpoint to be one of this run.

    Args:
        state: the contents of the file.
        run_config: of the run that resumes.
        folder: of the checkpoint, for the error message.

    Raises:
        ValueError: if it is another file, or a checkpoint of a run with another configuration.
    """
    if not isinstance(state, dict) or "n_steps" not in state or "run_config" not in state:
        raise InputError(f"expected a run's checkpoint in {folder}, got another file")
    if state["run_config"] != run_config:
        raise InputError(
            f"expected a checkpoint of this run in {folder}, got one of another: "
            f"{_difference(state['run_config'], run_config)}"
        )


def _difference(found: Any, expected: Any) -> str:
    """The values in which two configurations differ."""
    if not (isinstance(found, dict) and isinstance(expected, dict)):
        return f"{found}, expected {expected}"
    return ", ".join(
        f"{name} {found.get(name)} instead of {expected.get(name)}"
        for name in {**found, **expected}
        if found.get(name) != expected.get(name)
    )
