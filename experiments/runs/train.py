"""`vit-patch train`: one run, from options to a run folder."""

import re
import shlex
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from safetensors.torch import save_file, save_model
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger

from vit_patch_env import Episode, ViTPatchSelectEnv
from vit_patch_env.agent_evaluation import EpisodeName
from vit_patch_env.checks import ArgumentError, counted, named
from vit_patch_env.experiments.agents_by_name.agent_file import (
    AgentCard,
    agent_path,
    read_card,
    save_agent,
)
from vit_patch_env.experiments.agents_by_name.factory import (
    agent_kind,
    check_agent,
    make_agent,
    make_card,
    resolve_agent,
)
from vit_patch_env.experiments.checkpoints.callback import RunCheckpoint
from vit_patch_env.experiments.checkpoints.interval import parse_interval
from vit_patch_env.experiments.figures.display import show_figures
from vit_patch_env.experiments.figures.files import (
    draw_pictures,
    figure_files,
    points,
    write_figures,
)
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import flat
from vit_patch_env.experiments.process.messages import fail, say
from vit_patch_env.experiments.process.output import loaded, print_lines
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.run_folder.folder import (
    RunFolder,
    check_possible,
    device_name,
    releasing_on_error,
)
from vit_patch_env.experiments.run_folder.slow_steps import slow_share
from vit_patch_env.experiments.run_folder.tables import EpochMetrics, RunTables, step_table
from vit_patch_env.experiments.runs.attention import compiled_attention, use_same_attention
from vit_patch_env.experiments.runs.best_epoch import BestEpoch
from vit_patch_env.experiments.runs.display import Display, show_cost, show_result
from vit_patch_env.experiments.runs.environment import evaluate_on_test, make_env, run_length
from vit_patch_env.experiments.runs.epoch_sums import StepMetrics
from vit_patch_env.experiments.runs.event_log import EventLog
from vit_patch_env.experiments.runs.extension import LENGTHS, Extension
from vit_patch_env.experiments.runs.follow import Follower, tell_others
from vit_patch_env.experiments.runs.monitor import TrainingMonitor
from vit_patch_env.experiments.runs.own_files import read_own_files, with_own_files
from vit_patch_env.experiments.runs.resume import (
    resumed_options,
    run_config,
    with_absolute_paths,
)
from vit_patch_env.experiments.runs.tracking import Tracker, check_trackers, start_tracker
from vit_patch_env.experiments.runs.video import (
    RunVideo,
    check_can_be_written,
    remove_frames,
)
from vit_patch_env.models.contract import plain_model
from vit_patch_env.system.launch import follows, is_one_of_several
from vit_patch_env.training.ranks import LostRankError

RETRY_SECONDS = 60.0
N_TRIES = 5
"""Number of attempts at writing results to a full disk; `RETRY_SECONDS` between them."""


def make_run(options: TrainOptions, console: Console) -> "Run | Follower":
    """The part that this process has in a run."""
    return (Follower if follows() else Run)(options, console)


class Run:
    """A training run, which `prepare` checks and sets up, and `run` trains.

    Args:
        options: of the run; with `resume`, of how to resume it.
        console: where progress and results are shown.
        pictures: whether the confusion matrix and the mistakes are drawn, which takes a second or
            two: `evaluate` draws them when they are wanted.
    """

    options: TrainOptions
    extension: Extension | None
    agent_used: str
    folder: RunFolder
    env: ViTPatchSelectEnv
    agent: BaseAlgorithm
    display: Display
    tables: RunTables
    monitor: TrainingMonitor
    best: BestEpoch
    checkpoint: RunCheckpoint
    log: EventLog
    trackers: list[Tracker]
    lock: FileLock
    video: RunVideo | None = None

    def __init__(self, options: TrainOptions, console: Console, *, pictures: bool = True) -> None:
        self.options = options
        self.console = console
        self.pictures = pictures
        self.resumes = options.resume is not None

    def prepare(self) -> None:
        """Check everything a user can get wrong, load the images, lock and create the folder.

        Raises:
            ValueError: for bad options, unusable data, an output folder that holds a run or that
                another process is using, or a run that cannot be resumed.
        """
        parse_interval(self.options.checkpoint_every)
        options, self.extension = self.options, None
        if self.resumes:
            options, self.extension = resumed_options(options)
        elif options.extend:
            raise ArgumentError("extend", f"is for a run to {named('resume')}, got none")
        if options.video:
            check_can_be_written()
        check_trackers(options.track)
        options = with_absolute_paths(options)
        self.folder = RunFolder(options.out or _default_out(options))
        used = with_own_files(self.folder, options) if self.resumes else options
        used = resolve_agent(used)
        options = self.options = replace(used, agent=options.agent, follow=options.follow)
        self.agent_used = used.agent
        if not (self.resumes or options.overwrite):
            self.folder.check_free()
        check_possible(self.folder.path, "out")
        self.env = make_env(replace(options.env, distributed=is_one_of_several()))
        check_agent(used, self.env)
        saved = self.folder.given_weights
        self.env.read_weights(saved if self.resumes and saved.is_file() else None)
        # Loaded now, so that a damaged image is reported here.
        loaded(options.env.dataset, lambda: self.env.data, self.console)
        self._check_validation()
        self.agent = make_agent(used, self.env)
        n_epochs = int(self.env.epochs) if options.env.budget == "epochs" else None
        self.display = Display(self.console, n_epochs, self.env.steps_per_epoch)
        self.tables = RunTables(self.folder.path)
        self.best = BestEpoch(options.best_by, keep_weights=options.keep_best)
        self.monitor = TrainingMonitor(
            log_interval=options.log_interval,
            max_episodes=1,
            hyperparameters=flat(options, agent_kind(used.agent).options),
            on_epoch=self._end_epoch,
            on_step=self._end_step,
        )
        self.trackers = []
        is_new = not self.folder.path.exists()
        self.lock = self.folder.lock()
        with releasing_on_error(self.lock):
            try:
                self._check_locked()
                self._start_trackers()  # before anything is written, as they may refuse to
                self._prepare_folder()
                if self.env.config.distributed:
                    tell_others(self.env, self.folder)
            except BaseException:
                for tracker in self.trackers:
                    tracker.finish(None)
                if is_new:
                    self.folder.remove_unused()
                raise

    def _check_locked(self) -> None:
        """Check again what another process may have changed before the folder was locked."""
        if self.resumes:
            if self.folder.is_finished and self.extension is None:
                raise ArgumentError("resume", f"must be an unfinished run, got {self.options.out}")
        elif not self.options.overwrite:
            self.folder.check_free()

    def _prepare_folder(self) -> None:
        """Create the locked folder's files, or read the checkpoint to resume from."""
        options = self.options
        if self.resumes:
            self.folder.prepare()
            use_same_attention(self.folder, self.env)
        else:
            own_files = read_own_files(options)  # before a run is removed that they may be of
            self.folder.create(options, compiled_attention(self.env))
            self.folder.write_own(own_files)
            if options.env.starts_from_weights:
                self.folder.write(self.folder.given_weights, self.env.save_weights)
            self.agent_used = with_own_files(self.folder, options).agent
        config = {**run_config(options), **self.env.image_statistics()}
        self.checkpoint = RunCheckpoint(
            self.folder.checkpoints,
            every=options.checkpoint_every,
            checkpoints_kept=options.checkpoints_kept,
            callback=self.monitor,
            extra={"tables": self.tables} | ({"best": self.best} if self._seeks_best else {}),
            run_config=config,
            former_configs=[
                config | before for before in self._former_lengths() if config | before != config
            ],
            resume=self.resumes,
        )
        self.checkpoint.prepare()
        if self.checkpoint.resumed_steps is not None:
            self.tables.resumed_at = [self.checkpoint.resumed_steps]
        if self.trackers:
            ids = {tracker.name: tracker.run_id for tracker in self.trackers}
            self.folder.write_tracked(self._tracked() | ids)
        former = self.checkpoint.extended_from
        if former is not None:  # its progress was a share of less
            name = next(name for name in LENGTHS if former[name] != config[name])
            self.tables.scale_progress(former[name] / config[name])
        if self.extension is not None:
            self._extend(self.extension)

    def _start_trackers(self) -> None:
        """Start the run in trackers, or continue it in those that it was in before."""
        ids = self._tracked()
        config = flat(self.options, agent_kind(self.agent_used).options)
        for name in self.options.track:
            tracker = start_tracker(name, self.folder.path.name, config, ids.get(name))
            self.trackers.append(tracker)
            self._say(f"Tracked in {name}: {tracker.place}")

    def _tracked(self) -> dict[str, str]:
        """The resumed run's ids in trackers, by their names; none of a new one."""
        return self.folder.tracked if self.resumes else {}

    @property
    def _seeks_best(self) -> bool:
        """Whether the best epoch is needed."""
        return self.options.keep_best or self.options.early_stopping is not None

    def _check_validation(self) -> None:
        """Refuse to look for the best epoch without validation images."""
        if self._seeks_best and not len(self.env.data.val.labels):
            name = "keep_best" if self.options.keep_best else "early_stopping"
            raise ArgumentError(name, "needs validation images, got 0 of them")

    def _former_lengths(self) -> list[dict[str, float]]:
        """The run's lengths before it was extended, by the names of their options."""
        former = [{one["name"]: one["before"]} for one in self.folder.extensions]
        if self.extension is not None:
            former.append({self.extension.name: self.extension.before})
        return former

    def _extend(self, extension: Extension) -> None:
        """Make the folder that of the longer run, which resumes from the checkpoint."""
        step = self.checkpoint.resumed_steps or 0
        recorded = {**extension._asdict(), "step": step}
        kept = self.folder.extend(self.options, recorded)
        self._say(f"Extended {extension}.")
        if kept is not None:
            self._say(f"The results so far are in {kept}.")
        if extension.dependent and step:
            self._say(
                f"From step {step} on, {' and '.join(extension.dependent)} are those of a run of "
                f"{extension.after} {extension.name}: the result is not that of a new one."
            )

    def run(self) -> dict[str, Any]:
        """Train, evaluate on the test images, write the run folder; the content of result.json.

        SIGTERM or Ctrl-C ends it after a checkpoint, with status 128 plus the signal's number; a
        second one ends it at once.
        """
        result = None
        try:
            with stopping(self._request_stop) as received, closing(self._event_log()) as self.log:
                self._train()
                if self.checkpoint.stopped:
                    say(f"stopped at step {self.checkpoint.saved_steps}; {self._how_to_resume}")
                    sys.exit(128 + received[0])
                result = self._finish(received)
                return result
        except LostRankError as error:
            say(f"{error}; {self._how_to_resume}")
            sys.exit(1)
        finally:
            for tracker in self.trackers:
                tracker.finish(result)
            self.lock.release()

    def _train(self) -> None:
        env, options = self.env, self.options
        n_train, n_val, n_test = (
            len(split.labels) for split in (env.data.train, env.data.val, env.data.test)
        )
        resumed = self.checkpoint.resumed_steps
        restarts = self.resumes and resumed is None
        self._say(
            f"{n_train:,} training, {n_val:,} validation and {counted(n_test, 'test image')} of "
            f"{counted(len(env.data.classes), 'class')}. "
            f"Training for {run_length(env)}, "
            f"patches picked by {options.agent}"
            + ("" if resumed is None else f", resumed at step {resumed}")
            + (", from the start, as there is no checkpoint" if restarts else "")
            + ". Watch it:",
            f"  tensorboard --logdir {self._quoted_folder}",
        )
        if options.video:
            self.video = RunVideo(
                self.folder,
                int(env.epochs) if env.config.budget == "epochs" else None,
                grid=env.grid,
                observation=env.config.observation,
                steps_done=resumed or 0,
            )
        self.agent.set_logger(Logger(str(self.folder.path), [self.log, *self.trackers]))
        with self.display, self.checkpoint.naming_errors():
            self.agent.learn(env.max_steps, callback=self.checkpoint)

    def _event_log(self) -> EventLog:
        """TensorBoard's, whose points of later steps a resumed run replaces."""
        resumed = self.checkpoint.resumed_steps
        return EventLog(self.folder.path, (resumed or 0) + 1 if self.resumes else None)

    @property
    def _how_to_resume(self) -> str:
        return f"resume with: vit-patch train --resume {self._quoted_folder}"

    @property
    def _quoted_folder(self) -> str:
        """The folder's path as a word of a command."""
        return shlex.quote(str(self.folder.path))

    def _finish(self, received: list[int]) -> dict[str, Any]:
        """Evaluate and write the results; wait for space if the disk is full.

        Args:
            received: signals received so far, which end the waiting.
        """
        for n_left in reversed(range(N_TRIES)):
            try:
                return self._write_results()
            except OSError as error:
                if not n_left:
                    fail(f"{error}: once there is space, {self._how_to_resume}")
                say(f"{error}: writing the results is retried in {RETRY_SECONDS:.0f} s")
            until = time.monotonic() + RETRY_SECONDS
            while time.monotonic() < until and not received:
                time.sleep(0.1)
            if received:
                say(f"stopped without results; {self._how_to_resume}")
                sys.exit(128 + received[0])
        raise AssertionError

    def _write_results(self) -> dict[str, Any]:
        env, agent, folder = self.env, self.agent, self.folder
        self._say(f"Evaluating on {counted(len(env.data.test.labels), 'test image')} ...")
        stopped_early = self._is_running
        which: EpisodeName = "running" if stopped_early else "last"
        model, images = plain_model(self._episode.evaluated), env.image_statistics()
        card = env.weights_card(model).metadata()
        folder.write(folder.vit, lambda path: save_model(model, str(path), card))
        if self.best.weights:
            best = self.best.weights
            folder.write(folder.best_vit, lambda path: save_file(best, str(path), card))
        folder.write(folder.agent, lambda path: save_agent(path, agent, self._card()))
        tested = evaluate_on_test(env, which, agent, self.options.actions)
        pictures = draw_pictures(tested, env.data, figure_files(env.data) if self.pictures else ())
        write_figures(folder, tested, env.data, pictures)
        result = {
            **tested.result(),
            "train_seconds": self.monitor.clock.train,
            "agent_seconds": self.monitor.clock.agent,
            "n_selected_mean": self.monitor.n_selected_mean,
            "n_steps": self.monitor.n_calls,
            "n_skipped": self.monitor.n_skipped,
            "flops": self.monitor.flops,
            "peak_memory_bytes": self.monitor.peak_memory_bytes,
            "diverged": self.monitor.diverged,
            "waiting_share": self.tables.waiting_share(),
            "slow_share": slow_share(
                self.tables.steps(), self.options.env.accumulate, self.tables.resumed_at
            ),
            "classes": list(env.data.classes),
            "normalize_mean": images["normalize_mean"],
            "normalize_std": images["normalize_std"],
            "device": str(env.device),
            "device_name": device_name(env.device),
            "precision": env.precision.name,
        }
        if self._seeks_best:
            result |= {"best_epoch": self.best.result(), "stopped_early": stopped_early}
        self.tables.write()
        end_points = points(tested, env.data, pictures)
        self.log.write(end_points, dict.fromkeys(end_points, ()), agent.num_timesteps)
        folder.write_result(result)
        self._write_video()
        self.checkpoint.keep_one()
        show_result(result, self.console)
        show_figures(tested, env.data.classes, self.console)
        show_cost(result, env.n_patches, self.console)
        self._say(
            f"Everything is in {folder.path}. See its curves with",
            f"  tensorboard --logdir {self._quoted_folder}",
            "and its test metrics again with",
            f"  vit-patch evaluate {self._quoted_folder}",
        )
        return result

    def _write_video(self) -> None:
        """Make the video, which the run has its result without; pictures for none are removed."""
        if self.video is None:  # maybe since it was resumed
            with suppress(OSError):  # they are in nobody's way
                remove_frames(self.folder)
            return
        try:
            self._say(self.video.write())
        except OSError as error:
            say(
                f"the video cannot be written, and its pictures stay in {self.folder.frames}: "
                f"{str(error).strip().splitlines()[-1]}"
            )

    def _say(self, *lines: str) -> None:
        print_lines(lines, self.console)

    def _request_stop(self) -> None:
        """Stop after the current step; called when a signal is received."""
        self.checkpoint.stop()
        say("stopping after a checkpoint; a second signal ends it at once")
        with suppress(OSError, SystemExit):  # if the terminal is closed
            self.display.live.stop()  # here, as a second signal would not stop it

    def _card(self) -> AgentCard:
        """The card with which other runs can load the agent."""
        options, path = self.options, agent_path(self.agent_used)
        if path is not None:
            return read_card(path)
        return make_card(options, self.env)

    @property
    def _is_running(self) -> bool:
        """Whether the run's episode is the running one: one that has ended was reset."""
        return self.env.steps_done > 0

    @property
    def _episode(self) -> Episode:
        """The run's episode."""
        return self.env.episode if self._is_running else self.env.last_episode

    def _end_step(self, step: StepMetrics) -> None:
        self.display.show_step(step)
        if self.video is not None:
            ended = step.info["diverged"] or step.info["progress"] >= 1
            self.video.add(self._episode, step.info["progress"], ended=ended)

    def _end_epoch(self, metrics: EpochMetrics) -> None:
        monitor = self.monitor
        steps = step_table(monitor.n_selected, monitor.step_seconds, monitor.rates)
        self.tables.append_epoch(metrics, monitor.selected, steps)
        self.display.show_epoch(metrics)
        if not self._seeks_best:
            return
        self.best.add(metrics, plain_model(self._episode.evaluated))
        patience = self.options.early_stopping
        if patience is not None and self.best.n_since >= patience and self._is_running:
            self.monitor.stop()
            self._say(
                f"Stopped early after {counted(metrics.epoch, 'epoch')}: none of the last "
                f"{patience} was better than epoch {self.best.epoch}."
            )


def _default_out(options: TrainOptions) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    agent = Path(options.agent).stem
    dataset = re.sub(r"[^\w.-]+", "-", str(options.env.dataset))
    return Path("runs") / f"{dataset}__{agent}__{options.seed}__{stamp}"
