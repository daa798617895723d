"""`vit-patch tune`: searches the values of an agent and its reward over many short runs."""

import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import torch
from rich.console import Console

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule
from vit_patch_env.arguments import from_json, to_json
from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.data.splits import ImageData
from vit_patch_env.data.texts import TextData
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path
from vit_patch_env.experiments.agents_by_name.factory import (
    agent_kind,
    check_agent,
    make_agent,
    resolve_agent,
)
from vit_patch_env.experiments.agents_by_name.table import before_images
from vit_patch_env.experiments.cluster.executor import (
    RayExecutor,
    RayJob,
    given_jobs,
    ray_executor,
)
from vit_patch_env.experiments.options.commands import TrainOptions, TuneOptions
from vit_patch_env.experiments.options.flat import flat, same_run
from vit_patch_env.experiments.process.messages import (
    error_message,
    fail,
    require_extra,
    say,
    show_warning,
)
from vit_patch_env.experiments.process.output import (
    BestEffortOutput,
    loaded,
    print_line,
    print_lines,
)
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.process.workers import (
    Worker,
    become_worker,
    kill_workers,
    stop_workers,
)
from vit_patch_env.experiments.run_folder.folder import (
    LOCK,
    check_possible,
    lock_folder,
    provenance,
    write_json,
)
from vit_patch_env.experiments.run_folder.schemas import STUDY_FIELDS, read_checked
from vit_patch_env.experiments.runs.environment import make_env, run_length
from vit_patch_env.experiments.runs.resume import with_absolute_paths
from vit_patch_env.experiments.tune.on_cluster import StudyServer, asked, train_trials
from vit_patch_env.experiments.tune.space import Dimension, searched_dimensions
from vit_patch_env.experiments.tune.trials import StudyFileError, TrialEnd, Trials

if TYPE_CHECKING:  # needs Optuna, an optional dependency
    from vit_patch_env.experiments.tune.study import TuningStudy

CONFIG = "study.json"


class Tuning:
    """A study, which `prepare` checks and creates or finds, and `run` works on.

    Args:
        options: of the study.
        console: where progress and results are shown.
        is_worker: whether it is one of the processes of another `Tuning`.
    """

    options: TuneOptions
    train_options: TrainOptions
    data: ImageData | TextData
    dimensions: list[Dimension]
    study: "TuningStudy"

    def __init__(self, options: TuneOptions, console: Console, is_worker: bool = False) -> None:
        self.options = options
        self.console = console
        self.is_worker = is_worker
        self.path = Path(options.out or _default_out(options))
        self._received: list[int] = []
        self._workers: Sequence[Worker | RayJob] = []

    def prepare(self) -> None:
        """Check everything a user can get wrong, load the images, and create or find the study.

        Raises:
            ValueError: for bad options, unusable data, a folder that holds something else or
                another study, or without Optuna.
            OSError: for a study's database that cannot be read.
        """
        require_extra("tune", "optuna")
        self.train_options = self._checked_options()
        options = self.options
        env = make_env(self.train_options.env)
        check_agent(self.train_options, env)
        self._searched(before_images(env), options.given)
        self._check_folder()
        with ExitStack() as undo:
            self._executor = ray_executor(options, str(options.env.device), given_jobs(options))
            if self._executor is not None:
                undo.callback(self._executor.close)
            self._open(env)
            undo.pop_all()

    def _open(self, env: ViTPatchSelectEnv) -> None:
        """Load the images, and create or find the study."""
        options = self.options
        if self.is_worker:
            self.data = env.data
        else:
            self.data = loaded(options.env.dataset, lambda: env.data, self.console)
        if not len(self.data.val.labels):
            raise ArgumentError("val_fraction", "must leave validation images, got 0 of them")
        make_agent(self.train_options, env)
        self.dimensions = self._searched(env, options.given)
        self._prepare_folder(env)
        from vit_patch_env.experiments.tune.study import TuningStudy

        self._open_study = partial(
            TuningStudy,
            self.path if self._executor is None else self.path.absolute(),
            self.dimensions,
            n_trials=options.trials,
            seed=options.search_seed,
            pruner=options.pruner,
            n_points=math.ceil(options.env.epochs),
        )
        self.study = self._open_study()
        self._introduce(env)

    def run(self) -> None:
        """Train the trials that are left, and show what the study came to.

        A signal (SIGTERM, SIGHUP, Ctrl-C) ends it after the current step, with status 128 plus its
        number; the same command resumes the study. A second signal ends it at once. Exits with
        status 1 if no trial was done, or a process of this command ended early.
        """
        with (
            self._ending_in_one_line(),
            stopping(self._announce_stop, self._end_workers) as self._received,
        ):
            if self._executor is not None:
                complete = self._run_on_cluster(self._executor)
            elif self.options.jobs > 1:
                complete = self._run_workers()
            else:
                complete = True
                self._work()
        if self._received:
            if not self.is_worker:
                say(f"stopped; {self._how_to_resume}")
            sys.exit(128 + self._received[0])
        if not self.is_worker:
            with self._ending_in_one_line():
                self._show()
            if not complete:
                say(f"a process ended before the study was finished; {self._how_to_resume}")
                sys.exit(1)

    def _checked_options(self) -> TrainOptions:
        """The options of the study's runs."""
        options = self.options
        if not options.seeds:
            raise ArgumentError("seeds", "must be at least one, got none")
        if len(set(options.seeds)) < len(options.seeds):
            raise ArgumentError("seeds", f"must differ, got {options.seeds}")
        from_file = agent_path(options.agent) is not None
        if from_file or agent_kind(options.agent).algorithm is FixedRule:
            raise ArgumentError(
                "agent", f"must be one that learns from scratch, got {options.agent}"
            )
        return resolve_agent(
            with_absolute_paths(
                TrainOptions(
                    agent=options.agent,
                    actions=options.actions,
                    seed=options.seeds[0],
                    env=options.env,
                    **options.of_agent,
                )
            )
        )

    def _searched(self, env: ViTPatchSelectEnv, given: tuple[str, ...]) -> list[Dimension]:
        """What the study searches, if the values of these names are given."""
        return searched_dimensions(self.train_options, env, self.options.search, given)

    def _check_folder(self) -> None:
        """Refuse a folder that holds another study, or anything else, as far as options tell."""
        check_possible(self.path, "out")
        path = self.path / CONFIG
        if path.exists():
            self._compare(_saved_options(path))
        elif self.path.is_dir():
            held = [one.name for one in self.path.iterdir() if one.name != LOCK]
            if held:
                raise ArgumentError(
                    "out",
                    f"must be a new folder or that of a study, got {self.path}, which holds "
                    f"{min(held)}",
                )

    def _prepare_folder(self, env: ViTPatchSelectEnv) -> None:
        """Write the study's configuration, or compare it with the folder's.

        Raises:
            ArgumentError: if the folder holds another study, or anything else.
            ValueError: if its configuration is damaged.
        """
        lock = lock_folder(self.path, "out", timeout=60)
        try:
            self._check_folder()  # again, as another process may have created one
            path = self.path / CONFIG
            if path.exists():
                self._compare_dimensions(_saved_options(path), env)
                return
            from vit_patch_env.experiments.tune.summary import tune_command

            made = provenance(tune_command(self.options))
            given = list(self.options.given)
            write_json(path, {"options": to_json(self.options), "given": given, **made})
        finally:
            lock.release()

    def _compare(self, saved: TuneOptions) -> None:
        """Refuse options that the folder's study does not have."""
        may_differ, given = same_run(saved), flat(self.options)
        for name, value in flat(saved).items():
            if name not in may_differ and given[name] != value:
                raise ArgumentError(
                    "out",
                    f"must be a folder without another study, got {self.path}, made with "
                    f"{named(name)} {value} instead of {given[name]}",
                )

    def _compare_dimensions(self, saved: TuneOptions, env: ViTPatchSelectEnv) -> None:
        """Refuse a study that searches other values."""
        names = [one.name for one in self.dimensions]
        before = [one.name for one in self._searched(env, saved.given)]
        differing = [name for name in (*before, *names) if (name in before) != (name in names)]
        if differing:
            did = "searches" if differing[0] in before else "does not search"
            raise ArgumentError(
                "out",
                f"must be a folder without another study, got {self.path}, which {did} "
                f"{differing[0]}",
            )

    def _introduce(self, env: ViTPatchSelectEnv) -> None:
        """Say what the study does."""
        n_before = sum(one.state != "interrupted" for one in self.study.records())
        n_runs = len(self.options.seeds)
        self._say(
            f"{counted(self.options.trials, 'trial')} of {run_length(env)}"
            + (f", {counted(n_runs, 'run')} each" if n_runs > 1 else "")
            + f": {counted(len(self.dimensions), 'value')} of {self.options.agent} and its "
            f"reward, judged on {counted(len(self.data.val.labels), 'validation image')}"
            + (f"; {counted(n_before, 'trial')} started before" if n_before else "")
            + f". The study is in {self.path}."
        )

    def _work(self) -> None:
        """Train trials until none is left or a signal is received."""
        Trials(
            self.options,
            self.train_options,
            self.data,
            self.study,
            is_stopped=lambda: bool(self._received),
            on_end=self._show_end,
        ).train()

    def _show_end(self, end: TrialEnd) -> None:
        """Say how a trial has ended, and write it."""
        if end.is_failure:
            say(end.text)
        elif end.text:
            print_line(f"{end.text}{self._best(end)}", self.console)
        self._write({})

    def _best(self, end: TrialEnd) -> str:
        """The best accuracy so far, after a trial that was done."""
        best = max((one.accuracy or 0.0 for one in self.study.records()), default=0.0)
        return f"; best {best:.2%}" if end.is_done else ""

    def _run_workers(self) -> bool:
        """Let processes train the trials; whether all of them ended as they should."""
        n_threads = max(torch.get_num_threads() // self.options.jobs, 1)
        options = replace(self.options, jobs=1, out=str(self.path))
        workers: list[Worker] = []
        self._workers = workers
        try:
            for _ in range(min(self.options.jobs, self.options.trials)):
                workers.append(Worker(_tune_in_background, options, n_threads))
            running = list(workers)
            while running and not self._received:
                wait([worker.sentinel for worker in running], timeout=0.5)
                running = [worker for worker in running if worker.exitcode is None]
        finally:
            stop_workers(workers)
        return all(worker.exitcode == 0 for worker in workers)

    def _run_on_cluster(self, executor: RayExecutor) -> bool:
        """Let nodes train the trials; whether all ended as they should."""
        n_slots = min(executor.n_jobs, self.options.trials)
        server = executor.actor_here(StudyServer, self._open_study, n_slots)
        of_slot = (self.options, self.train_options, executor.n_threads, server)
        jobs: list[RayJob] = []
        self._workers = jobs
        try:
            for slot in range(n_slots):
                jobs.append(executor.submit(train_trials, *of_slot, slot))
            running = list(jobs)
            while running and not self._received:
                executor.wait(running, 0.5)
                self._show_ends(server)
                running = [one for one in running if one.exitcode is None]
        finally:
            stop_workers(jobs)
            self._show_ends(server)
            asked(server, "leave")
            executor.close()
        for problem in dict.fromkeys(one.problem for one in jobs if one.problem):
            say(problem)
        return all(one.exitcode == 0 for one in jobs)

    def _show_ends(self, server: Any) -> None:
        """Show how trials have ended on nodes."""
        for end in asked(server, "ends"):
            self._show_end(end)

    def _write(self, importance: Mapping[str, float]) -> None:
        """Write `best.json` and `trials.csv`."""
        from vit_patch_env.experiments.tune.summary import summarise, write_summary

        with self.study.locked():
            records = self.study.records()
            summary = summarise(records, importance)
            write_summary(self.path, summary, records, self.options, self.train_options)

    def _show(self) -> None:
        """Print the results; exits with status 1 if there are none."""
        from vit_patch_env.experiments.tune.summary import best_command, show_summary, summarise

        importance = self.study.importance()
        self._write(importance)
        records = self.study.records()
        summary = summarise(records, importance)
        if not summary.done:
            reasons = [one.note for one in records if one.note]
            say(f"no trial was done ({summary.states}){': ' * bool(reasons)}{''.join(reasons[:1])}")
            sys.exit(1)
        show_summary(summary, self.dimensions, self.console)
        best, first = summary.best, summary.first
        compared = "" if first is None else f", {first.accuracy:.2%} with the values as given"
        self._say(
            f"Of {summary.states}, trial {best.number} is the best: {best.accuracy:.2%} on "
            f"validation images{compared}. The best of many trials is partly luck: compare it on "
            f"other seeds. Everything is in {self.path}. Train with its values:",
            f"  {best_command(self.train_options, best)}",
        )

    @property
    def _how_to_resume(self) -> str:
        return "the same command resumes the study"

    @contextmanager
    def _ending_in_one_line(self) -> Iterator[None]:
        """End the program with a message if the study's files cannot be used."""
        try:
            yield
        except (StudyFileError, ArgumentError) as error:  # the latter of the folder's lock
            fail(f"{error_message(error)}; once that is solved, {self._how_to_resume}")

    def _announce_stop(self) -> None:
        """Called when a signal is received; the trials end after their current step."""
        if not self.is_worker:
            say("stopping after the current step; a second signal ends it at once")

    def _end_workers(self) -> None:
        """Called when a second signal is received."""
        kill_workers(self._workers)

    def _say(self, *lines: str) -> None:
        if not self.is_worker:
            print_lines(lines, self.console)


def _tune_in_background(options: TuneOptions, n_threads: int) -> None:
    """Work on a study in this process, which was started for it."""
    become_worker()
    warnings.showwarning = show_warning
    torch.set_num_threads(n_threads)
    console = Console(file=cast("TextIO", BestEffortOutput(sys.stdout)), width=120)
    try:
        tuning = Tuning(options, console, is_worker=True)
        tuning.prepare()
    except (InputError, OSError) as error:
        fail(error)
    tuning.run()


def _saved_options(path: Path) -> TuneOptions:
    """The options in a study's configuration.

    Raises:
        ValueError: naming the file, if they are damaged.
    """
    content = read_checked(path, STUDY_FIELDS)
    options = {**content["options"], "given": content.get("given", [])}
    try:
        return from_json(TuneOptions, options)
    except ValueError as error:
        raise InputError(f"expected a study's options in {path}, got: {error}") from error


def _default_out(options: TuneOptions) -> Path:
    dataset = re.sub(r"[^\w.-]+", "-", str(options.env.dataset))
    return Path("runs") / f"tune__{dataset}__{Path(options.agent).stem}"
