"""What a run takes from elsewhere: its folder keeps a copy, so that it can be resumed without."""

from dataclasses import replace
from pathlib import Path

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import FOLLOWED, GIVEN_AGENT, RESULT, RunFolder
from vit_patch_env.experiments.run_folder.tables import STEPS
from vit_patch_env.reading import read_bytes
from vit_patch_env.system.files import replacing
from vit_patch_env.system.limits import memory_limit


def keep_own_files(folder: RunFolder, options: TrainOptions) -> None:
    """Copy the file of the run's agent, and the steps of the run it follows, to its folder.

    Raises:
        ArgumentError: if one of them cannot be read.
        OSError: if a copy cannot be written.
    """
    path = agent_path(options.agent)
    if path is not None:
        _copy("agent", path, folder.path / GIVEN_AGENT)
    if options.follow is not None:
        followed = folder.path / FOLLOWED
        followed.mkdir(exist_ok=True)
        for name in (STEPS, RESULT):
            _copy("follow", Path(options.follow) / name, followed / name)


def with_own_files(folder: RunFolder, options: TrainOptions) -> TrainOptions:
    """The options with the paths of these copies; those of earlier versions have none."""
    given, followed = folder.path / GIVEN_AGENT, folder.path / FOLLOWED
    if agent_path(options.agent) is not None and given.is_file():
        options = replace(options, agent=str(given.resolve()))
    if options.follow is not None and (followed / RESULT).is_file():
        options = replace(options, follow=str(followed.resolve()))
    return options


def _copy(option: str, source: Path, target: Path) -> None:
    try:
        content = read_bytes(source, memory_limit(), "a file")
    except InputError as error:
        raise ArgumentError(option, f"must be readable: {error}") from error
    with replacing(target) as partial:
        partial.write_bytes(content)
