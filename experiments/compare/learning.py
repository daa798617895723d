"""`vit-patch pretrain --runs`: a ScheduleBandit learns from the runs of a comparison of tasks."""

import shlex
from pathlib import Path

from rich.console import Console

from vit_patch_env.agents import ScheduleBandit
from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.agents.schedule_bandit.context import RunContext
from vit_patch_env.agents.schedule_bandit.policy import FinishedRun
from vit_patch_env.checks import ArgumentError, counted, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.agent_file import agent_path, save_agent
from vit_patch_env.experiments.agents_by_name.factory import (
    agent_kind,
    make_agent,
    make_card,
    resolve_agent,
)
from vit_patch_env.experiments.compare.left_out import in_words, leave_out_each
from vit_patch_env.experiments.compare.run_result import RunResult
from vit_patch_env.experiments.compare.task_results import TaskResults, read_task_set
from vit_patch_env.experiments.options.commands import (
    PRETRAIN_ENV,
    PretrainOptions,
    TrainOptions,
    on_this_machine,
)
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.options.saved import train_options
from vit_patch_env.experiments.process.output import loaded, print_lines
from vit_patch_env.experiments.run_folder.folder import check_possible, provenance
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.experiments.runs.pretrain import Pretraining, check_agent_path, check_new
from vit_patch_env.experiments.runs.pretrain_folder import PretrainFolder
from vit_patch_env.experiments.task_set.environments import check_not_of_tasks, envs_to_learn_on
from vit_patch_env.system.files import replacing

_OF_EPISODES = (
    "episodes", "jobs", "budgets", "resume", "checkpoint_every",
    "ray", "cpus_per_run", "gpus_per_run",
)  # fmt: skip


class LearningFromRuns:
    """A ScheduleBandit that learns from finished runs: `prepare` checks, `run` learns and saves.

    Runs of the family `growing` on the training tasks count, and those on all patches. A run is
    valued by its accuracy on the test images, of which there are more than for validation: they
    are of training tasks, and so for learning.

    Args:
        options: of the agent, with the folder of the comparison.
        console: where progress is shown.
    """

    configs: dict[str, EnvConfig]
    runs: dict[str, list[tuple[GrowingOptions, RunResult]]]
    results: TaskResults

    def __init__(self, options: PretrainOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.path = Path(options.out)

    def prepare(self) -> None:
        """Check the options, the file, and the folders of the runs and of the images.

        Raises:
            ValueError: for bad options, a folder without runs to learn from, or a file that exists.
        """
        options = self.options
        assert options.runs is not None
        from_file = agent_path(options.agent) is not None
        if from_file or agent_kind(options.agent).algorithm is not ScheduleBandit:
            raise ArgumentError(
                "agent", f"must be schedule_bandit for {named('runs')}, got {options.agent}"
            )
        for name in _OF_EPISODES:
            if name in options.given:
                raise ArgumentError(
                    name, f"is of new runs, and must not be given with {named('runs')}"
                )
        check_agent_path("out", self.path)
        if not options.overwrite:
            check_new(self.path)
            PretrainFolder(self.path).check_none_unfinished()
        check_possible(self.path.parent, "out")
        check_not_of_tasks(options.env, PRETRAIN_ENV, options.given)
        self.results = read_task_set(options.runs)
        for problem in self.results.problems:
            self._say(f"Excluded: {problem}")
        names = options.tasks or tuple(self.results.of_split("training"))
        configs = envs_to_learn_on(names, options.env, observation=PRETRAIN_ENV.observation)
        runs = {name: self._runs(name) for name in configs}
        self.runs = {
            name: found
            for name, found in runs.items()
            if len({schedule for schedule, _ in found}) > 1
        }
        self.configs = {name: configs[name] for name in self.runs}
        if not self.configs:
            raise ArgumentError(
                "runs",
                "must be a comparison with finished runs of two schedules of the family growing "
                f"on a task of {' '.join(options.tasks or ('training',))}, got {options.runs}, "
                "which has none",
            )

    def run(self) -> None:
        """Learn from the runs, and write the agent's file."""
        options = self.options
        first = make_env(next(iter(self.configs.values())))
        of_agent = resolve_agent(
            TrainOptions(
                agent=options.agent,
                actions=options.actions,
                seed=options.seed,
                env=first.config,
                **options.of_agent,
            )
        )
        agent = make_agent(of_agent, first)
        assert isinstance(agent, ScheduleBandit)
        contexts = {name: self._context(name, config) for name, config in self.configs.items()}
        by_task = {
            name: [FinishedRun(context, schedule, _value(run)) for schedule, run in self.runs[name]]
            for name, context in contexts.items()
        }
        finished = [run for runs in by_task.values() for run in runs]
        agent.policy.record(*finished)
        for name, context in contexts.items():
            agent.policy.use(context)
            self._say(f"{name}: {agent.policy.schedule.described()}")
        if len(by_task) > 1:
            self._say(in_words(leave_out_each(by_task, of_agent.schedule_bandit)))
        made = provenance(command("pretrain", on_this_machine(options), PretrainOptions()))
        card = make_card(of_agent, first, {**made, "runs": len(finished)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as unfinished:
            save_agent(unfinished, agent, card)
        self._say(
            f"The agent, which learned from {counted(len(finished), 'run')} of "
            f"{counted(len(contexts), 'task')}, is in {self.path}. Use it with",
            f"  vit-patch train --agent {shlex.quote(str(self.path))}",
        )

    def _context(self, task: str, config: EnvConfig) -> RunContext:
        """What is known of a task before a run.

        Raises:
            ArgumentError: if the images are not those that the runs were trained on.
        """
        env = make_env(config)
        n_train = len(loaded(config.dataset, lambda: env.data, self.console).train.labels)
        of_runs = self.results.comparisons[task].content["images"]["train"]
        if n_train != of_runs:
            raise ArgumentError(
                "data_dir",
                f"must hold the {counted(of_runs, 'training image')} that the runs of {task} were "
                f"made with, got {n_train:,}",
            )
        return RunContext.from_info(env.context)

    def _runs(self, task: str) -> list[tuple[GrowingOptions, RunResult]]:
        """The finished runs on a task that followed a schedule of the family, and the schedules."""
        comparison = self.results.comparisons.get(task)
        if comparison is None:
            return []
        runs = [run for method in comparison.methods for run in comparison.finished_runs(method)]
        schedules = [(_schedule(run), run) for run in runs]
        return [(schedule, run) for schedule, run in schedules if schedule is not None]

    def _say(self, *lines: str) -> None:
        print_lines(lines, self.console)


def _schedule(run: RunResult) -> GrowingOptions | None:
    """The schedule that a run of a SimpleViT followed, if it is of the family."""
    options = train_options(run.config["options"])
    if options.env.model != "simple_vit":
        return None
    if options.agent == "all":
        return GrowingOptions(first_share=1.0, power=None)
    return options.growing if options.agent == "growing" else None


def _value(run: RunResult) -> float:
    """What a run is worth to a ScheduleBandit."""
    return 0.0 if run.diverged else run.test_metric("accuracy")


def make_pretraining(options: PretrainOptions, console: Console) -> Pretraining | LearningFromRuns:
    """What `vit-patch pretrain` runs with these options."""
    return (
        Pretraining(options, console)
        if options.runs is None
        else LearningFromRuns(options, console)
    )
