"""`vit-patch pretrain`: an agent learns over many short training runs, and is saved."""

import math
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule, PatchBandit
from vit_patch_env.agents.multi_output_dqn.exploration import PAPER_DECAY_STEPS
from vit_patch_env.checks import ArgumentError, counted, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path, save_agent
from vit_patch_env.experiments.agents_by_name.factory import (
    agent_kind,
    check_agent,
    make_agent,
    make_card,
    resolve_agent,
)
from vit_patch_env.experiments.checkpoints.callback import RunCheckpoint
from vit_patch_env.experiments.checkpoints.interval import parse_interval
from vit_patch_env.experiments.cluster.environments import LostEnvironmentError
from vit_patch_env.experiments.cluster.executor import N_LOSSES, RayExecutor, ray_executor
from vit_patch_env.experiments.options.commands import (
    PRETRAIN_ENV,
    PretrainOptions,
    TrainOptions,
    on_this_machine,
)
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.process.messages import say
from vit_patch_env.experiments.process.output import loaded, print_line, print_lines
from vit_patch_env.experiments.process.signals import stopping
from vit_patch_env.experiments.run_folder.folder import (
    check_possible,
    lock_folder,
    provenance,
)
from vit_patch_env.experiments.runs.attention import compiled_attention, use_same_attention
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.experiments.runs.pretrain_environments import environments
from vit_patch_env.experiments.runs.pretrain_folder import PretrainFolder
from vit_patch_env.experiments.runs.resume import absolute, run_config
from vit_patch_env.experiments.task_set.env import REFERENCE_GRID, TaskSetEnv
from vit_patch_env.experiments.task_set.environments import (
    OF_REWARD,
    check_not_of_tasks,
    envs_to_learn_on,
)
from vit_patch_env.system.files import replacing


class Pretraining:
    """An agent that learns over many short runs: `prepare` checks, `run` learns and saves.

    A signal (Ctrl-C, SIGTERM, SIGHUP) ends it after a checkpoint, from which it resumes, and saves
    the agent as it is; a second one ends it at once, and so does one while a cluster has no room.

    Args:
        options: of the agent and the short runs.
        console: where progress is shown.
    """

    train_options: TrainOptions
    env: ViTPatchSelectEnv
    lock: FileLock
    checkpoint: RunCheckpoint
    episodes: "_Episodes"
    configs: dict[str, EnvConfig]

    def __init__(self, options: PretrainOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.resumes = options.resume is not None

    def prepare(self) -> None:
        """Check everything a user can get wrong, and load the images.

        Raises:
            ValueError: for bad options, unusable data, or a file that exists.
        """
        options = self.options = replace(self.options, env=absolute(self.options.env))
        parse_interval(options.checkpoint_every)
        self.path = Path(options.resume or options.out)
        self.folder = PretrainFolder(self.path)
        self.folder.check_path()
        check_agent_path("resume" if self.resumes else "out", self.path)
        if self.resumes:
            options = self.options = self.folder.resumed_options(options)
        elif not options.overwrite:
            self.folder.check_none_unfinished()
            check_new(self.path)
        if options.tasks:
            options = self.options = self._with_tasks(options)
        from_file = agent_path(options.agent) is not None
        if from_file or agent_kind(options.agent).algorithm is FixedRule:
            raise ArgumentError(
                "agent", f"must be one that learns from scratch, got {options.agent}"
            )
        self.train_options = resolve_agent(
            TrainOptions(
                agent=options.agent,
                actions=options.actions,
                seed=options.seed,
                given=options.given,
                env=options.env,
                **options.of_agent,
            )
        )
        check_possible(self.path.parent, "out")
        with ExitStack() as undo:
            self.executor = ray_executor(options, str(options.env.device), options.jobs)
            if self.executor is not None:
                undo.callback(self.executor.close)
                self._check_room(self.executor)
            self._check_agent_and_images()
            self.lock = lock_folder(self.folder.path, "out")
            undo.callback(self.lock.release)
            self._prepare_folder()
            undo.pop_all()

    def _check_agent_and_images(self) -> None:
        """Make the first environment and the agent."""
        configs = self.configs.values() if self.options.tasks else [self.train_options.env]
        self.env = make_env(next(iter(configs)))
        if self.options.tasks:
            self._check_grids()
        check_agent(self.train_options, self.env)
        # Loaded now, so that a damaged image is reported here.
        loaded(self.env.config.dataset, lambda: self.env.data, self.console)
        make_agent(self.train_options, self.env)

    def _with_tasks(self, options: PretrainOptions) -> PretrainOptions:
        """The options for runs on tasks, whose environments are made."""
        if not self.resumes:
            check_not_of_tasks(options.env, PRETRAIN_ENV, options.given, OF_REWARD)
        if "dqn" in agent_kind(options.agent).options and not options.dqn.exploration_decay_steps:
            # The paper's, as the tasks have any number of steps.
            dqn = replace(options.dqn, exploration_decay_steps=float(PAPER_DECAY_STEPS))
            options = replace(options, dqn=dqn)
        if options.budgets:
            raise ArgumentError("budgets", f"are those of {named('tasks')}, got {options.budgets}")
        values = {name: getattr(options.env, name) for name in ("observation", *OF_REWARD)}
        self.configs = envs_to_learn_on(options.tasks, options.env, **values)
        return options

    def _check_grids(self) -> None:
        """Refuse an agent with a value for each patch on tasks that have other patches."""
        if agent_kind(self.options.agent).on_any_grid:
            return
        for task, config in self.configs.items():
            if config.grid != REFERENCE_GRID:
                expected, found = ("x".join(map(str, one)) for one in (REFERENCE_GRID, config.grid))
                raise ArgumentError(
                    "tasks",
                    f"must have {expected} patches for {named('agent')} {self.options.agent}, "
                    f"which has a value for each patch, got {task} with {found}",
                )

    def _check_room(self, executor: RayExecutor) -> None:
        """Refuse more environments than the cluster has room for."""
        n_envs = self._n_envs
        if n_envs > executor.room:
            raise ArgumentError(
                "budgets" if self.options.budgets else "jobs",
                f"must be at most {executor.room}, what the cluster has room for, got {n_envs}",
            )

    def _prepare_folder(self) -> None:
        options = self.options
        if self.resumes:
            self.folder.prepare()
            self.compiled = use_same_attention(self.folder, self.env)
        else:
            self.compiled = compiled_attention(self.env)
            self.folder.create(options, self.compiled)
        self._begin(resume=self.resumes)

    def _begin(self, *, resume: bool) -> None:
        """Prepare the runs, or to resume them from the last checkpoint."""
        options = self.options
        self.episodes = _Episodes(options.episodes, self.console)
        self.checkpoint = RunCheckpoint(
            self.folder.checkpoints,
            every=options.checkpoint_every,
            callback=self.episodes,
            run_config={**run_config(options), **self.env.image_statistics()},
            resume=resume,
        )
        self.checkpoint.prepare()

    def run(self) -> None:
        """Learn over the episodes, and write the agent's file."""
        try:
            received = self._run()
        finally:
            self.lock.release()
            if self.executor is not None:
                self.executor.close()
        if received:
            sys.exit(128 + received[0])

    def _run(self) -> list[int]:
        """The signals received, which end it early."""
        options, resumed = self.options, self.checkpoint.resumed_steps
        self._say(
            f"{options.agent} learns over {counted(options.episodes, 'run')} {self._of_what}, "
            f"{options.jobs:,} at a time"
            f"{'' if resumed is None else f', resumed at step {resumed}'}."
        )
        with stopping(self._request_stop) as received:
            agent = self._learned(received)
        self._save(agent)
        if self.checkpoint.stopped:
            n_runs = counted(len(self.episodes.returns), "run")
            say(
                f"stopped after {n_runs}, which the agent in {self.path} has learned from; resume "
                f"with: {self._resume_command}"
            )
            return received
        self.folder.remove()
        self._say(
            f"The agent is in {self.path}. Use it with",
            f"  vit-patch train --agent {shlex.quote(str(self.path))}",
        )
        return []

    def _learned(self, received: list[int]) -> BaseAlgorithm:
        """The agent after the runs, which go on elsewhere when a node of theirs is lost.

        Raises:
            LostEnvironmentError: if that happens too often.
        """
        for n_losses in count(1):
            try:
                with self._environments() as vec_env:
                    agent = make_agent(self.train_options, self.env, vec_env)
                    with self.checkpoint.naming_errors():
                        # The callback ends it after so many episodes, which bound one task's steps.
                        n_steps = self.env.max_steps * self.options.episodes
                        n_steps = sys.maxsize if self.options.tasks else n_steps
                        agent.learn(n_steps, callback=self.checkpoint)
                break
            except LostEnvironmentError as error:
                if n_losses > N_LOSSES:
                    raise
                assert self.executor is not None
                self._wait_for_room(self.executor, received)
                self._begin(resume=True)
                steps = self.checkpoint.resumed_steps
                since = "the beginning" if steps is None else f"step {steps}"
                say(f"{error}; resuming from {since}")
                if received:
                    self.checkpoint.stop()
        return agent

    @property
    def _n_envs(self) -> int:
        """Environments at a time."""
        return len(self.options.budgets) or self.options.jobs

    @property
    def _resume_command(self) -> str:
        return f"vit-patch pretrain --resume {shlex.quote(str(self.path))}"

    @property
    def _of_what(self) -> str:
        """What the runs are of, in words."""
        if self.options.tasks:
            return f"of {counted(len(self.configs), 'task')}"
        return f"of about {counted(self.env.expected_steps, 'step')}"

    def _save(self, agent: BaseAlgorithm) -> None:
        """Write the agent's file."""
        options, episodes = self.options, self.episodes
        card = make_card(
            self.train_options,
            self.env,
            {
                **provenance(command("pretrain", on_this_machine(options), PretrainOptions())),
                "episodes": len(episodes.returns),
                "mean_return_of_last_ten": float(np.mean(episodes.returns[-10:] or [math.nan])),
            },
        )
        with replacing(self.path) as unfinished:
            save_agent(unfinished, agent, card)

    def _environments(self) -> AbstractContextManager[VecEnv]:
        """The environments of the runs; no process of theirs outlives the block."""
        options = self.options
        made: list[EnvConfig | Callable[[], Any]] = [
            replace(self.train_options.env, epochs=epochs)
            for epochs in options.budgets or (options.env.epochs,) * options.jobs
        ]
        if options.tasks:
            configs = list(self.configs.values())
            made = [partial(TaskSetEnv, configs, options.seed + job) for job in range(options.jobs)]
        return environments(made, options.actions, self.compiled, self.executor)

    def _wait_for_room(self, executor: RayExecutor, received: list[int]) -> None:
        """Wait until the cluster can hold all environments again; exits after a signal."""
        if executor.room < self._n_envs:
            say(f"waiting until the cluster has room for {counted(self._n_envs, 'environment')}")
        while executor.room < self._n_envs:
            if received:
                say(f"stopped; resume with: {self._resume_command}")
                sys.exit(128 + received[0])
            time.sleep(1)

    def _request_stop(self) -> None:
        """Called when a signal is received."""
        self.checkpoint.stop()
        say("stopping after a checkpoint; a second signal ends it at once")

    def _say(self, *lines: str) -> None:
        print_lines(lines, self.console)


def check_agent_path(name: str, path: Path) -> None:
    """Refuse a path that is not an agent's file by its ending."""
    if path.suffix != ".zip":
        raise ArgumentError(name, f"must end in .zip, got {path}")


def check_new(path: Path) -> None:
    """Refuse a file that exists."""
    if path.exists():
        raise ArgumentError("out", f"must be a new file, got {path}: add {named('overwrite')}")


class _Episodes(BaseCallback):
    """Ends learning after `n_episodes` episodes, and prints their mean return.

    Attributes:
        returns: of the episodes so far.
    """

    def __init__(self, n_episodes: int, console: Console) -> None:
        super().__init__()
        self.n_episodes = n_episodes
        self.console = console
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        for episode in ended:
            self.returns.append(float(episode["r"]))
            if len(self.returns) % 10 == 0:
                print_line(
                    f"{len(self.returns)}/{self.n_episodes} runs: mean return of the last ten "
                    f"{np.mean(self.returns[-10:]):.4f}{self._schedule()}",
                    self.console,
                )
        return len(self.returns) < self.n_episodes

    def state_dict(self) -> dict[str, Any]:
        """The returns, for `RunCheckpoint`."""
        return {"returns": self.returns, "n_calls": self.n_calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after these."""
        self.returns, self.n_calls = list(state["returns"]), state["n_calls"]

    def _schedule(self) -> str:
        """The bandit's numbers of patches over a run, as it would choose them now, in words."""
        if not isinstance(self.model, PatchBandit):
            return ""
        policy = self.model.policy
        weights = policy.of_counts.mean()
        lengths = sorted({info["budget_steps"] for info in self.training_env.reset_infos})
        text = ""
        for n_steps in (lengths[0], lengths[-1], 4 * lengths[-1]):
            counts = [
                policy.best_count(progress, n_steps, weights) for progress in np.linspace(0, 1, 6)
            ]
            text += f"; of {n_steps} steps " + " ".join(map(str, counts))
        return text
