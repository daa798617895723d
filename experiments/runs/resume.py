"""The options that a run is resumed with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vit_patch_env.checks import ArgumentError, check_utf8
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path
from vit_patch_env.experiments.agents_by_name.factory import resolve_agent
from vit_patch_env.experiments.agents_by_name.table import AGENTS
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import flat, replaced, same_run
from vit_patch_env.experiments.options.resumed import given_changes, given_values
from vit_patch_env.experiments.process.messages import say
from vit_patch_env.experiments.run_folder.folder import CONFIG, RESULT_FILES, RunFolder, check_holds
from vit_patch_env.experiments.runs.extension import LENGTHS, Extension, extension
from vit_patch_env.experiments.runs.own_files import with_own_files


def resumed_options(options: TrainOptions) -> tuple[TrainOptions, Extension | None]:
    """The options of the run in the folder `options.resume`, with the values that may change.

    Returns:
        The options, and how the run is extended, if it is.

    Raises:
        ValueError: if there is no run to resume, or a given value must not change.
    """
    assert options.resume is not None
    folder = RunFolder(options.resume)
    check_holds(folder.path, CONFIG, "resume", "the folder of a run")
    saved = folder.options
    options = with_absolute_paths(options)
    if options.out is not None:
        raise ArgumentError(
            "out", f"must be the folder of the resumed run, {folder.path}, got {options.out}"
        )
    changes = given_changes(options, saved, "the resumed run", besides=LENGTHS)
    given, extended = given_values(options), None
    for name in LENGTHS:
        if name in given and given[name] != getattr(saved.env, name):
            own_agent = with_own_files(folder, saved)
            extended = extension(own_agent, name, given[name], agreed=options.extend)
    if options.extend and extended is None:
        raise ArgumentError("extend", "is for more epochs or seconds than the run had, got none")
    if folder.is_finished and extended is None:
        raise ArgumentError(
            "resume",
            f"must be an unfinished run, or be extended by more epochs or seconds, got "
            f"{folder.path}: see its metrics with vit-patch evaluate {folder.path}",
        )
    if extended is not None:
        if folder.is_finished:
            folder.check_files(*RESULT_FILES)
        changes[extended.name] = extended.after
    own = {"out": str(folder.path), "resume": None, "overwrite": False, "extend": False}
    return replace(replaced(saved, {**changes, **own}), given=_to_name(saved)), extended


def _to_name(saved: TrainOptions) -> tuple[str, ...]:
    """The observation, if it is that of the environment where the agent's default is another."""
    kind = AGENTS.get(saved.agent)
    usual = EnvConfig.observation if kind is None else kind.observation
    is_usual = usual in (None, EnvConfig.observation)
    return () if is_usual or saved.env.observation != EnvConfig.observation else ("observation",)


def resumed_if_possible(options: TrainOptions) -> TrainOptions:
    """The options to resume the run in `options.out` if possible, else those of a new run."""
    assert options.out is not None
    folder = RunFolder(options.out)
    options = with_absolute_paths(options)
    if not folder.holds_run:
        return options
    try:
        same = run_config(folder.options) == run_config(resolve_agent(options))
        resumable = same and CheckpointFolder(folder.checkpoints).load_newest() is not None
    except ValueError as error:
        say(f"starting from the beginning, as the existing run cannot be resumed: {error}")
        return options
    return replace(options, resume=options.out, out=None) if resumable else options


def run_config(options: Any) -> dict[str, Any]:
    """The values that affect the results of a run, or of a pretraining."""
    may_differ = same_run(options)
    return {name: value for name, value in flat(options).items() if name not in may_differ}


def absolute(env: EnvConfig) -> EnvConfig:
    """The environment's arguments with absolute paths.

    Raises:
        ArgumentError: if it is not text in UTF-8.
    """
    data_dir, weights = (
        None if path is None else str(Path(path).resolve()) for path in (env.data_dir, env.weights)
    )
    check_utf8(data_dir=data_dir, weights=weights)  # also the folders above the given ones
    model: Any = env.model
    family, _, folder = str(model).partition(":")
    if family == "hf" and Path(folder).is_dir():
        model = f"hf:{Path(folder).resolve()}"
        check_utf8(model=model)
    return replace(env, data_dir=data_dir, weights=weights, model=model)


def with_absolute_paths(options: TrainOptions) -> TrainOptions:
    """The options with absolute paths."""
    env, agent, follow = absolute(options.env), options.agent, options.follow
    path = agent_path(agent)
    if path is not None and agent != "pretrained":
        agent = str(path.resolve())
    if follow is not None:
        follow = str(Path(follow).resolve())
    check_utf8(agent=agent, follow=follow)
    return replace(options, env=env, agent=agent, follow=follow)
