import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import PatchBandit
from vit_patch_env.agents.bandit import BanditPolicy, BayesianRegression
from vit_patch_env.agents.bandit.policies import possible_counts, resampled

N_PATCHES = 16


class Schedule(gym.Env):
    """Pays for numbers of patches near `best(progress, budget_steps)`, all of it at the end."""

    observation_space = spaces.Box(0, 1, (N_PATCHES + 3,), np.float32)
    action_space = spaces.MultiBinary(N_PATCHES)

    def __init__(self, best, lengths=(20,), noise=0.02, bonus=None):
        self.best, self.lengths, self.noise, self.bonus = best, lengths, noise, bonus

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = int(self.np_random.choice(self.lengths))
        self.n_steps, self.sum = 0, 0.0
        return self._observation(), {"progress": 0.0, "budget_steps": self.length}

    def step(self, action):
        distance = np.log2(action.sum()) - np.log2(
            self.best(self.n_steps / self.length, self.length)
        )
        self.sum -= distance**2 / self.length
        if self.bonus is not None:
            self.sum += (action @ self.bonus) / action.sum() / self.length
        self.n_steps += 1
        done = self.n_steps == self.length
        reward = self.sum + self.noise * self.np_random.normal() if done else 0.0
        info = {"progress": self.n_steps / self.length}
        return self._observation(), float(reward), False, done, info

    def _observation(self):
        observation = np.zeros(N_PATCHES + 3, dtype=np.float32)
        observation[N_PATCHES] = self.n_steps / self.length
        return observation


def counts(agent, budget_steps=20, places=(0.0, 0.5, 1.0)):
    weights = agent.policy.of_counts.mean()
    return [agent.policy.best_count(place, budget_steps, weights) for place in places]


def test_regression_is_ridge_regression():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((50, 3)))
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    posterior = BayesianRegression(torch.zeros(3), prior_precision=0.1)
    for row, value in zip(x, y, strict=True):
        posterior.update(row, float(value))
    ridge = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(3, dtype=torch.float64), x.T @ y)
    assert torch.allclose(posterior.mean(), ridge)


def test_samples_have_the_posteriors_mean_and_covariance():
    rng = np.random.default_rng(0)
    posterior = BayesianRegression(torch.zeros(2), prior_precision=1.0)
    for _ in range(200):
        x = torch.from_numpy(rng.standard_normal(2))
        posterior.update(x, float(x[0]) + 0.5 * float(rng.standard_normal()))
    samples = torch.stack([posterior.sample(rng) for _ in range(4000)])
    assert torch.allclose(samples.mean(0), posterior.mean(), atol=0.01)
    expected = 0.25 * torch.linalg.inv(posterior.precision)
    assert torch.allclose(samples.T.cov(), expected, rtol=0.25, atol=2e-4)


def test_the_posterior_without_observations_is_the_prior():
    posterior = BayesianRegression(torch.tensor([1.0, -2.0]), prior_precision=0.1)
    assert posterior.mean().tolist() == [1.0, -2.0]
    posterior.update(torch.tensor([1.0, 0.0]), 1.0)  # as expected
    assert posterior.mean().tolist() == pytest.approx([1.0, -2.0])
    posterior.update(torch.tensor([1.0, 0.0]), 4.0)
    assert 1.0 < posterior.mean()[0] < 4.0


def test_forgetting_tracks_a_drift():
    keeps, forgets = (BayesianRegression(torch.zeros(1), prior_precision=0.01) for _ in range(2))
    one = torch.ones(1)
    for value in [0.0] * 50 + [1.0] * 20:
        keeps.update(one, value)
        forgets.update(one, value, forgetting=0.8)
    assert keeps.mean().item() < 0.4
    assert forgets.mean().item() > 0.9


@pytest.mark.parametrize("n_patches", [1, 2, 3, 16, 64, 196])
def test_arms_rise_to_all_patches(n_patches):
    arms = possible_counts(n_patches)
    assert arms == sorted(set(arms))
    assert arms[0] >= 1
    assert arms[-1] == n_patches


def test_learns_a_schedule_from_rewards_at_the_end():
    """Random arms earn -2.2 on average, the best constant number -0.8."""
    agent = PatchBandit("BanditPolicy", Schedule(lambda place, _: 2 * 8**place), seed=0)
    agent.learn(20 * 120)
    first, middle, last = counts(agent)
    assert first <= 3 < middle <= 8 < last
    rewards = [episode["r"] for episode in agent.ep_info_buffer][-20:]
    assert np.mean(rewards) > -0.4


@pytest.mark.long
def test_learns_that_longer_runs_need_more_patches():
    env = Schedule(lambda _, length: 2 if length == 16 else 11, lengths=(16, 128))
    agent = PatchBandit("BanditPolicy", env, seed=0).learn(12_000)
    assert np.median(counts(agent, 16)) <= 3
    assert np.median(counts(agent, 128)) >= 8


@pytest.mark.long
def test_learns_which_patches_pay():
    bonus = np.zeros(N_PATCHES)
    bonus[:4] = 4.0
    env = Schedule(lambda *_: 4, noise=0.0, bonus=bonus)
    kwargs = {"score_precision": 0.1, "sampling": "uniform"}
    agent = PatchBandit("BanditPolicy", env, decision_steps=None, policy_kwargs=kwargs, seed=0)
    agent.learn(20 * 200)
    scores = agent.policy.of_patches.mean()
    assert scores[:4].min() > scores[4:].max()


@pytest.mark.long
def test_decisions_within_a_run_are_credited_with_their_reward_over_their_budget():
    class Pays(Schedule):
        def step(self, action):
            observation, _, terminated, done, info = super().step(action)
            return observation, float(action.sum() == 4), terminated, done, info

    env = Pays(lambda *_: 4, lengths=(200,))
    agent = PatchBandit("BanditPolicy", env, decision_steps=10, seed=0).learn(4000)
    assert counts(agent, 200) == [4, 4, 4]


def test_an_agent_that_does_not_learn_updates_nothing():
    agent = PatchBandit("BanditPolicy", Schedule(lambda *_: 4), learning=False, seed=0).learn(100)
    assert float(agent.policy.of_counts.n_seen) == 0


def test_runs_in_several_environments_and_from_a_file(tmp_path):
    make = lambda: Schedule(lambda *_: 4)  # noqa: E731
    agent = PatchBandit("BanditPolicy", DummyVecEnv([make, make]), seed=0).learn(2 * 20 * 10)
    assert float(agent.policy.of_counts.n_seen) == 20
    agent.save(tmp_path / "agent.zip")
    again = PatchBandit.load(tmp_path / "agent.zip")
    observation = np.zeros((3, N_PATCHES + 3), dtype=np.float32)
    expected, _ = agent.predict(observation, deterministic=True)
    assert (again.predict(observation, deterministic=True)[0] == expected).all()


@pytest.mark.parametrize(
    ("grid", "other"),
    [((4, 4), (7, 7)), ((4, 6), (2, 3)), ((7, 5), (14, 10)), ((8, 8), (24, 16)), ((3, 3), (3, 3))],
)
def test_resampled_scores_are_those_of_the_same_place(grid, other):
    """Scores that are linear in the place remain so, but at the margins, which are not known."""
    before, after = ([(np.arange(side) + 0.5) / side for side in one] for one in (grid, other))
    scores = torch.from_numpy(np.add.outer(2 * before[0], before[1])).flatten()
    new = resampled(scores, grid, other).view(other)
    rows, columns = (
        (new > old[1]) & (new < old[-2]) if len(old) > 3 else new > 0
        for old, new in zip(before, after, strict=True)
    )
    expected = torch.from_numpy(np.add.outer(2 * after[0], after[1]))
    assert torch.allclose(new[rows][:, columns], expected[rows][:, columns], atol=1e-6)
    assert new.mean().item() == pytest.approx(1.5, abs=0.02)


@pytest.mark.long
def test_a_file_acts_and_learns_on_another_number_of_patches(tmp_path):
    make = lambda grid: ViTPatchSelectEnv(  # noqa: E731
        **TINY
        | {"observation": "none+run", "image_size": (8 * grid[0], 8 * grid[1])}
        | {"n_patches_desired": None, "epochs": 1}
    )
    agent = PatchBandit("BanditPolicy", make((2, 8)), seed=0).learn(40)
    agent.save(tmp_path / "agent.zip")
    same = PatchBandit.load(tmp_path / "agent.zip", env=make((2, 8)))
    assert torch.equal(same.policy.of_patches.mean(), agent.policy.of_patches.mean())
    other = PatchBandit.load(tmp_path / "agent.zip", env=make((4, 4)))
    expected = resampled(agent.policy.of_patches.mean(), (2, 8), (4, 4))
    assert torch.allclose(other.policy.of_patches.mean(), expected)
    bigger = PatchBandit.load(tmp_path / "agent.zip", env=make((4, 6)))
    for name, value in agent.policy.of_counts.state_dict().items():
        assert torch.equal(value, bigger.policy.of_counts.state_dict()[name])
    expected = resampled(agent.policy.of_patches.mean(), (2, 8), (4, 6))
    assert torch.allclose(bigger.policy.of_patches.mean(), expected)
    n_seen = float(bigger.policy.of_counts.n_seen)
    bigger.learn(20)
    assert float(bigger.policy.of_counts.n_seen) > n_seen


def test_scores_of_patches_without_a_grid_are_not_resampled():
    without, square = (
        BanditPolicy(spaces.Box(0, 1, (n + 3,)), spaces.MultiBinary(n), sampling="uniform")
        for n in (15, 16)
    )
    with pytest.raises(ValueError, match="n_patches must be a square number, got 15"):
        square.load_state_dict(without.state_dict())


def test_same_seed_same_masks():
    env = ViTPatchSelectEnv(**{**TINY, "observation": "none+run", "reward": "validation"})
    rewards = []
    for _ in range(2):
        agent = PatchBandit("BanditPolicy", env, seed=3).learn(28)
        rewards.append([episode["r"] for episode in agent.ep_info_buffer])
    assert rewards[0] == rewards[1]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"decision_steps": 0}, r"decision_steps must be in \[1, inf\), got 0"),
        ({"forgetting": 0}, r"forgetting must be in \(0, 1\], got 0"),
        (
            {"policy_kwargs": {"sampling": "grid"}},
            "sampling must be one of uniform, spread, got 'grid'",
        ),
        ({"policy_kwargs": {"n_stages": 1}}, r"n_stages must be in \[2, inf\), got 1"),
    ],
)
def test_bad_values_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PatchBandit("BanditPolicy", Schedule(lambda *_: 4), **kwargs)


def test_an_observation_without_run_features_is_refused():
    with pytest.raises(ValueError, match=r"none\+run, of shape \(19,\), got \(16,\)"):
        PatchBandit("BanditPolicy", ViTPatchSelectEnv(**TINY))
