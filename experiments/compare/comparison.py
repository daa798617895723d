"""`vit-patch compare`: methods x seeds, each run in its own process, as `train` would do it.

The state of a run is in its folder alone; a second call resumes where the first one stopped.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from vit_patch_env.arguments import to_json
from vit_patch_env.checks import ArgumentError, InputError, counted, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.factory import check_agent, make_agent
from vit_patch_env.experiments.cluster.executor import make_executor
from vit_patch_env.experiments.cluster.storage import Storage
from vit_patch_env.experiments.compare.agent_methods import (
    agents_of,
    check_same_agents,
    find_methods,
    with_copies,
)
from vit_patch_env.experiments.compare.configuration import (
    check_options,
    compare_command,
    differences,
)
from vit_patch_env.experiments.compare.entries import Entry, make_entries
from vit_patch_env.experiments.compare.method_options import method_options
from vit_patch_env.experiments.compare.methods import METHODS, Method
from vit_patch_env.experiments.compare.results import (
    COMPARE,
    SAME_RUN_KEYS,
    complete_env,
    is_timed,
    read_run,
)
from vit_patch_env.experiments.compare.stored import (
    exchange_finished,
    stored_configuration,
    together,
)
from vit_patch_env.experiments.compare.training import Training
from vit_patch_env.experiments.options.commands import CompareOptions, TrainOptions
from vit_patch_env.experiments.process.executor import Executor, RunFiles
from vit_patch_env.experiments.process.output import loaded, print_lines
from vit_patch_env.experiments.process.workers import Job
from vit_patch_env.experiments.run_folder.folder import (
    RUNS,
    check_possible,
    how_it_failed,
    lock_folder,
    provenance,
    write_json,
)
from vit_patch_env.experiments.run_folder.schemas import COMPARE_FIELDS, read_checked
from vit_patch_env.experiments.run_folder.tables import STEPS
from vit_patch_env.experiments.runs.background import train_in_background
from vit_patch_env.experiments.runs.environment import make_env, make_env_on
from vit_patch_env.experiments.runs.resume import absolute

_ORDER = {name: place for place, name in enumerate(METHODS)}

_OF_METHODS = {"titles": "title", "groups": "group", "sources": "source"}
"""What compare.json has of all methods."""

N_ATTEMPTS = 2
"""How often a run that fails is started."""


class Comparison:
    """A comparison, which `prepare` checks and `run` trains.

    Args:
        options: what to compare.
        console: where progress is shown.
        title: what distinguishes it from others that are trained with it.
        executor: of its runs, if it is shared; by default it has its own.
    """

    images: dict[str, Any]
    methods: dict[str, Method]
    agents: dict[str, dict[str, str]]
    entries: list[Entry]
    executor: Executor
    lock: FileLock

    def __init__(
        self,
        options: CompareOptions,
        console: Console,
        title: str = "",
        executor: Executor | None = None,
    ) -> None:
        self._shared = executor
        self.options = options
        self.console = console
        self.title = title
        self.path = Path(options.out or Path("results") / options.preset)

    def prepare(self) -> None:
        """Check the options, load the images, and lock the folder and check the runs in it.

        Raises:
            ValueError: for bad options, or a folder that holds another comparison or a damaged run.
        """
        check_options(self.options)
        options = self.options = replace(self.options, env=absolute(self.options.env))
        self.methods = find_methods(options.methods)
        self.agents = agents_of(self.methods)
        self._check_folder()
        with ExitStack() as undo:
            self.executor = self._shared or make_executor(options, str(options.env.device))
            if self.executor is not self._shared:
                undo.callback(self.executor.close)
            self._check_methods()
            self.lock = lock_folder(self.path, "out")
            undo.callback(self.lock.release)
            storage, saved = None, self._saved_configuration()
            if options.storage is not None:
                storage, elsewhere = self._stored(options.storage)
                saved = together(saved, elsewhere)
            self._keep_agents()
            self._find_finished()
            self._write_configuration(saved)
            if storage is not None:
                storage.send(storage.folder)
            undo.pop_all()

    def run(self) -> None:
        """Train the runs that are not finished; exits with status 1 if one failed.

        A run that fails is tried once more. A signal (SIGTERM, SIGHUP, Ctrl-C) stops the runs, each
        after a checkpoint, from which the same command resumes; a second one ends them at once.
        """
        train_all([self], self.executor, self.console)
        if self.has_failed:
            sys.exit(1)
        self._say(
            f"{_finished(len(self.entries))} in {self.path / RUNS}. Write a report with",
            f"  vit-patch report {shlex.quote(str(self.path))}",
        )

    @property
    def has_failed(self) -> bool:
        """Whether a run has failed."""
        return any(entry.state == "failed" for entry in self.entries)

    def _check_folder(self) -> None:
        """Check what the folder holds, as far as that does not depend on the images."""
        options = self.options
        check_possible(self.path, "out")
        self.entries = make_entries(self.path, self.methods, options.seeds, options.env)
        for path in (self.path / RUNS, *(entry.folder.path for entry in self.entries)):
            if path.is_symlink():
                raise InputError(
                    f"expected a folder in the comparison's folder, got the link {path}"
                )
        self._saved_configuration()

    def _check_methods(self) -> None:
        """Load the images once, and make every method's environment and agent."""
        given = self.options.env
        if is_timed(vars(given)):
            given = replace(
                given, seconds=1.0
            )  # a run that is not finished yet will determine them
        self._check_agents(given)
        shared = make_env(given)
        data = loaded(self.options.env.dataset, lambda: shared.data, self.console)
        self.images = shared.image_statistics()  # a later call must have the same
        for method in self.methods.values():
            options = self._method_options(method, given)
            env = make_env_on(data, options.env)
            env.data  # noqa: B018  (raises if the model is not possible)
            if method.agent != "matched":  # as it repeats a run that is not finished yet
                make_agent(options, env)

    def _check_agents(self, given: EnvConfig) -> None:
        """Check every method's agent as far as that does not depend on the images."""
        for method in self.methods.values():
            options = self._method_options(method, given)
            env = make_env(options.env)
            if method.agent != "matched":
                check_agent(options, env)

    def _method_options(self, method: Method, given: EnvConfig) -> TrainOptions:
        """The options of a method's run, for checks alone."""
        options = method_options(method, 0, given, self.path)
        if method.follows and options.env.n_patches_desired is None:
            # A run that is not finished yet will determine it.
            options = replace(options, env=replace(options.env, n_patches_desired=1))
        return options

    def _saved_configuration(self) -> dict[str, Any]:
        """Content of compare.json from an earlier call; empty if there is none."""
        path = self.path / COMPARE
        return self._same_comparison(path, "out", self.path) if path.exists() else {}

    def _stored(self, url: str) -> tuple[Storage, dict[str, Any]]:
        """The storage, and its compare.json, after what was finished elsewhere was copied."""
        storage = Storage(url, self.path.absolute())
        storage.check()
        path = stored_configuration(storage)
        try:
            saved = {} if path is None else self._same_comparison(path, "storage", url)
        finally:
            if path is not None:
                path.unlink()
        exchange_finished(storage, [entry.folder for entry in self.entries])
        return storage, saved

    def _same_comparison(self, path: Path, name: str, shown: object) -> dict[str, Any]:
        """The content of a compare.json, which must be that of this comparison.

        Args:
            path: of the file.
            name: of the option that gives its folder.
            shown: the folder.
        """
        saved = read_checked(path, COMPARE_FIELDS)
        given = json.loads(json.dumps(asdict(self.options.env)))  # lists instead of tuples
        for key, value in complete_env(saved.get("env", given)).items():
            if key not in SAME_RUN_KEYS and given.get(key) != value:
                raise ArgumentError(
                    name,
                    f"must be a folder without another comparison, got {shown}, made with "
                    f"{named(key)} {value} instead of {given.get(key)}",
                )
        check_same_agents(saved, self.agents, self.path)
        if not hasattr(self, "images"):  # they are not loaded yet
            return saved
        images = saved.get("images", self.images)
        # Those of an earlier version have fewer statistics.
        if images != {name: self.images.get(name) for name in images}:
            raise ArgumentError(
                name,
                f"must be a folder without another comparison, got {shown}, made on other "
                f"images of {self.options.env.dataset}",
            )
        return saved

    def _keep_agents(self) -> None:
        """Copy the agents' files, so that the runs are of the same agents whatever happens."""
        self.methods = with_copies(self.methods, self.agents, self.path)
        for entry in self.entries:
            entry.kind = self.methods[entry.method]

    def _find_finished(self) -> None:
        """Mark the runs that are done.

        Raises:
            ValueError: for one that is damaged or has other options.
        """
        for entry in self.entries:
            if not entry.folder.is_finished:
                continue
            with_steps = (entry.folder.path / STEPS).exists()  # published runs may lack them
            result = read_run(entry.folder.path, with_steps=with_steps).result
            for other in entry.needed:
                if other.state != "done":
                    raise InputError(
                        f"{entry.folder.path} follows {other.name}, which is not finished: "
                        "remove it, or restore that run"
                    )
            expected = entry.options(self.options.env, self.options.checkpoint_every)
            differing = differences(entry.folder.options, expected)
            if differing:
                raise InputError(
                    f"{entry.folder.path} is a run of another configuration ({differing}): "
                    f"remove it or choose another {named('out')}"
                )
            if entry.kind.agent == "matched" and entry.followed is not None:
                counts = [one.folder.read_steps() for one in (entry, entry.followed)]
                if counts[0] != counts[1]:
                    raise InputError(
                        f"{entry.folder.path} keeps other numbers of patches than "
                        f"{entry.followed.name}, which was trained again: remove it"
                    )
            entry.state = "done"
            self._note_result(entry, result)

    def _write_configuration(self, saved: dict[str, Any]) -> None:
        """Write `compare.json`: what was compared in this call and in those before it."""

        def merged(name: str, values: tuple[Any, ...]) -> list[Any]:
            return list(dict.fromkeys([*saved.get(name, []), *values]))

        methods = merged("methods", tuple(self.methods))
        methods.sort(key=lambda key: _ORDER.get(key, len(_ORDER)))
        known = {**{key: METHODS[key] for key in methods if key in METHODS}, **self.methods}
        agents = {**saved.get("agents", {}), **self.agents}
        given = [agents[key]["path"] if key in agents else key for key in methods]
        seeds = sorted(merged("seeds", self.options.seeds))
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path / COMPARE,
            {
                "preset": self.options.preset,
                "methods": methods,
                **{
                    of_all: saved.get(of_all, {})
                    | {key: getattr(method, of_one) for key, method in known.items()}
                    for of_all, of_one in _OF_METHODS.items()
                },
                "agents": agents,
                "seeds": seeds,
                "jobs": self.executor.n_jobs,
                "threads": self.executor.n_threads,
                "env": to_json(self.options.env),
                "images": self.images,
                **provenance(compare_command(self.options, given, seeds)),
            },
        )

    def ready(self) -> Iterator[Entry]:
        """The runs that can start."""
        for entry in self.entries:
            if entry.state == "waiting" and all(other.state == "done" for other in entry.needed):
                yield entry

    def start(self, entry: Entry, executor: Executor) -> Job:
        """Start a run, or resume it from its checkpoint."""
        entry.state = "running"
        entry.attempts += 1
        entry.seconds -= time.monotonic()
        entry.folder.path.mkdir(parents=True, exist_ok=True)
        if entry.folder.log.is_symlink():
            entry.folder.log.unlink()
        options = entry.options(self.options.env, self.options.checkpoint_every)
        needed = tuple(other.folder.path for other in entry.needed)
        files = RunFiles(self.path, entry.folder.path, needed, self.options.storage)
        log = str(entry.folder.log)
        return executor.start(files, train_in_background, options, executor.n_threads, log)

    def finish(self, entry: Entry, exitcode: int, problem: str) -> None:
        """Note how a run has ended, or why it could not be trained, if that is not empty."""
        entry.seconds += time.monotonic()
        entry.state = "waiting"
        if exitcode == 0 and not problem and entry.folder.is_finished:
            result = entry.folder.read_result()
            entry.state = "done"
            self._note_result(entry, result)
            return
        log = entry.folder.log
        entry.note = problem or f"{how_it_failed(exitcode, log)} (log: {log})"
        if entry.attempts == N_ATTEMPTS:
            self.fail(entry, entry.note)

    def fail(self, entry: Entry, note: str) -> None:
        """Note that a run cannot be trained, nor those that follow it."""
        if entry.state == "running":
            entry.seconds += time.monotonic()
        entry.state, entry.note = "failed", note
        for other in self.entries:
            if other.state == "waiting" and entry in other.needed:
                self.fail(other, f"{entry.name} failed, which it follows")

    def close(self) -> None:
        """Release the folder, and say which runs have failed, and why."""
        self.lock.release()
        of = f"{self.title}: " if self.title else ""
        for entry in self.entries:
            if entry.state == "failed":
                self._say(f"{of}{entry.name} failed: {entry.note}")

    def _note_result(self, entry: Entry, result: dict[str, Any]) -> None:
        entry.note = f"{result['test']['all_patches']['accuracy']:.1%}"
        entry.seconds = entry.seconds or result["train_seconds"] + result["agent_seconds"]

    def _say(self, *lines: str) -> None:
        print_lines(lines, self.console)


def train_all(comparisons: Iterable[Comparison], executor: Executor, console: Console) -> None:
    """Train the runs of comparisons that are not finished; exits after a signal.

    Args:
        comparisons: that are prepared.
        executor: of the runs, which is closed.
        console: where progress is shown.
    """
    received = Training(executor, console).train(comparisons)
    if received:
        line = "Interrupted. Unfinished runs are kept; the same command resumes them."
        print_lines([line], console)
        sys.exit(128 + received[0])


def _finished(n_runs: int) -> str:
    return "The run is" if n_runs == 1 else f"All {counted(n_runs, 'run')} are"
