"""`vit-patch train`: one run, from options to a run folder."""

import multiprocessing.connection
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO, cast

import gymnasium as gym
import torch
from rich.console import Console
from safetensors.torch import save_model
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from vit_patch_env import ENV_ID, CountAction, Episode, Selector, ViTPatchSelectEnv
from vit_patch_env.checks import check_integer
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import (
    AgentCard,
    agent_path,
    read_card,
    save_agent,
)
from vit_patch_env.experiments.agents_by_name.factory import (
    ACTIONS,
    POLICIES,
    make_agent,
    resolve_agent,
)
from vit_patch_env.experiments.checkpoints.callback import RunCheckpoint
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.checkpoints.interval import parse_interval
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.process.messages import fail, say, show_warning
from vit_patch_env.experiments.process.output import BestEffortOutput
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.runs.display import Display, show_cost, show_result
from vit_patch_env.experiments.runs.event_log import EventLog
from vit_patch_env.experiments.runs.folder import OF_THE_FOLDER, RunFolder, device_name
from vit_patch_env.experiments.runs.monitor import EpochFigures, TrainingMonitor
from vit_patch_env.experiments.runs.tables import RunTables

RETRY_SECONDS = 60.0
N_TRIES = 5
"""How often, and how far apart, results are tried to be written to a disk that is full."""


class Run:
    """A run that is ready to train: everything a user can get wrong has been checked.

    Args:
        options: of the run; with `resume`, of how to go on with it.
        console: where progress and results are shown.

    Raises:
        ValueError: for bad options, unusable data, an output folder that holds a run or that
            another process is at work in, or a run that cannot be gone on with.
    """

    def __init__(self, options: TrainOptions, console: Console) -> None:
        self.console = console
        parse_interval(options.checkpoint_every)
        check_integer(1, checkpoints_kept=options.checkpoints_kept)
        resumes = options.resume is not None
        if resumes:
            options = resumed_options(options)
        check_integer(0, 4294967295, seed=options.seed)  # what Stable-Baselines3 takes
        options = resolve_agent(_with_absolute_paths(options))
        self.options = options
        self.folder = RunFolder(options.out or _default_out(options))
        if not (resumes or options.overwrite):
            self.folder.check_free()
        self.env = make_env(options.env)
        console.print(f"Loading {options.env.dataset} ...", highlight=False)
        self.env.data  # noqa: B018  (loaded now, so that a broken image is found here)
        self.agent = make_agent(options, self.env)
        self.display = Display(console, self.env.epochs if options.env.budget == "epochs" else None)
        self.tables = RunTables(self.folder.path)
        self.monitor = TrainingMonitor(
            log_interval=options.log_interval,
            max_episodes=1,
            hyperparameters=flat(options),
            on_epoch=self._end_epoch,
            on_step=self.display.show_step,
        )
        self.lock = self.folder.lock()
        try:
            if resumes:
                if self.folder.is_finished:
                    raise ValueError(
                        f"resume must be a run that is not finished, got {options.out}"
                    )
                self.folder.prepare()
            else:
                if not options.overwrite:
                    self.folder.check_free()  # again, as it may have come to hold one
                self.folder.create(options)
            self.checkpoint = RunCheckpoint(
                self.folder.checkpoints,
                every=options.checkpoint_every,
                checkpoints_kept=options.checkpoints_kept,
                callback=self.monitor,
                extra={"tables": self.tables},
                run_config={**_course(options), **self.env.image_statistics()},
                resume=resumes,
            )
            self.checkpoint.prepare()
            self.begins_again = resumes and self.checkpoint.resumed_steps is None
        except BaseException:
            self.lock.release()
            raise

    def run(self) -> dict[str, Any]:
        """Train, evaluate on the test images, write the run folder; the content of result.json.

        SIGTERM or Ctrl-C ends it behind a checkpoint, with status 128 and the signal's number; a
        second one ends it at once.
        """
        try:
            with stopping(self._ask_to_stop) as received:
                self._train()
                if self.checkpoint.stopped:
                    say(f"stopped at step {self.checkpoint.saved_steps}; {self._way_on}")
                    sys.exit(128 + received[0])
                return self._finish(received)
        finally:
            self.lock.release()

    def _train(self) -> None:
        env, options = self.env, self.options
        n_train, n_val, n_test = (
            len(split.labels) for split in (env.data.train, env.data.val, env.data.test)
        )
        resumed = self.checkpoint.resumed_steps
        self._say(
            f"{n_train} training, {n_val} validation and {n_test} test images of "
            f"{len(env.data.classes)} classes. "
            f"Training for {_budget_words(options.env, env)}, "
            f"patches picked by {options.agent}"
            + ("" if resumed is None else f", from step {resumed} on")
            + (", from its start, as there is no checkpoint yet" if self.begins_again else "")
            + f". Watch it:\n  tensorboard --logdir {self.folder.path}"
        )
        goes_on = self.begins_again or resumed is not None
        log = EventLog(self.folder.path, (resumed or 0) + 1 if goes_on else None)
        self.agent.set_logger(Logger(str(self.folder.path), [log]))
        try:
            with self.display:
                self.agent.learn(env.max_steps, callback=self.checkpoint)
        except ValueError as error:
            if not self.checkpoint.restoring:
                raise
            fail(str(error))  # the checkpoint's, of another version say
        self.agent.logger.close()

    @property
    def _way_on(self) -> str:
        return f"go on with: vit-patch train --resume {shlex.quote(str(self.folder.path))}"

    def _finish(self, received: list[int]) -> dict[str, Any]:
        """Evaluate and write what is left; where the disk is full, wait for room a while.

        Args:
            received: signals that came, which end the waiting.
        """
        for n_left in reversed(range(N_TRIES)):
            try:
                return self._write_results()
            except OSError as error:
                if not n_left:
                    fail(f"{error}: once there is room, {self._way_on}")
                say(f"{error}: the results are tried again in {RETRY_SECONDS:.0f} s")
            until = time.monotonic() + RETRY_SECONDS
            while time.monotonic() < until and not received:
                time.sleep(0.1)
            if received:
                say(f"stopped without results; {self._way_on}")
                sys.exit(128 + received[0])
        raise AssertionError

    def _write_results(self) -> dict[str, Any]:
        env, agent, folder = self.env, self.agent, self.folder
        self._say(f"Evaluating on {len(env.data.test.labels)} test images ...")
        model = env.last_episode.model
        folder.write(folder.vit, lambda path: save_model(model, str(path)))
        folder.write(folder.agent, lambda path: save_agent(path, agent, self._card()))
        result = {
            "test": evaluate(env, env.last_episode, agent, self.options.actions),
            "train_seconds": self.monitor.clock.train,
            "agent_seconds": self.monitor.clock.agent,
            "n_selected_mean": self.monitor.n_selected_mean,
            "n_steps": self.monitor.n_calls,
            "n_skipped": self.monitor.n_skipped,
            "flops": self.monitor.flops,
            "peak_memory_bytes": self.monitor.peak_memory_bytes,
            "diverged": self.monitor.diverged,
            "classes": list(env.data.classes),
            "device": str(env.device),
            "device_name": device_name(env.device),
            "precision": env.precision.name,
        }
        self.tables.write()
        folder.write_result(result)
        CheckpointFolder(folder.checkpoints).clear()
        show_result(result, self.console)
        show_cost(result, env.n_patches, self.console)
        self._say(
            f"Everything is in {folder.path}. See its curves with\n"
            f"  tensorboard --logdir {folder.path}\n"
            f"and its test figures again with\n  vit-patch evaluate {folder.path}"
        )
        return result

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _ask_to_stop(self) -> None:
        """What a signal does: let the step at hand end."""
        self.checkpoint.stop()
        say("stopping behind a checkpoint; a second signal ends it at once")
        with suppress(OSError, SystemExit):  # what a terminal that is gone leads to
            self.display.live.stop()  # which a second signal would leave as it is

    def _card(self) -> AgentCard:
        """What must be known of the agent to make it again, as for other runs."""
        options, path = self.options, agent_path(self.options.agent)
        if path is not None:
            return read_card(path)
        return AgentCard(
            agent=options.agent,
            n_patches=self.env.n_patches,
            observation=options.env.observation,
            actions=options.actions,
            sb3=options.sb3,
            dqn=options.dqn,
        )

    def _end_epoch(self, figures: EpochFigures) -> None:
        self.tables.append_epoch(figures, self.monitor.selected, self.monitor.n_selected)
        self.display.show_epoch(figures)


def resumed_options(options: TrainOptions) -> TrainOptions:
    """The options of the run that `options.resume` names, with what may be changed of them.

    Raises:
        ValueError: if there is no run that can be gone on with, or another value is asked for.
    """
    assert options.resume is not None
    folder = RunFolder(options.resume)
    if folder.is_finished:
        raise ValueError(
            f"resume must be a run that is not finished, got {folder.path}: see its figures with "
            f"vit-patch evaluate {folder.path}"
        )
    kept = folder.options
    if options.out is not None:
        raise ValueError(f"out is the run's own folder, {folder.path}, got {options.out}")
    given, usual, of_run = flat(options), flat(TrainOptions()), flat(kept)
    for name, value in given.items():
        if name not in OF_THE_FOLDER and value not in (usual.get(name), of_run.get(name)):
            raise ValueError(
                f"{name} must be that of the run that is gone on with, {of_run.get(name)}, "
                f"got {value}"
            )
    changes = {
        name: given[name]
        for name in ("checkpoint_every", "checkpoints_kept", "log_interval", "data_dir", "device")
        if given[name] != usual[name]
    }
    env = {name: changes.pop(name) for name in ("data_dir", "device") if name in changes}
    kept = replace(kept, out=str(folder.path), env=replace(kept.env, **env), **changes)
    return replace(kept, resume=None, overwrite=False)


def _with_absolute_paths(options: TrainOptions) -> TrainOptions:
    """The options with paths that another folder's process understands."""
    env, agent, follow = options.env, options.agent, options.follow
    if env.data_dir is not None:
        env = replace(env, data_dir=str(Path(env.data_dir).resolve()))
    path = agent_path(agent)
    if path is not None and agent != "pretrained":
        agent = str(path.resolve())
    if follow is not None:
        follow = str(Path(follow).resolve())
    return replace(options, env=env, agent=agent, follow=follow)


def _course(options: TrainOptions) -> dict[str, Any]:
    """The options that a run's course depends on."""
    return {name: value for name, value in flat(options).items() if name not in OF_THE_FOLDER}


def train_in_background(options: TrainOptions, n_threads: int, log: str) -> None:
    """Train in a process of its own, with so many threads; what it says goes to the log.

    A run of the same options that was broken off is gone on with, if one of its checkpoints is
    whole; else it begins again.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Path(log).open("a", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        warnings.showwarning = show_warning
        torch.set_num_threads(n_threads)
        console = Console(file=cast("TextIO", BestEffortOutput(file)), width=120)
        try:
            run = Run(_resumed_if_possible(options), console)
        except (ValueError, OSError) as error:
            fail(str(error))
        run.run()


def _resumed_if_possible(options: TrainOptions) -> TrainOptions:
    """The options to go on with the run that the folder holds, or to begin it again."""
    assert options.out is not None
    folder = RunFolder(options.out)
    options = _with_absolute_paths(options)
    if not folder.holds_run:
        return options
    try:
        same = _course(folder.options) == _course(resolve_agent(options))
        whole = same and CheckpointFolder(folder.checkpoints).load_newest() is not None
    except ValueError as error:
        say(f"begins again, as what is there cannot be gone on with: {error}")
        return options
    return replace(options, resume=options.out, out=None) if whole else options


def _end_with_parent() -> None:
    """Stop this process where the one that waits for it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def make_env(options: EnvConfig) -> ViTPatchSelectEnv:
    """The environment of the options.

    Raises:
        ValueError: as `ViTPatchSelectEnv`.
    """
    return cast("ViTPatchSelectEnv", gym.make(ENV_ID, **asdict(options)).unwrapped)


def evaluate(
    env: ViTPatchSelectEnv, episode: Episode, agent: BaseAlgorithm, actions: str
) -> dict[str, Any]:
    """Test figures on all patches and on the agent's."""
    selector = cast("Selector", agent)
    if actions != "mask":
        selector = _Wrapped(
            selector, cast("gym.ActionWrapper[Any, Any, Any]", ACTIONS[actions](env))
        )
    return {
        "all_patches": episode.evaluate("test")._asdict(),
        "agent_patches": episode.evaluate("test", selector)._asdict(),
    }


def _budget_words(options: EnvConfig, env: ViTPatchSelectEnv) -> str:
    """How long a run trains."""
    epochs = f"{env.epochs} epochs of {env.steps_per_epoch} steps"
    return {
        "epochs": epochs,
        "flops": f"the FLOPs of {epochs} on all patches",
        "seconds": f"{options.seconds} s",
    }[options.budget]


class _Wrapped:
    """A selector whose actions a wrapper turns into patch masks."""

    def __init__(self, selector: Selector, wrapper: "gym.ActionWrapper[Any, Any, Any]") -> None:
        self.selector = selector
        self.wrapper = wrapper
        if isinstance(wrapper, CountAction):
            wrapper.seed_sampling(0)  # so that an evaluation can be repeated

    def predict(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Patch mask and state."""
        action, state = self.selector.predict(*args, **kwargs)
        return self.wrapper.action(action), state


def _default_out(options: TrainOptions) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    agent = Path(options.agent).stem
    return Path("runs") / f"{options.env.dataset}__{agent}__{options.seed}__{stamp}"


def flat(options: TrainOptions) -> dict[str, Any]:
    """Every value by the name that it has on the command line."""
    values = asdict(options)
    env, dqn = values.pop("env"), values.pop("dqn")
    if options.agent not in POLICIES:
        dqn = {}
    return {**values, **env, **{f"dqn.{name}": value for name, value in dqn.items()}}
