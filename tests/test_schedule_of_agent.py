"""Patch schedules of pretrained agents, against the agents in their environment."""

import math
import pickle
import zipfile
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, TINY_OPTIONS
from tests.test_cli import train
from tests.test_schedule_bandit import Trainings, context
from vit_patch_env import PatchSchedule, SimpleViT, ViTPatchSelectEnv
from vit_patch_env.agents import GrowingOptions, ScheduleBandit
from vit_patch_env.agents.schedule_bandit.policy import FinishedRun
from vit_patch_env.experiments.agents_by_name.agent_file import AgentCard, save_agent
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.integrations import count_step_flops

BANDIT = str(Path(__file__).parent / "data" / "bandit-0.1.zip")
"""A bandit's file, of version 0.1."""


@pytest.mark.long
@pytest.mark.parametrize("agent", ["pretrained", BANDIT])
@pytest.mark.parametrize(("budget", "epochs"), [("epochs", 6), ("flops", 1)])
def test_it_keeps_as_many_patches_as_the_agent_in_training(agent, budget, epochs, tmp_path):
    sizes = {"epochs": epochs, "patch_size": 4, "n_patches_desired": 32}
    counts = assert_keeps_as_many_as_in_training(agent, budget, sizes, tmp_path / "run")
    assert len(set(counts)) > (4 if agent == BANDIT else 1)


def assert_keeps_as_many_as_in_training(agent, budget, sizes, run):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    train(run, "--agent", agent, "--budget", budget, *options)
    env = ViTPatchSelectEnv(**TINY | sizes)
    of_model = ("patch_size", "dim", "depth", "heads", "dim_head", "mlp_dim")
    vit = SimpleViT(
        n_classes=len(env.data.classes), **{name: env.config.__dict__[name] for name in of_model}
    )
    images = torch.zeros(TINY["batch_size"], 3, 32, 32)
    schedule = PatchSchedule.from_agent(
        agent,
        n_patches=vit.n_patches,
        total_steps=env.budget_steps,
        step_flops=count_step_flops(vit, images) if budget == "flops" else None,
    )
    counts = [schedule.n_keep(step) for step in range(len(schedule))]
    assert counts == RunFolder(run).read_steps()
    return counts


@pytest.mark.parametrize("n_patches", [49, 196, 576])
def test_it_keeps_the_same_shares_of_any_number_of_patches(n_patches):
    schedule = PatchSchedule.from_agent(BANDIT, n_patches=n_patches, total_steps=100)
    of_64 = PatchSchedule.from_agent(BANDIT, n_patches=64, total_steps=100)
    shares = [schedule.n_keep(step) / n_patches for step in range(100)]
    assert sum(shares) == pytest.approx(
        sum(of_64.n_keep(step) / 64 for step in range(100)), rel=0.1
    )
    assert shares[0] == pytest.approx(1 / 16, abs=0.01)
    assert shares[-1] == 1
    assert schedule(60).max() > n_patches * 3 / 4


@pytest.mark.parametrize("n_patches", [49, 196, 576])
def test_the_shipped_agent_keeps_the_same_shares_of_any_number_of_patches(n_patches):
    """From a small share to all, where steps cost their share of the patches."""
    schedule, of_64 = (
        PatchSchedule.from_agent(n_patches=n, total_steps=100, step_flops=lambda n_keep: n_keep)
        for n in (n_patches, 64)
    )
    shares, of_64_shares = (
        [one.n_keep(round(part * (len(one) - 1))) / one.n_patches for part in (0, 0.5, 0.8, 1)]
        for one in (schedule, of_64)
    )
    assert shares == pytest.approx(of_64_shares, abs=0.03)
    assert shares[0] < 0.15
    assert shares[-1] > 0.7


def schedule_bandit(path, likes_few=True):
    """The file of an agent that wants few patches where steps on them are cheap, or dear."""
    agent = ScheduleBandit("SchedulePolicy", Trainings(), seed=0)
    few, many = GrowingOptions(power=8.0), GrowingOptions(first_share=0.5)
    for budget_steps, cheap in product((4, 16, 64, 1024), (True, False)):
        costs = (0.05, 0.1, 0.2, 0.5, 1.0) if cheap else (0.8, 0.82, 0.85, 0.9, 1.0)
        training = context(budget_steps, step_costs=costs)
        agent.policy.record(
            FinishedRun(training, few, float(cheap == likes_few)), FinishedRun(training, many, 0.5)
        )
    save_agent(path, agent, AgentCard(agent="schedule_bandit", grid=None, observation="none+run"))
    return str(path)


@pytest.mark.long
@pytest.mark.parametrize(("budget", "epochs"), [("flops", 1), ("epochs", 6)])
def test_a_bandit_on_schedules_keeps_as_many_patches_as_in_training(budget, epochs, tmp_path):
    agent = schedule_bandit(tmp_path / "agent.zip")
    sizes = {"epochs": epochs, "patch_size": 4, "n_patches_desired": 32}
    assert_keeps_as_many_as_in_training(agent, budget, sizes, tmp_path / "run")


def test_a_bandit_on_schedules_decides_by_what_steps_cost(tmp_path):
    agent = schedule_bandit(tmp_path / "agent.zip")
    budget = {"n_patches": 196, "seconds": 60, "budget_steps": 64}
    cheap = PatchSchedule.from_agent(agent, **budget, step_seconds=lambda count: count / 100)
    assert cheap.n_keep(0) == 12
    flat = PatchSchedule.from_agent(agent, **budget, step_seconds=lambda count: 1 + count / 1e4)
    assert flat.n_keep(0) == 98
    steps_alone = PatchSchedule.from_agent(agent, n_patches=196, total_steps=64)
    assert steps_alone.n_keep(0) == 98
    assert pickle.loads(pickle.dumps(cheap)).n_keep(0) == 12
    with pytest.raises(ValueError, match=r"step_seconds must be given with seconds, .* got None"):
        PatchSchedule.from_agent(agent, **budget)
    with pytest.raises(ValueError, match=r"step_seconds is for a budget of seconds"):
        PatchSchedule.from_agent(agent, n_patches=196, total_steps=9, step_seconds=float)
    with pytest.raises(ValueError, match=r"step_flops\(12\) must be in \(0, inf\), got 0"):
        PatchSchedule.from_agent(agent, n_patches=196, total_steps=9, step_flops=lambda count: 0)
    with pytest.raises(ValueError, match=r"step_seconds\(12\) must be in \(0, inf\), got nan"):
        PatchSchedule.from_agent(agent, **budget, step_seconds=lambda count: math.nan)
    with pytest.raises(ValueError, match="step_seconds must be a function, got 3"):
        PatchSchedule.from_agent(agent, **budget, step_seconds=3)


def test_the_scores_of_patches_are_sampled_by(tmp_path):
    def lone(name, tensor):
        """Patch 5 has nearly all of the weight."""
        if name == "of_patches.prior_mean":
            tensor[:] = -30.0
            tensor[5] = 30.0
        return tensor

    path = tmp_path / "scored.zip"
    rewrite_policy(path, lone)
    schedule = PatchSchedule.from_agent(str(path), n_patches=64, total_steps=100)
    assert all(5 in schedule(step) for step in range(100) if schedule(step) is not None)


def rewrite_policy(path, change):
    """A copy of the bandit with changed tensors of its policy."""
    with zipfile.ZipFile(BANDIT) as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            if name != "policy.pth":
                copy.writestr(name, source.read(name))
                continue
            with source.open(name) as file:
                state = torch.load(file, weights_only=True)
            with copy.open(name, "w") as file:
                torch.save({key: change(key, value) for key, value in state.items()}, file)


def test_seconds_need_the_steps_that_they_are_worth():
    schedule = PatchSchedule.from_agent(BANDIT, n_patches=64, seconds=60, budget_steps=500)
    assert schedule.n_keep(0) == 4
    with pytest.raises(ValueError, match="budget_steps must be given with seconds, got None"):
        PatchSchedule.from_agent(n_patches=64, seconds=60)


def test_agents_that_need_an_observation_are_refused(tmp_path):
    path = tmp_path / "a2c.zip"
    short = ["--epochs", "1", "--episodes", "1", "--agent", "a2c"]
    main(["pretrain", *TINY_OPTIONS, *short, "--out", str(path)])
    message = r"must be a bandit, which .*, got .*a2c\.zip \(a2c\), .* needs the environment"
    with pytest.raises(ValueError, match=message) as error:
        PatchSchedule.from_agent(str(path), n_patches=16, total_steps=9)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("paper", "agent must be pretrained or the file of a bandit, got 'paper'"),
        (3, "agent must be pretrained or the file of a bandit, got 3"),
        ("none.zip", r"a file that vit-patch pretrain wrote, got none\.zip"),
    ],
)
def test_what_is_no_agent_is_refused(agent, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        PatchSchedule.from_agent(agent, n_patches=64, total_steps=9)
    assert "\n" not in str(error.value)


def test_another_policy_in_the_file_is_refused(tmp_path):
    path = tmp_path / "other.zip"
    rewrite_policy(path, lambda name, tensor: torch.zeros(3))
    with pytest.raises(ValueError, match=r"agent .*other\.zip cannot be loaded: ") as error:
        PatchSchedule.from_agent(str(path), n_patches=64, total_steps=9)
    assert "\n" not in str(error.value)
