"""What a run takes from elsewhere: its folder keeps a copy, so that it can be resumed without."""

from dataclasses import replace
from pathlib import Path

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import (
    CONFIG,
    FOLLOWED,
    GIVEN_AGENT,
    RESULT,
    RunFolder,
)
from vit_patch_env.experiments.run_folder.tables import STEPS
from vit_patch_env.reading import read_bytes
from vit_patch_env.system.limits import memory_limit


def read_own_files(options: TrainOptions) -> dict[str, bytes]:
    """The agent's file, and those of the run that is followed, by their paths in the run's folder.

    Raises:
        ArgumentError: if one of them cannot be read.
    """
    contents = {}
    path = agent_path(options.agent)
    if path is not None:
        contents[GIVEN_AGENT] = _content("agent", path)
    if options.follow is not None:
        for name in (STEPS, CONFIG, RESULT):
            contents[f"{FOLLOWED}/{name}"] = _content("follow", Path(options.follow) / name)
    return contents


def with_own_files(folder: RunFolder, options: TrainOptions) -> TrainOptions:
    """The options with the paths of these copies; those of earlier versions have none."""
    given, followed = folder.path / GIVEN_AGENT, folder.path / FOLLOWED
    if agent_path(options.agent) is not None and given.is_file():
        options = replace(options, agent=str(given.resolve()))
    if options.follow is not None and (followed / RESULT).is_file():
        options = replace(options, follow=str(followed.resolve()))
    return options


def _content(option: str, path: Path) -> bytes:
    try:
        return read_bytes(path, memory_limit(), "a file")
    except InputError as error:
        raise ArgumentError(option, f"must be readable: {error}") from error
