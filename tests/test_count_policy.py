"""MultiOutputDQN's policy that decides how many patches to keep, on any grid."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from tests.conftest import TINY
from tests.test_cli import train
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.experiments.cli import main

N_PATCHES = 64


class Wanted(gym.Env):
    """In the first half of an episode few patches earn, in the second half many.

    The reward is 1 less than the distance from the wanted number in factors of two: a random
    number of the nine earns about -0.5.
    """

    def __init__(self, n_patches=N_PATCHES, episode_length=20):
        self.observation_space = spaces.Box(0, 1, (n_patches + 3,), np.float32)
        self.action_space = spaces.MultiBinary(n_patches)
        self.episode_length = episode_length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return self._observation(), {}

    def step(self, action):
        few = self.n_steps < self.episode_length // 2
        wanted = self.action_space.n // (16 if few else 2)
        reward = 1 - abs(np.log2(action.sum() / wanted))
        self.n_steps += 1
        return self._observation(), float(reward), False, self.n_steps == self.episode_length, {}

    def _observation(self):
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[-3] = self.n_steps / self.episode_length
        return observation


def chosen(agent, env):
    """The numbers of patches over an episode, and its return."""
    observation, _ = env.reset(seed=0)
    counts, total = [], 0.0
    for _ in range(env.episode_length):
        action, _ = agent.predict(observation, deterministic=True)
        counts.append(int(action.sum()))
        observation, reward, *_ = env.step(action)
        total += reward
    return counts, total


@pytest.mark.long
def test_learns_a_number_of_patches_at_each_point_of_a_run_and_keeps_it_on_another_grid(tmp_path):
    agent = MultiOutputDQN(
        "CountMlpPolicy", Wanted(), gamma=0.0, train_freq=1, learning_rate=3e-3,
        exploration_decay_steps=200, buffer_size=4000, seed=0,
    ).learn(1200)  # fmt: skip
    counts, total = chosen(agent, Wanted())
    assert total > 15  # of 20; random numbers earn about -10
    assert np.mean(counts[:8]) < 8 < 20 < np.mean(counts[12:])
    other = MultiOutputDQN("CountMlpPolicy", Wanted(256), seed=0)
    other.set_parameters(agent.get_parameters())
    assert chosen(other, Wanted(256))[0] == [4 * count for count in counts]


def test_random_actions_are_numbers_on_a_logarithmic_scale():
    agent = MultiOutputDQN("CountMlpPolicy", Wanted(), seed=0)
    rng = np.random.default_rng(0)
    counts = {int(agent.policy.random_action(rng).sum()) for _ in range(300)}
    assert counts == {4, 6, 8, 11, 16, 23, 32, 45, 64}


def test_a_mask_of_another_rule_counts_as_the_nearest_number():
    agent = MultiOutputDQN("CountMlpPolicy", Wanted(), seed=0)
    observation = torch.rand(1, N_PATCHES + 3)
    values = agent.policy.q_net(observation)[0]
    for n_kept, place in ((0, 0), (5, 1), (15, 4), (60, 8)):
        mask = torch.zeros(1, N_PATCHES)
        mask[0, :n_kept] = 1
        found, taken = agent.policy.taken_values(observation, mask)
        assert found.tolist() == [[values[place].item()]]
        assert taken.all()


def test_the_same_observation_gets_the_same_patches_and_each_step_others():
    agent, env = MultiOutputDQN("CountMlpPolicy", Wanted(), seed=0), Wanted()
    with torch.no_grad():  # 16 patches, always
        agent.policy.q_net.q_net[-1].bias.copy_(10 * torch.eye(9)[4])
    first, again = (env.reset(seed=0)[0] for _ in range(2))
    masks = [agent.predict(one, deterministic=True)[0] for one in (first, again)]
    assert (masks[0] == masks[1]).all()
    following = agent.predict(env.step(masks[0])[0], deterministic=True)[0]
    assert following.sum() == masks[0].sum() == 16
    assert (following != masks[0]).any()


def test_numbers_that_are_the_same_on_a_small_grid_are_one():
    agent = MultiOutputDQN("CountMlpPolicy", Wanted(16), seed=0)
    assert agent.policy.counts[:2] == [1, 1]
    with torch.no_grad():
        for network in (agent.policy.q_net, agent.policy.q_net_target):
            network.q_net[-1].bias[1] = 1000.0
    observation = torch.rand(3, 19)
    assert (agent.policy.next_value(observation) < 100).all()
    assert agent.policy._possible(agent.policy.q_net(observation)).argmax(dim=1).ne(1).all()


def test_a_saved_agent_of_a_flat_grid_is_loaded_without_an_environment(tmp_path):
    env = ViTPatchSelectEnv(
        **{**TINY, "observation": "none+run", "image_size": (16, 24), "patch_size": 4}
    )
    MultiOutputDQN("CountMlpPolicy", env, seed=0).save(tmp_path / "agent.zip")
    loaded = MultiOutputDQN.load(tmp_path / "agent.zip")
    assert loaded.policy.grid == (4, 6)
    assert loaded.predict(np.zeros(27, np.float32))[0].shape == (24,)


def test_observations_without_run_features_are_refused():
    env = ViTPatchSelectEnv(**{**TINY, "observation": "none"})
    with pytest.raises(ValueError, match=r"needs an observation with run features, such as none"):
        MultiOutputDQN("CountMlpPolicy", env)


@pytest.mark.long
def test_it_is_pretrained_and_trains_another_vit(tmp_path):
    main(
        ["pretrain", "--agent", "counting", "--episodes", "2", "--dataset", "synthetic",
         "--image-size", "32", "--patch-size", "8", "--epochs", "1", "--batch-size", "64",
         "--dim", "16", "--depth", "1", "--heads", "2", "--dim-head", "8", "--mlp-dim", "16",
         "--device", "cpu", "--precision", "fp32", "--dqn.learning-starts", "4",
         "--dqn.gamma", "0.99", "--out", str(tmp_path / "agent.zip")]
    )  # fmt: skip
    result = train(
        tmp_path / "run", "--agent", str(tmp_path / "agent.zip"), "--patch-size", "4", "--epochs",
        "1",
    )  # fmt: skip
    assert 4 <= result["n_selected_mean"] <= 64
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["env"]["observation"] == "none+run"
