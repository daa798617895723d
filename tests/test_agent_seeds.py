"""What seeds, `learn` without a reset, `save` and `load` promise in Stable-Baselines3."""

import numpy as np
import pytest
from stable_baselines3 import DQN

from tests.conftest import TINY
from vit_patch_env import CountAction, ViTPatchSelectEnv
from vit_patch_env.agents import FixedRule, Frozen, MultiOutputDQN, PatchBandit

OBSERVATIONS = np.random.default_rng(0).uniform(0, 1, (30, 19)).astype(np.float32)


def make(**kwargs):
    return ViTPatchSelectEnv(**{**TINY, "observation": "none+run", **kwargs})


def dqn(seed=0, env=None, **kwargs):
    return MultiOutputDQN(
        "MlpPolicy", env or make(), seed=seed, policy_kwargs={"net_arch": [8]}, **kwargs
    )


def rule(seed=0, env=None, name="random", n_keep=5, **kwargs):
    return FixedRule(name, env or make(), n_keep=n_keep, seed=seed, **kwargs)


def bandit(seed=0, env=None, **kwargs):
    return PatchBandit("BanditPolicy", env or make(), seed=seed, **kwargs)


AGENTS = [dqn, rule, bandit]


def masks(agent, deterministic=False):
    return agent.predict(OBSERVATIONS, deterministic=deterministic)[0]


def actions_over(agent, n_steps, **kwargs):
    seen = []
    agent.learn(
        n_steps, callback=lambda now, _: seen.append(now["actions"].copy()) or True, **kwargs
    )
    return np.concatenate(seen)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_seed_set_again_gives_the_same_exploration(kind):
    agent = kind(seed=0)
    agent.exploration_rate = 0.5  # of the DQN, which then explores for some observations
    agent.set_random_seed(7)
    first = masks(agent)
    assert not np.array_equal(masks(agent), first)
    agent.set_random_seed(7)
    assert np.array_equal(masks(agent), first)
    agent.set_random_seed(8)
    assert not np.array_equal(masks(agent), first)


@pytest.mark.parametrize("kind", [rule, bandit])
def test_a_seed_set_later_is_that_of_a_new_agent(kind):
    agent = kind(seed=0)
    masks(agent)
    agent.set_random_seed(7)
    for deterministic in (False, True):
        assert np.array_equal(masks(agent, deterministic), masks(kind(seed=7), deterministic))


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "agent",
    [
        lambda: dqn(seed=3, learning_starts=10**6),
        lambda: dqn(seed=3, learning_starts=0, train_freq=14, exploration_decay_steps=5),
        lambda: rule(seed=3, name="spread"),
        lambda: bandit(seed=3, learning=False),
    ],
)
def test_a_run_is_repeated_after_its_seed_is_set_again(agent):
    agent = agent()
    agent.set_random_seed(5)
    first = actions_over(agent, 14)
    agent.set_random_seed(5)
    assert np.array_equal(actions_over(agent, 14), first)


def test_no_seed_leaves_exploration_as_it_is():
    first, second = rule(seed=1), rule(seed=1)
    masks(first), masks(second)
    second.set_random_seed(None)
    assert np.array_equal(masks(first), masks(second))


def test_a_frozen_agent_is_seeded():
    agent = Frozen(dqn(seed=0).learn(20))
    agent.agent.exploration_rate = 0.5
    agent.set_random_seed(7)
    first = masks(agent)
    agent.set_random_seed(7)
    assert np.array_equal(masks(agent), first)


@pytest.mark.long
def test_frozen_agents_of_stable_baselines3_are_seeded():
    env = CountAction(make(observation="none"))
    agent = Frozen(DQN("MlpPolicy", env, learning_starts=1, seed=0).learn(5))
    agent.agent.exploration_rate = 0.5
    agent.set_random_seed(7)
    observations = np.zeros((30, 16), np.float32)
    first = agent.predict(observations)[0]
    agent.set_random_seed(7)
    assert np.array_equal(agent.predict(observations)[0], first)


@pytest.mark.parametrize("kind", [rule, bandit])
def test_a_loaded_agent_continues_its_random_stream(kind, tmp_path):
    agent = kind(seed=0).learn(9)
    masks(agent)
    agent.save(tmp_path / "agent.zip")
    loaded = type(agent).load(tmp_path / "agent.zip")
    for _ in range(2):
        assert np.array_equal(masks(loaded), masks(agent))
    assert loaded.num_timesteps == agent.num_timesteps


def test_a_loaded_dqn_explores_when_the_saved_one_would(tmp_path):
    agent = dqn(seed=0).learn(20)
    agent.exploration_rate = 0.5
    masks(agent)
    agent.save(tmp_path / "agent.zip")
    loaded = MultiOutputDQN.load(tmp_path / "agent.zip")
    greedy = masks(agent, deterministic=True)
    for _ in range(2):
        explored = [(masks(one) != greedy).any(axis=1) for one in (agent, loaded)]
        assert explored[0].tolist() == explored[1].tolist()
        assert 0 < explored[0].sum() < len(greedy)


@pytest.mark.parametrize("kind", AGENTS)
def test_an_agent_loaded_with_a_seed_explores_by_it(kind, tmp_path):
    agent = kind(seed=0)
    masks(agent)
    agent.save(tmp_path / "agent.zip")
    loaded = type(agent).load(tmp_path / "agent.zip", seed=7)
    agent.set_random_seed(7)
    assert np.array_equal(masks(loaded), masks(agent))
    again = type(agent).load(tmp_path / "agent.zip")
    assert not np.array_equal(masks(again), masks(type(agent).load(tmp_path / "agent.zip", seed=7)))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("n_first", [5, 14])
@pytest.mark.parametrize("kind", [rule, bandit])
def test_learning_in_two_calls_is_learning_in_one(kind, n_first):
    counts = lambda progress: round(2 + 12 * progress)  # noqa: E731
    values = {"n_keep": counts} if kind is rule else {}
    whole, halved = kind(seed=2, **values), kind(seed=2, **values)
    expected = actions_over(whole, 33)
    first = actions_over(halved, n_first)
    second = actions_over(halved, 33 - n_first, reset_num_timesteps=False)
    assert np.array_equal(np.concatenate((first, second)), expected)
    assert halved.num_timesteps == whole.num_timesteps == 33
    if kind is bandit:
        assert float(halved.policy.of_counts.n_seen) == 2
        assert halved.policy.of_counts.mean().tolist() == whole.policy.of_counts.mean().tolist()


@pytest.mark.long
def test_learning_with_a_reset_starts_again():
    agent = rule(n_keep=lambda progress: round(2 + 12 * progress))
    first = actions_over(agent, 5).sum(axis=1)
    assert np.array_equal(actions_over(agent, 5).sum(axis=1), first)
    assert agent.num_timesteps == 5
    learner = dqn().learn(100)
    assert learner.exploration_rate < 0.7
    learner.learn(20)
    assert learner.num_timesteps == 20
    assert learner.exploration_decay_steps == pytest.approx(20_000 * 20 / 39_000)
