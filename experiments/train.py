"""`vit-patch train`: one run, from options to a run folder."""

import multiprocessing.connection
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import torch
from rich.console import Console
from safetensors.torch import save_model
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from experiments.agent_file import AgentCard, agent_path, read_card, write_card
from experiments.agents import ACTIONS, POLICIES, make_agent, resolve_agent
from experiments.display import Display, show_cost, show_result
from experiments.monitor import EpochFigures, StepFigures, TrainingMonitor
from experiments.options import EnvOptions, TrainOptions
from experiments.run_folder import RunFolder, device_name
from vit_patch_env import ENV_ID, CountAction, Selector, ViTPatchSelectEnv
from vit_patch_env.checks import check_whole


class Run:
    """A run that is ready to train: everything a user can get wrong has been checked.

    Args:
        options: of the run.
        console: where progress and results are shown.

    Raises:
        ValueError: for bad options, unusable data, or an output folder that holds a run.
    """

    def __init__(self, options: TrainOptions, console: Console) -> None:
        self.console = console
        check_whole("[0, 4294967295]", seed=options.seed)  # what Stable-Baselines3 takes
        if options.env.data_dir is not None:  # a run can be evaluated from another folder
            data_dir = str(Path(options.env.data_dir).resolve())
            options = replace(options, env=replace(options.env, data_dir=data_dir))
        options = resolve_agent(options)
        self.options = options
        self.folder = RunFolder(options.out or _default_out(options))
        if not options.overwrite:
            self.folder.check_free()
        self.env = make_env(options.env)
        console.print(f"Loading {options.env.dataset} ...", highlight=False)
        self.env.data  # noqa: B018  (loaded now, so that a broken image is found here)
        self.agent = make_agent(options, self.env)
        self.display = Display(console, self.env.epochs if options.env.budget == "epochs" else None)
        self.monitor = TrainingMonitor(
            log_interval=options.log_interval,
            max_episodes=1,
            hyperparameters=flat(options),
            on_epoch=self._end_epoch,
            on_step=self._end_step,
        )
        self.n_selected: list[int] = []
        self.folder.create(options)

    def run(self) -> dict[str, Any]:
        """Train, evaluate on the test images, write the run folder; the content of result.json."""
        env, agent, folder = self.env, self.agent, self.folder
        n_train, n_val, n_test = (
            len(split.labels) for split in (env.data.train, env.data.val, env.data.test)
        )
        self.console.print(
            f"{n_train} training, {n_val} validation and {n_test} test images of "
            f"{len(env.data.classes)} classes. "
            f"Training for {_budget_words(self.options.env, env)}, "
            f"patches picked by {self.options.agent}. Watch it:\n"
            f"  tensorboard --logdir {folder.path}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        agent.set_logger(configure(str(folder.path), ["tensorboard"]))
        with self.display:
            agent.learn(env.max_steps, callback=self.monitor)
        agent.logger.close()

        self.console.print(f"Evaluating on {n_test} test images ...", highlight=False)
        trainer = env.trainer("last")
        save_model(trainer.model, str(folder.vit))
        agent.save(folder.agent)
        write_card(folder.agent, self._card())
        result = {
            "test": evaluate(env, agent, self.options.actions, episode="last"),
            "train_seconds": self.monitor.clock.train,
            "agent_seconds": self.monitor.clock.agent,
            "n_selected_mean": self.monitor.n_selected_mean,
            "n_steps": self.monitor.n_calls,
            "flops": self.monitor.flops,
            "peak_memory_bytes": self.monitor.peak_memory_bytes,
            "diverged": self.monitor.diverged,
            "classes": list(env.data.classes),
            "device": str(env.device),
            "device_name": device_name(env.device),
            "precision": "bf16" if env.dtype.itemsize == 2 else "fp32",
        }
        folder.write_result(result)
        show_result(result, self.console)
        show_cost(result, env.n_patches, self.console)
        self.console.print(
            f"Everything is in {folder.path}. See its curves with\n"
            f"  tensorboard --logdir {folder.path}\n"
            f"and its test figures again with\n  vit-patch evaluate {folder.path}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return result

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

    def _end_step(self, figures: StepFigures) -> None:
        self.n_selected.append(figures.info["n_selected"])
        self.display.show_step(figures)

    def _end_epoch(self, figures: EpochFigures) -> None:
        self.folder.append_epoch(figures, self.monitor.selected, self.n_selected)
        self.n_selected.clear()
        self.display.show_epoch(figures)


def train_in_background(options: TrainOptions, n_threads: int, log: str) -> None:
    """Train in a process of its own, with so many threads; what it says goes to the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Path(log).open("w", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        torch.set_num_threads(n_threads)
        Run(options, Console(file=file, width=120)).run()


def _end_with_parent() -> None:
    """End this process where the one that waits for it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def make_env(options: EnvOptions) -> ViTPatchSelectEnv:
    """The environment of the options.

    Raises:
        ValueError: as `ViTPatchSelectEnv`.
    """
    return cast("ViTPatchSelectEnv", gym.make(ENV_ID, **asdict(options)).unwrapped)


def evaluate(
    env: ViTPatchSelectEnv, agent: BaseAlgorithm, actions: str, episode: Any
) -> dict[str, Any]:
    """Test figures on all patches and on the agent's."""
    selector = cast("Selector", agent)
    if actions != "mask":
        selector = _Wrapped(
            selector, cast("gym.ActionWrapper[Any, Any, Any]", ACTIONS[actions](env))
        )
    return {
        "all_patches": env.evaluate("test", episode=episode)._asdict(),
        "agent_patches": env.evaluate("test", selector=selector, episode=episode)._asdict(),
    }


def _budget_words(options: EnvOptions, env: ViTPatchSelectEnv) -> str:
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
            wrapper.seed_draws(0)  # so that an evaluation can be repeated

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
