"""Every patch an agent: PettingZoo's own tests, and what agents observe and cause."""

import subprocess
import sys
import warnings
from operator import itemgetter

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

from tests.conftest import TINY

pytest.importorskip("pettingzoo")

with warnings.catch_warnings():  # of its own games, if they can be imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import parallel_api_test, parallel_seed_test

from vit_patch_env.multi_agent import PatchAgents, SharedPolicy, agent_observations

OBSERVATIONS = ("attention_output", "attention_received", "none", "attention_received+run")


class Echo(gym.Env):
    """Info holds the mask that arrived, and no progress."""

    def __init__(self, n_patches=4, n_numbers=4, action_space=None):
        self.observation_space = spaces.Box(-1, 1, (n_numbers,), np.float32)
        self.action_space = action_space or spaces.MultiBinary(n_patches)
        self.values = np.linspace(-1, 1, n_numbers, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        return self.values, {"progress": 0.0}

    def step(self, action):
        return self.values, 2.5, False, bool(action.all()), {"mask": action, "progress": 0.5}


def make(**more):
    return PatchAgents(gym.make("ViTPatchSelect-v0", **TINY, **more))


def chosen(agents, mask):
    return dict(zip(agents.agents, mask, strict=True))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_pettingzoos_tests_pass(observation):
    parallel_api_test(make(observation=observation), num_cycles=20)
    parallel_seed_test(lambda: make(observation=observation), num_cycles=1)


@pytest.mark.long
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_observations_are_in_their_space_until_the_end(observation):
    agents = make(observation=observation)
    observed, _ = agents.reset(seed=0)
    while agents.agents:
        for agent in agents.possible_agents:
            assert agents.observation_space(agent).contains(observed[agent])
        actions = {agent: agents.action_space(agent).sample() for agent in agents.agents}
        observed, *_ = agents.step(actions)
    assert set(observed) == set(agents.possible_agents)


def test_the_run_is_that_of_the_environment():
    agents, env = make(), gym.make("ViTPatchSelect-v0", **TINY)
    agents.reset(seed=3)
    observation, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    done = False
    while not done:
        np.testing.assert_array_equal(agents.state(), observation)
        mask = rng.integers(2, size=16)
        observation, reward, terminated, truncated, info = env.step(mask)
        _, rewards, terminations, truncations, infos = agents.step(
            dict(zip(agents.agents, mask.tolist(), strict=True))
        )
        assert set(rewards.values()) == {reward}
        assert set(terminations.values()) == {terminated}
        assert set(truncations.values()) == {truncated}
        assert all(of_agent == info for of_agent in infos.values())
        done = terminated or truncated
    assert agents.agents == []


def test_an_agent_observes_its_value_its_place_and_the_progress():
    agents = make(observation="attention_received")
    agents.reset(seed=0)
    observed, *_, infos = agents.step(chosen(agents, np.ones(16, dtype=np.int64)))
    values = agents.state().astype(np.float64)
    expected = [
        values[6],
        (values[6] - values.mean()) / values.std(),
        1.5 / 4,  # patch 6 is in the second row and third column
        2.5 / 4,
        infos["patch_6"]["progress"],
    ]
    np.testing.assert_allclose(observed["patch_6"], expected, rtol=1e-5)
    assert 0 < expected[-1] < 1


def test_all_agents_observe_the_features_of_the_run():
    agents = make(observation="none+run")
    observed, _ = agents.reset(seed=0)
    for numbers in observed.values():
        np.testing.assert_array_equal(numbers[4:], agents.state()[16:])
    assert agents.observation_space("patch_0").shape == (7,)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 4, 9, 64]), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.data())
def test_standardised_values_have_true_bounds(n_patches, mean, spread, data):
    values = mean + spread * np.array(
        data.draw(st.lists(st.floats(-1, 1), min_size=n_patches, max_size=n_patches))
    )
    column = agent_observations(values.astype(np.float32), np.zeros(1, np.float32))[:, 1]
    assert np.isfinite(column).all()
    assert np.abs(column).max() <= max(np.sqrt(n_patches), 1)
    assert column.mean() == pytest.approx(0, abs=1e-4)


def test_equal_values_are_standardised_to_zero():
    values = np.full(64, 0.1, dtype=np.float32)
    assert not agent_observations(values, np.zeros(1, np.float32))[:, 1].any()


def test_the_mask_is_what_the_agents_choose_whatever_their_order():
    agents = PatchAgents(Echo())
    agents.reset()
    actions = {"patch_3": np.int64(1), "patch_0": 0, "patch_2": np.array(0), "patch_1": 1}
    *_, infos = agents.step(actions)
    assert infos["patch_0"]["mask"].tolist() == [0, 1, 0, 1]


def test_infos_are_dicts_of_their_own():
    agents = PatchAgents(Echo())
    _, infos = agents.reset()
    infos["patch_0"]["terminal_observation"] = 1
    assert "terminal_observation" not in infos["patch_1"]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"patch_0": 1}, "must be one for each of 4 agents, got 1 of them, .* at 'patch_1'"),
        ({f"patch_{i}": 1 for i in range(5)}, "got 5 of them, which differ at 'patch_4'"),
        ([1] * 4, r"actions must be a dict with one for each of 4 agents, got \[1, 1, 1, 1\]"),
        ({f"patch_{i}": i for i in range(4)}, "the action of patch_2 must be 0 or 1, got 2"),
        ({f"patch_{i}": [1] for i in range(4)}, r"action of patch_0 must be 0 or 1, got \[1\]"),
        ({f"patch_{i}": None for i in range(4)}, "action of patch_0 must be 0 or 1, got None"),
    ],
)
def test_other_actions_are_refused(actions, message):
    agents = PatchAgents(Echo())
    agents.reset()
    with pytest.raises(ValueError, match=message):
        agents.step(actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_space": spaces.Discrete(4)}, r"env must have the action space MultiBinary\(n\)"),
        ({"n_patches": 5, "n_numbers": 5}, "must have a square number of patches or a grid, got 5"),
        ({"n_numbers": 3}, "must have an observation of 4 numbers or more, got Box"),
    ],
)
def test_other_environments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PatchAgents(Echo(**options))


def test_progress_is_needed_without_features(monkeypatch):
    monkeypatch.setattr(Echo, "reset", lambda self, **_: (self.values, {}))
    with pytest.raises(ValueError, match="info must have progress where the observation has no"):
        PatchAgents(Echo()).reset()
    PatchAgents(Echo(n_numbers=5)).reset()


def test_a_step_needs_a_reset_before_it_and_after_the_end():
    agents = PatchAgents(Echo())
    everything = dict.fromkeys(agents.possible_agents, 1)
    for _ in range(2):
        for call in (agents.state, lambda: agents.step(everything)):
            with pytest.raises(ValueError, match=r"^expected a reset before this call, got none$"):
                call()
        agents.reset()
        agents.step(everything)  # which ends the episode
        with pytest.raises(ValueError, match=r"a reset, as the episode has ended, got a step$"):
            agents.step(everything)
        agents.close()


def test_a_copy_goes_on_with_the_run():
    agents = make()
    agents.reset(seed=0)
    agents.step(dict.fromkeys(agents.agents, 1))
    copy = cloudpickle.loads(cloudpickle.dumps(agents))
    for one in (agents, copy):
        one.reset()
    np.testing.assert_array_equal(copy.state(), agents.state())


class KeepHigh:
    """Keeps patches whose standardised value is positive, and remembers what it was asked."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.asked = observation, deterministic
        return (observation[:, 1] > 0).astype(np.int64), None


@pytest.mark.parametrize(("observation", "features"), [("", [1]), ("+run", [1, 0, 1])])
def test_a_shared_policy_selects_patches_of_a_split(observation, features):
    agents = make(observation=f"attention_received{observation}")
    agents.reset(seed=0)
    env, policy = agents.env.unwrapped, KeepHigh()

    class Direct:
        def predict(self, observation, **_):
            values = observation[:16].astype(np.float64)
            return (values > values.mean()).astype(np.int8), None

    assert env.evaluate("val", SharedPolicy(policy, 16)) == env.evaluate("val", Direct())
    rows, deterministic = policy.asked
    np.testing.assert_array_equal(rows[:, 4:], [features] * 16)
    assert deterministic


@pytest.mark.long
def test_a_policy_learns_through_supersuit_what_each_patch_is_worth():
    """A random policy is right for 8 of 16 patches, as are all and none; this one for all 16."""
    supersuit = pytest.importorskip("supersuit")

    class RightHalf(gym.Env):
        """Patches in the right half are worth keeping."""

        observation_space = spaces.Box(-1, 1, (16,), np.float32)
        action_space = spaces.MultiBinary(16)
        right = np.tile([0, 0, 1, 1], 4)

        def reset(self, *, seed=None, options=None):
            self.steps = 0
            return np.zeros(16, np.float32), {"progress": 0.0}

        def step(self, action):
            self.steps += 1
            reward = float((action == self.right).sum()) - 8
            info = {"progress": self.steps / 8}
            return np.zeros(16, np.float32), reward, False, self.steps == 8, info

    vec_env = supersuit.concat_vec_envs_v1(
        supersuit.pettingzoo_env_to_vec_env_v1(PatchAgents(RightHalf())),
        1,
        base_class="stable_baselines3",
    )
    set_random_seed(0)
    options = {"n_steps": 64, "batch_size": 1024, "learning_rate": 1e-2, "gamma": 0.0}
    ppo = PPO("MlpPolicy", vec_env, device="cpu", **options)
    ppo.learn(16 * 64 * 8)
    mask, _ = SharedPolicy(ppo, 16).predict(np.zeros(16, np.float32), deterministic=True)
    assert (mask == RightHalf.right).sum() >= 14


@pytest.mark.long
def test_without_pettingzoo_the_error_names_the_extra():
    code = """
import sys
sys.modules["pettingzoo"] = None
try:
    import vit_patch_env.multi_agent
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == (
        "vit_patch_env.multi_agent needs pettingzoo: pip install 'vit-patch-env[multi-agent]'"
    )


def test_names_go_row_by_row():
    assert itemgetter(0, 1, -1)(PatchAgents(Echo()).possible_agents) == (
        "patch_0", "patch_1", "patch_3",
    )  # fmt: skip
