"""Tiny training runs that are interrupted and resumed in this process."""

import random

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from tests.conftest import TINY
from vit_patch_env.agents.bandit.options import BanditOptions
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments import RunCheckpoint, TrainingMonitor
from vit_patch_env.experiments.agents_by_name.factory import make_agent, resolve_agent
from vit_patch_env.experiments.options.commands import DQNOptions, TrainOptions
from vit_patch_env.experiments.runs.train import make_env

AGENTS = {
    "paper": {"dqn": DQNOptions(learning_starts=5)},
    "branching": {"dqn": DQNOptions(learning_starts=5)},
    "ppo": {},
    "a2c": {},
    "trpo": {},
    "bandit": {"bandit": BanditOptions(decision_steps=5)},
    "schedule_bandit": {},
    "counting": {"dqn": DQNOptions(learning_starts=5)},
    "random": {},
    "spread": {},
    "centre": {},
    "attended": {},
    "quadratic": {},
    "dqn": {"actions": "count", "sb3": ("learning_starts=5", "buffer_size=50")},
    "qrdqn": {"actions": "count", "sb3": ("learning_starts=5", "buffer_size=12")},
    "sac": {"actions": "top_k", "sb3": ("learning_starts=5", "buffer_size=50")},
    "td3": {"actions": "top_k", "sb3": ("learning_starts=5", "buffer_size=50")},
}

EPOCHS = 3
N_STEPS = 7 * EPOCHS


class StepLog(BaseCallback):
    """Logs every step, and calls `request_stop` at step `stop_at`."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.steps = []
        self.stop_at = stop_at

    def _on_step(self):
        info = self.locals["infos"][0]
        reward = float(self.locals["rewards"][0])
        self.steps.append((info["loss"], info["n_selected"], reward, self.model.num_timesteps))
        if len(self.steps) == self.stop_at:
            self.request_stop()
        return True

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def advance_generators():
    """Put the global generators into another state, as in another process."""
    random.random()
    np.random.rand(3)  # noqa: NPY002
    torch.rand(5)


def learn(agent, folder, stop_at=None, resume=False, n_steps=N_STEPS):
    """Logged steps, monitor and checkpoint callback of a run."""
    advance_generators()
    log, monitor = StepLog(stop_at), TrainingMonitor(max_episodes=1)
    checkpoint = RunCheckpoint(folder, every="never", callback=[monitor, log], resume=resume)
    log.request_stop = checkpoint.stop
    agent.learn(n_steps, callback=checkpoint)
    return log.steps, monitor, checkpoint


def stopped_twice(folder):
    """The checkpoint folder of a run that was stopped twice."""
    learn(new_agent("random")[0], folder, stop_at=5)
    learn(new_agent("random")[0], folder, stop_at=9, resume=True)
    return folder


def learn_logged(agent, folder, n_steps, stop_at=None, resume=False):
    """Logged steps of a run without a monitor."""
    log = StepLog(stop_at)
    checkpoint = RunCheckpoint(folder, every="never", callback=log, resume=resume)
    log.request_stop = checkpoint.stop
    agent.learn(n_steps, callback=checkpoint)
    return log.steps


def new_agent(name, **env):
    """An agent of `AGENTS` and its environment."""
    options = TrainOptions(
        agent=name, seed=3, env=EnvConfig(**TINY | {"epochs": EPOCHS} | env), **AGENTS[name]
    )
    options = resolve_agent(options)
    env = make_env(options.env)
    return make_agent(options, env), env


def identical(one, other):
    """Whether two snapshots are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other
