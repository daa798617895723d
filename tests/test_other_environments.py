"""What this package's agents assume of an environment other than ViTPatchSelect-v0."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from vit_patch_env.agents import FixedRule, Frozen, MultiOutputDQN, PatchBandit


class Other(gym.Env):
    """An environment of the right shape, whose info is empty unless it is given."""

    def __init__(self, n_patches=16, n_more=3, info=None, length=20, places=None):
        self.observation_space = spaces.Box(0, 1, (n_patches + n_more,), np.float32)
        self.action_space = spaces.MultiBinary(n_patches)
        self.info, self.length = info or {}, length
        self.places = places or (lambda step: step / length)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return self._observation(), {}

    def step(self, action):
        self.n_steps += 1
        reward = -abs(float(action.sum()) - 4) / self.length
        info = {key: value(self.n_steps) for key, value in self.info.items()}
        return self._observation(), reward, False, self.n_steps == self.length, info

    def _observation(self):
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[self.action_space.n :] = self.places(self.n_steps)
        return observation


def learned(env, **kwargs):
    agent = PatchBandit("BanditPolicy", env, seed=0, **kwargs).learn(20 * 60)
    return agent.policy.of_counts.mean(), agent


@pytest.mark.one_in(2)
@pytest.mark.parametrize("decision_steps", [None, 5])
def test_the_bandit_reads_the_progress_from_the_observation_if_info_lacks_it(decision_steps):
    weights, agent = learned(Other(), decision_steps=decision_steps)
    # Single precision, as observations have it, so that both samples are the same.
    told = Other(info={"progress": lambda step: float(np.float32(step / 20))})
    expected, _ = learned(told, decision_steps=decision_steps)
    assert weights.tolist() == expected.tolist()
    assert float(agent.policy.of_counts.n_seen) == (60 if decision_steps is None else 240)
    assert agent.policy.best_count(0.5, 512, weights) in (3, 4, 5, 6)


def test_the_bandit_learns_in_several_other_environments():
    agent = PatchBandit("BanditPolicy", DummyVecEnv([Other, Other]), seed=0).learn(2 * 20 * 3)
    assert float(agent.policy.of_counts.n_seen) == 6


def test_the_bandit_refuses_an_environment_that_does_not_say_the_progress():
    agent = PatchBandit("BanditPolicy", Other(places=lambda step: 0.0), seed=0)
    with pytest.raises(ValueError, match=r"^env must report .* info\['progress'\].*, got [^\n]*$"):
        agent.learn(100)


@pytest.mark.parametrize("n_patches", [15, 17])
def test_patches_that_form_no_square_cannot_be_spread(n_patches):
    env = Other(n_patches)
    message = f"n_patches must be a square number, got {n_patches}"
    with pytest.raises(ValueError, match=message):
        PatchBandit("BanditPolicy", env)
    with pytest.raises(ValueError, match=message):
        FixedRule("spread", env, n_keep=4)
    agent = PatchBandit("BanditPolicy", env, policy_kwargs={"sampling": "uniform"}, seed=0)
    assert float(agent.learn(40).policy.of_counts.n_seen) == 2


def test_a_function_of_the_progress_needs_an_environment_that_says_it():
    agent = FixedRule("random", Other(), n_keep=lambda progress: 4)
    with pytest.raises(ValueError, match=r"n_keep as a function needs .* progress, .*, got .*$"):
        agent.learn(20)


@pytest.mark.parametrize("n_keep", [4, [4] * 20])
def test_other_rules_need_nothing_of_an_environment(n_keep):
    agent = FixedRule("random", Other(n_more=0), n_keep=n_keep).learn(20)
    assert agent.num_timesteps == 20


def test_the_most_attended_patches_need_a_value_for_each_patch():
    env = Other(16, n_more=-4)
    with pytest.raises(ValueError, match=r"must have 16 numbers or more, .*, got \(12,\)"):
        FixedRule("attended", env, n_keep=14)


@pytest.mark.parametrize("rule", ["random", "all", "attended"])
def test_observations_that_are_no_arrays_are_refused(rule):
    env = Other()
    env.observation_space = spaces.Dict({"values": spaces.Box(0, 1, (16,))})
    with pytest.raises(ValueError, match=r"^observation_space must [^\n]*$"):
        FixedRule(rule, env, n_keep=4)


def test_the_dqn_and_frozen_agents_need_nothing_of_an_environment():
    agent = MultiOutputDQN("MlpPolicy", Other(), policy_kwargs={"net_arch": [8]}, seed=0).learn(90)
    assert Frozen(agent).learn(20).num_timesteps == 20


def counts_in_each_env(agent, n_steps):
    seen = []
    agent.learn(n_steps, callback=lambda now, _: seen.append(now["actions"].sum(axis=1)) or True)
    return np.array(seen).T.tolist()


def test_the_bandit_acts_by_the_true_progress_where_observations_are_normalised():
    told = {"progress": lambda step: step / 20}
    envs = VecNormalize(DummyVecEnv([lambda: Other(info=told)]), norm_reward=False)
    agent = PatchBandit("BanditPolicy", envs, learning=False, seed=0)
    plain = PatchBandit("BanditPolicy", Other(info=told), learning=False, seed=0)
    assert counts_in_each_env(agent, 40) == counts_in_each_env(plain, 40)
    observation = np.full(19, 1.4, dtype=np.float32)
    with pytest.raises(ValueError, match=r"^observation must have the share .*, got 1\.39999"):
        agent.predict(observation)


def test_a_function_of_the_progress_is_asked_for_each_environment():
    def make(length):
        return lambda: Other(info={"progress": lambda step: step / length}, length=length)

    envs = DummyVecEnv([make(5), make(20)])
    agent = FixedRule("random", envs, n_keep=lambda progress: 1 + round(10 * progress), seed=0)
    expected = [[1, 3, 5, 7, 9] * 2, [1 + round(10 * step / 20) for step in range(10)]]
    assert counts_in_each_env(agent, 20) == expected


@pytest.mark.parametrize(("assigned", "expected"), [(2, [2] * 4), ([3, 4, 5, 6], [3, 4, 5, 6])])
def test_a_rules_number_may_be_assigned_before_it_learns(assigned, expected):
    rule = FixedRule("random", Other(), n_keep=8, seed=0)
    rule.n_keep = assigned
    assert counts_in_each_env(rule, 4) == [expected]
    rule.n_keep = 0
    with pytest.raises(ValueError, match=r"^n_keep must be an integer in \[1, 16\]"):
        rule.learn(4)


def test_numbers_for_too_few_steps_of_several_environments_are_refused():
    rule = FixedRule("random", DummyVecEnv([Other, Other]), n_keep=[8] * 9)
    with pytest.raises(ValueError, match=r"^n_keep must be a number for each of 10 steps, got 9$"):
        rule.learn(20)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (MultiOutputDQN, {"gamma": 5.0}),
        (MultiOutputDQN, {"gamma": float("nan")}),
        (MultiOutputDQN, {"target_update_interval": 0}),
        (MultiOutputDQN, {"batch_size": 8.0}),
        (PatchBandit, {"forgetting": 5}),
        (PatchBandit, {"decision_steps": 2.5}),
    ],
)
def test_values_given_to_load_are_checked(kind, values, tmp_path):
    policy = "MlpPolicy" if kind is MultiOutputDQN else "BanditPolicy"
    kind(policy, Other(), seed=0).save(tmp_path / "agent.zip")
    (name,) = values
    with pytest.raises(ValueError, match=f"^{name} must be .*, got"):
        kind.load(tmp_path / "agent.zip", **values)
