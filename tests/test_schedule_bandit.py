"""ScheduleBandit: learns which schedule suits which training, whatever their difficulty."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from tests.conftest import TINY
from tests.test_cli import train
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import GrowingOptions, RunContext, ScheduleBandit, ScheduleOptions
from vit_patch_env.agents.schedule_bandit.model import CANDIDATES, description
from vit_patch_env.agents.schedule_bandit.policy import FinishedRun
from vit_patch_env.experiments.agents_by_name.agent_file import read_parameters
from vit_patch_env.experiments.compare.left_out import in_words, leave_out_each

N_PATCHES, N_STEPS = 64, 10


def context(budget_steps=256, n_classes=10, **values):
    costs = (0.05, 0.1, 0.2, 0.5, 1.0)
    usual = RunContext(budget_steps, 10_000, n_classes, N_PATCHES, 100_000, costs)
    return usual._replace(**values)


class Trainings(gym.Env):
    """Short trainings want few patches throughout, long ones many; trainings differ in difficulty.

    A step earns less the more factors of two its number of patches is away from the wanted one.
    """

    def __init__(self, budgets=(16, 64, 256, 1024), noise=0.05, seed=0):
        self.observation_space = spaces.Box(0, 1, (N_PATCHES + 3,), np.float32)
        self.action_space = spaces.MultiBinary(N_PATCHES)
        self.budgets, self.noise, self.place = budgets, noise, 0
        self.rng = np.random.default_rng(seed)

    @property
    def budget(self):
        return self.budgets[self.place % len(self.budgets)]

    @property
    def wanted(self):
        return N_PATCHES * 2.0 ** (np.log2(self.budget / 1024) * 4 / 6)  # 4 of 64 for 16 steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.n_steps = self.place + 1, 0
        info = context(self.budget)._asdict()
        return self._observation(), {**info, "step_costs": np.array(info["step_costs"])}

    def step(self, action):
        distance = abs(np.log2(action.sum() / self.wanted))
        reward = (100 / self.budget - distance + self.rng.normal(0, self.noise)) / N_STEPS
        self.n_steps += 1
        info = {"progress": self.n_steps / N_STEPS}
        return self._observation(), reward, False, self.n_steps == N_STEPS, info

    def _observation(self):
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[N_PATCHES] = self.n_steps / N_STEPS
        return observation


def mean_log_share(schedule):
    return float(np.mean([np.log2(schedule.share(place)) for place in np.linspace(0, 1, 20)]))


@pytest.mark.long
def test_learns_which_schedule_suits_which_training():
    agent = ScheduleBandit("SchedulePolicy", Trainings(), seed=0).learn(N_STEPS * 200)
    for budget in (16, 64, 256, 1024, 128):  # the last one is new to it
        agent.policy.use(context(budget))
        wanted = np.log2(budget / 1024) * 4 / 6
        assert abs(mean_log_share(agent.policy.schedule) - wanted) < 1
    assert len(agent.policy.runs) == 200


def test_difficulty_does_not_count():
    """The same differences in an easy and in a hard training are learned as the same."""
    agents = []
    for offset in (0.0, 50.0):
        agent = ScheduleBandit("SchedulePolicy", Trainings(), seed=0)
        for power in (None, 1.0, 2.0, 4.0):
            options = GrowingOptions(power=power)
            agent.policy.record(FinishedRun(context(64), options, 1.0 - (power or 0) / 10))
            agent.policy.record(
                FinishedRun(context(64, n_classes=100), options, offset - (power or 0) / 10)
            )
        agents.append(agent)
    first, second = (values(agent.policy.model, context(64)) for agent in agents)
    assert first == pytest.approx(second)
    assert first.any()


def test_all_patches_and_constants_are_candidates():
    assert GrowingOptions(first_share=1.0, power=None) in CANDIDATES
    assert GrowingOptions(first_share=0.25, power=None) in CANDIDATES
    assert len(set(CANDIDATES)) == len(CANDIDATES)
    for one in CANDIDATES:
        assert (np.abs(description(one)) <= 1 + 1e-9).all()
    assert len({tuple(description(one).round(9)) for one in CANDIDATES}) == len(CANDIDATES)


def values(model, training, schedules=CANDIDATES):
    """Their posterior means."""
    return model.posterior(training, schedules)[0]


def learned(runs):
    """The posterior mean of a policy after these runs: (training, schedule, value)."""
    policy = ScheduleBandit("SchedulePolicy", Trainings(), seed=0).policy
    policy.record(*(FinishedRun(*run) for run in runs))
    return policy.model


SCHEDULES = [GrowingOptions(power=power) for power in (None, 1.0, 2.0, 4.0)]


def test_times_that_were_measured_again_are_of_the_same_training():
    rng = np.random.default_rng(0)
    runs = [(context(), one, float(value)) for value, one in enumerate(SCHEDULES)]
    noisy = []
    for _, *rest in runs:
        costs = tuple(rng.uniform(0.97, 1.03) * cost for cost in context().step_costs)
        noisy.append((context(int(256 * rng.uniform(0.95, 1.05)), step_costs=costs), *rest))
    assert values(learned(noisy), context()) == pytest.approx(
        values(learned(runs), context()), abs=0.05
    )
    assert values(learned(runs), context()).any()
    others = [(context(256 * 2**place), *rest) for place, (_, *rest) in enumerate(runs)]
    assert not values(learned(others), context()).any()  # nothing to compare with


def test_the_order_of_the_runs_does_not_matter():
    few, half, every = (GrowingOptions(first_share=share) for share in (1 / 16, 1 / 2, 1.0))
    runs = [  # 240 is near to 200 and to 280, which are not of one training
        FinishedRun(context(budget), schedule, value)
        for budget, schedule, value in (
            (200, few, 0.8), (240, half, 0.6), (240, few, 0.7), (280, every, 0.5), (280, half, 0.7),
        )
    ]  # fmt: skip
    expected = values(learned(runs), context())
    for order in ([4, 3, 2, 1, 0], [0, 3, 4, 1, 2], [3, 0, 1, 4, 2]):
        found = values(learned([runs[place] for place in order]), context())
        assert found == pytest.approx(expected, abs=1e-9)


def test_lengths_that_differ_little_are_not_a_chain_to_ones_that_differ_much():
    runs = [
        FinishedRun(context(budget), schedule, 0.5 + 0.1 * place)
        for place, (budget, schedule) in enumerate(
            zip((400, 480, 576, 691, 829), [*SCHEDULES, SCHEDULES[0]], strict=True)
        )
    ]  # of 400 and 480, 576 and 691, and one that has nothing to be compared with
    assert values(learned(runs), context()) == pytest.approx(
        values(learned(runs[:-1]), context()), abs=0.02
    )


def test_a_run_that_diverged_does_not_outweigh_the_others():
    runs = [(context(), one, -((place - 2) ** 2) / 10) for place, one in enumerate(SCHEDULES)]
    diverged = [*runs, (context(), GrowingOptions(first_share=1.0, power=None), -100.0)]
    for each in (runs, diverged):
        assert np.argmax(values(learned(each), context(), SCHEDULES)) == 2


def test_what_trainings_have_in_common_is_known_far_from_all():
    model = learned([(context(), one, place / 10) for place, one in enumerate(SCHEDULES)])
    near, far = (values(model, context(steps), SCHEDULES) for steps in (256, 2**30))
    assert far == pytest.approx(0.5 * near)  # the default of common_share
    assert np.argmax(near) == 3


def test_a_schedule_that_few_runs_have_followed_is_not_preferred():
    """It is better in the one training that it was tried in."""
    often, once = GrowingOptions(power=4.0), GrowingOptions(first_share=0.5, power=None)
    worst = GrowingOptions(first_share=1.0, power=None)
    runs = [(context(2.0**steps), often, 0.8) for steps in range(4, 12)]
    runs += [(context(2.0**steps), worst, 0.2) for steps in range(4, 12)]
    runs.append((context(2.0**8), once, 0.85))
    model = learned(runs)
    near = context(2.0**9)
    assert values(model, near, [often, once]).argmax() == 1
    assert model.safe(near, [often, once]).argmax() == 0


def test_ties_and_repeated_runs_do_not_hide_how_bad_others_are():
    tied = [(context(), one, 0.95) for one in SCHEDULES[:3]]
    bad = learned([*tied, (context(), SCHEDULES[3], 0.2)])
    worse = learned([*tied, (context(), SCHEDULES[3], 0.949)])
    losses = [values(each, context(), SCHEDULES)[[2, 3]] @ [1, -1] for each in (bad, worse)]
    assert losses[0] > 5 * losses[1]
    of_three = [(context(), one, 0.5 + i / 10) for i, one in enumerate(SCHEDULES[:3])]
    best = [(context(), SCHEDULES[3], 0.9 + i / 1e4) for i in range(30)]
    found = values(learned([*of_three, *best]), context(), SCHEDULES)
    assert (np.diff(found) > 0).all()


def test_values_are_those_of_a_plain_gaussian_process():
    """With a single training, and up to a constant: scikit-learn's with the same kernel."""
    y = np.array([0.6, 0.65, 0.7, 0.9])
    model = learned([(context(), one, value) for one, value in zip(SCHEDULES, y, strict=True)])
    kernel = RBF(0.8, "fixed") + ConstantKernel(100.0, "fixed")
    plain = GaussianProcessRegressor(kernel, alpha=0.15)
    losses = -np.arcsinh((0.9 - y) / np.median(0.9 - y))
    plain.fit([description(one) for one in SCHEDULES], (losses - losses.mean()) / losses.std())
    some = CANDIDATES[::40]
    mean, covariance = plain.predict([description(one) for one in some], return_cov=True)
    found = values(model, context(), some)
    assert found - found.mean() == pytest.approx(mean - mean.mean(), abs=1e-6)
    rng = np.random.default_rng(0)
    samples = np.stack([model.sampled(context(), some, rng) for _ in range(4000)])
    contrasts = np.eye(len(some)) - 1 / len(some)  # without what is common to all
    assert contrasts @ np.cov(samples.T) @ contrasts == pytest.approx(
        contrasts @ covariance @ contrasts, abs=0.05
    )


def test_what_is_lost_on_a_task_that_is_left_out():
    """Where few patches are cheap they are best, and elsewhere worst: no single rule is right."""
    few, many = GrowingOptions(power=8.0), GrowingOptions(first_share=0.5, power=None)
    tasks = {}
    for budget_steps, cheap in product((64, 90, 128, 180), (True, False)):
        costs = (0.05, 0.1, 0.2, 0.5, 1.0) if cheap else (0.8, 0.82, 0.85, 0.9, 1.0)
        training = context(budget_steps, step_costs=costs)
        values = {few: 0.5 if cheap else 0.3, many: 0.4}
        tasks[str(training)] = [FinishedRun(training, *run) for run in values.items()]
    lost = leave_out_each(tasks, ScheduleOptions())
    assert len(lost) == 8
    assert {one.agent for one in lost.values()} == {0.0}
    assert sum(one.rule for one in lost.values()) == pytest.approx(8 * 0.1)  # each time the other
    assert "loses 0.00 points" in in_words(lost)
    assert "of the other tasks 10.00 (at most 10.0)" in in_words(lost)


def test_a_value_that_is_no_number_is_refused_and_nothing_is_lost():
    policy = ScheduleBandit("SchedulePolicy", Trainings(), seed=0).policy
    fresh = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.record(*(FinishedRun(context(), one, 1.0 * i) for i, one in enumerate(SCHEDULES)))
    with pytest.raises(ValueError, match="runs of finite numbers"):
        policy.record(FinishedRun(context(), SCHEDULES[0], np.nan))
    former = fresh | {"runs": torch.zeros((2, 14), dtype=torch.float64)}
    with pytest.raises(ValueError, match=r"15 numbers each and a context of 10, got \(2, 14\) and"):
        policy.load_state_dict(former)
    assert len(policy.runs) == 4
    policy.load_state_dict(fresh)
    assert len(policy.runs) == 0
    assert not values(policy.model, context()).any()


def test_a_loaded_agent_has_its_runs_and_decides_the_same_on_another_grid(tmp_path):
    agent = ScheduleBandit("SchedulePolicy", Trainings(), seed=0).learn(N_STEPS * 40)
    agent.save(tmp_path / "agent.zip")
    loaded = ScheduleBandit.load(tmp_path / "agent.zip")
    assert loaded.policy.runs.tolist() == agent.policy.runs.tolist()
    for one in (agent, loaded):
        one.policy.use(context(128))
    assert loaded.policy.schedule == agent.policy.schedule
    other = ScheduleBandit(
        "SchedulePolicy",
        ViTPatchSelectEnv(**{**TINY, "observation": "none+run"}),
    )
    ScheduleBandit.load(tmp_path / "agent.zip", env=other.env)
    other.policy.load_state_dict(agent.policy.state_dict())
    other.policy.use(context(128))
    assert other.policy.schedule == agent.policy.schedule
    assert other.policy.n_keep(0.0) == max(round(agent.policy.schedule.share(0) * 16), 1)


def test_an_agent_that_does_not_learn_uses_the_best_schedule():
    agent = ScheduleBandit("SchedulePolicy", Trainings(), seed=0).learn(N_STEPS * 60)
    agent.learning = False
    agent.learn(N_STEPS * 4)
    assert len(agent.policy.runs) == 60
    agent.policy.use(context(16))
    safe = agent.policy.model.safe(context(16), agent.policy._tried)
    assert agent.policy.schedule == agent.policy._tried[np.argmax(safe)]


@pytest.mark.parametrize("damage", [lambda runs: runs[:, :3], lambda runs: runs * np.nan])
def test_damaged_files_are_refused(damage):
    agent = ScheduleBandit("SchedulePolicy", Trainings(), seed=0).learn(N_STEPS * 8)
    state = agent.policy.state_dict()
    with pytest.raises(ValueError, match="expected"):
        agent.policy.load_state_dict({**state, "runs": damage(state["runs"])})


def test_environments_that_do_not_say_what_the_training_is_are_refused():
    class Silent(Trainings):
        def reset(self, **kwargs):
            return super().reset(**kwargs)[0], {}

    with pytest.raises(ValueError, match="one without budget_steps, n_images, n_classes"):
        ScheduleBandit("SchedulePolicy", Silent(), seed=0).learn(5)


def test_a_run_trains_with_it_and_its_file_is_used(tmp_path):
    train(
        tmp_path / "run", "--agent", "schedule_bandit", "--reward", "validation", "--reward-every",
        "5", "--budget", "flops", "--epochs", "1",
    )  # fmt: skip
    saved = tmp_path / "run" / "agent.zip"
    assert read_parameters(saved)["policy"]["runs"].shape == (1, 15)
    result = train(tmp_path / "again", "--agent", str(saved), "--budget", "flops", "--epochs", "1")
    assert 1 <= result["n_selected_mean"] <= 16
