import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvMultiBinary
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_patch_env.agents import BranchingMlpPolicy, MlpPolicy, MultiOutputDQN
from vit_patch_env.agents.multi_output_dqn.exploration import exponential_epsilon

POLICIES = ["MlpPolicy", "BranchingMlpPolicy"]


class PaidPatches(gym.Env):
    """Half of the patches earn, half cost; the observation says which. Random play earns 0."""

    def __init__(self, n_patches=8, episode_length=50):
        self.observation_space = spaces.Box(-1, 1, (n_patches,), np.float32)
        self.action_space = spaces.MultiBinary(n_patches)
        self.episode_length = episode_length

    def _next_pay(self):
        half = self.action_space.n // 2
        self.pay = self.np_random.permutation(np.repeat([1, -1], half)).astype(np.float32)
        return self.pay.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n_steps = 0
        return self._next_pay(), {}

    def step(self, action):
        reward = float((self.pay * action).sum()) / (self.action_space.n // 2)
        self.n_steps += 1
        return self._next_pay(), reward, False, self.n_steps >= self.episode_length, {}


def mean_reward(model, n_episodes=5):
    env = model.get_env()
    return evaluate_policy(model, env, n_eval_episodes=n_episodes, warn=False)[0]


def make_policy(kind, n_actions=4):
    return kind(
        spaces.Box(-1, 1, (3,), np.float32), spaces.MultiBinary(n_actions), FloatSchedule(0.01)
    )


@pytest.mark.long
@pytest.mark.one_in(2)
@pytest.mark.parametrize("seed", [0, 1])
def test_branching_solves_the_identity_task_that_random_play_solves_one_time_in_sixteen(seed):
    model = MultiOutputDQN("BranchingMlpPolicy", IdentityEnvMultiBinary(4), seed=seed)
    assert mean_reward(model) < 40  # untrained; random play has 6 of 100
    model.learn(2000)
    assert mean_reward(model) >= 90


@pytest.mark.long
@pytest.mark.parametrize("policy", POLICIES)
def test_learns_which_patches_pay(policy):
    model = MultiOutputDQN(policy, PaidPatches(), seed=0).learn(2000)
    random = [
        sum(PaidPatches.step(env, env.action_space.sample())[1] for _ in range(50))
        for env in (seeded(seed) for seed in range(20))
    ]
    assert abs(np.mean(random)) < 6
    assert mean_reward(model) > 40  # of 50


def seeded(seed):
    env = PaidPatches()
    env.reset(seed=seed)
    env.action_space.seed(seed)
    return env


def test_defaults_are_the_papers_table_1():
    model = MultiOutputDQN("MlpPolicy", PaidPatches())
    assert model.buffer_size == 1024
    assert model.batch_size == 64
    assert model.gamma == 0.95
    assert (model.exploration_initial_eps, model.exploration_final_eps) == (1.0, 0.01)
    assert model.exploration_decay_steps == 20_000
    assert model.learning_rate == 0.01
    assert model.tau == 0.1
    assert model.target_update_interval == 2
    assert model.train_freq.frequency == 10
    sizes = [layer.out_features for layer in model.policy.q_net.q_net if hasattr(layer, "bias")]
    assert sizes == [1024, 256, 8]


def test_epsilon_decays_exponentially():
    assert exponential_epsilon(0, 1.0, 0.01, 20_000) == 1.0
    assert exponential_epsilon(20_000, 1.0, 0.01, 20_000) == pytest.approx(0.01 + 0.99 / np.e)
    assert exponential_epsilon(10**7, 1.0, 0.01, 20_000) == pytest.approx(0.01)


def test_epsilon_follows_the_steps_and_scales_with_a_short_run():
    model = MultiOutputDQN("MlpPolicy", PaidPatches()).learn(390)
    assert model.exploration_decay_steps == pytest.approx(200)
    assert model.exploration_rate == pytest.approx(exponential_epsilon(390, 1, 0.01, 200))


def test_epsilon_never_jumps_back_up():
    model = MultiOutputDQN("MlpPolicy", PaidPatches()).learn(200)
    before = model.exploration_rate
    model.learn(200, reset_num_timesteps=False)
    assert model.exploration_rate < before


def test_a_set_decay_is_not_scaled():
    model = MultiOutputDQN("MlpPolicy", PaidPatches(), exploration_decay_steps=1000).learn(100)
    assert model.exploration_decay_steps == 1000
    assert model.exploration_rate == pytest.approx(exponential_epsilon(100, 1, 0.01, 1000))


def test_the_papers_policy_selects_values_above_the_mean():
    policy = make_policy(MlpPolicy)
    values = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, -1.0]])
    assert policy.greedy(values).tolist() == [
        [False, False, False, True],
        [True, True, True, False],
    ]


def test_the_papers_target_is_the_highest_value_and_updates_selected_patches():
    policy = make_policy(MlpPolicy)
    obs = torch.rand(5, 3)
    assert torch.equal(policy.next_value(obs), policy.q_net_target(obs).max(dim=1, keepdim=True)[0])
    actions = torch.tensor([[1, 0, 0, 1]]).expand(5, -1)
    values, taken = policy.taken_values(obs, actions)
    assert torch.equal(values, policy.q_net(obs))
    assert torch.equal(taken, actions.bool())


def test_branching_selects_the_better_of_drop_and_keep():
    policy = make_policy(BranchingMlpPolicy, n_actions=2)
    drop_then_keep = torch.tensor([[0.0, 1.0, 5.0, 2.0]])
    assert policy.greedy(drop_then_keep).tolist() == [[True, False]]


def test_branchings_target_is_the_mean_of_the_best_and_updates_every_branch():
    policy = make_policy(BranchingMlpPolicy, n_actions=2)
    obs = torch.rand(3, 3)
    outputs = policy.q_net_target(obs)
    best = (outputs[:, :2].max(1).values + outputs[:, 2:].max(1).values) / 2
    assert torch.allclose(policy.next_value(obs)[:, 0], best)
    values, taken = policy.taken_values(obs, torch.tensor([[0.0, 1.0]]).expand(3, -1))
    expected = policy.q_net(obs)
    assert torch.equal(values, expected[:, [0, 3]])
    assert taken.all()


def filled_model(policy, **kwargs):
    model = MultiOutputDQN(policy, PaidPatches(), seed=0, **kwargs)
    model.learn(80)
    return model


def test_only_selected_patches_change_in_the_papers_update():
    model = filled_model("MlpPolicy")
    model.replay_buffer.actions[:] = 0
    model.replay_buffer.actions[:, :, 2] = 1
    last = model.policy.q_net.q_net[-1]
    before = last.weight.clone()
    model.train(gradient_steps=1, batch_size=16)
    moved = (last.weight != before).any(dim=1)
    assert moved[2]
    # Adam's momentum of earlier updates may change the rest; that of a fresh optimizer does not.
    model.policy.optimizer.state.clear()
    before = last.weight.clone()
    model.train(gradient_steps=1, batch_size=16)
    assert (last.weight != before).any(dim=1).tolist() == [index == 2 for index in range(8)]


def test_a_batch_of_empty_actions_is_no_nan():
    model = filled_model("MlpPolicy")
    model.replay_buffer.actions[:] = 0
    model.train(gradient_steps=2, batch_size=16)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_the_target_is_updated_softly_every_second_update():
    model = filled_model("MlpPolicy", learning_starts=1000)
    target = next(model.policy.q_net_target.parameters())
    before = target.clone()
    model.train(gradient_steps=1, batch_size=16)
    assert torch.equal(target, before)
    model.train(gradient_steps=1, batch_size=16)
    online = next(model.policy.q_net.parameters())
    assert torch.allclose(target, before + 0.1 * (online - before), atol=1e-7)


@pytest.mark.parametrize("policy", POLICIES)
def test_predict_on_one_and_on_many_observations(policy):
    model = MultiOutputDQN(policy, PaidPatches(), seed=0)
    one, state = model.predict(np.zeros(8, dtype=np.float32), deterministic=True)
    many, _ = model.predict(np.zeros((3, 8), dtype=np.float32), deterministic=True)
    assert state is None
    assert one.shape == (8,)
    assert many.shape == (3, 8)
    assert (many == one).all()
    assert model.action_space.contains(one)


def test_predict_explores_each_observation_by_epsilon():
    model = MultiOutputDQN("MlpPolicy", PaidPatches(16), seed=0)
    observations = np.zeros((400, 16), dtype=np.float32)
    greedy, _ = model.predict(observations, deterministic=True)
    for epsilon in (0.0, 0.3, 1.0):
        model.exploration_rate = epsilon
        explored, _ = model.predict(observations)
        share = (explored != greedy).any(axis=1).mean()
        assert share == pytest.approx(epsilon, abs=0.07)


@pytest.mark.parametrize("policy", POLICIES)
def test_save_and_load_restore_the_agent_and_its_replay_buffer(policy, tmp_path):
    model = filled_model(policy, policy_kwargs={"net_arch": [32]})
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 8)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    model.save(tmp_path / "agent.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = MultiOutputDQN.load(tmp_path / "agent.zip", env=PaidPatches())
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert loaded.replay_buffer.pos == 80
    assert loaded.exploration_decay_steps == model.exploration_decay_steps
    assert loaded.exploration_rate == model.exploration_rate
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps == 180


def test_learns_in_several_environments_at_once():
    model = MultiOutputDQN("MlpPolicy", DummyVecEnv([PaidPatches, PaidPatches]), seed=0)
    model.learn(200)
    assert model.num_timesteps >= 200
    assert model.replay_buffer.actions.shape[1] == 2


def test_set_env_and_policy_kwargs_and_device():
    model = MultiOutputDQN(
        "MlpPolicy",
        PaidPatches(),
        policy_kwargs={"net_arch": [16], "activation_fn": torch.nn.Tanh},
        device="cpu",
    )
    assert model.policy.q_net.net_arch == [16]
    model.set_env(PaidPatches())
    model.learn(30)


def test_n_step_returns_and_vec_normalize_come_with_the_base_class():
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(DummyVecEnv([PaidPatches]))
    model = MultiOutputDQN("BranchingMlpPolicy", env, n_steps=3, seed=0).learn(150)
    assert model.num_timesteps >= 150


@pytest.mark.parametrize("policy", POLICIES)
def test_same_seed_same_agent(policy):
    first, second = (MultiOutputDQN(policy, PaidPatches(), seed=4).learn(200) for _ in range(2))
    for one, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3's choice of bar
def test_learn_with_a_progress_bar_writes_tensorboard(tmp_path):
    model = MultiOutputDQN("MlpPolicy", PaidPatches(), tensorboard_log=str(tmp_path), seed=0)
    model.learn(200, progress_bar=True, tb_log_name="mine", log_interval=1)
    events = EventAccumulator(str(tmp_path / "mine_1"))
    events.Reload()
    assert {"agent/epsilon", "train/loss", "train/learning_rate", "rollout/ep_rew_mean"} <= set(
        events.Tags()["scalars"]
    )


def test_runs_are_logged_by_the_logger_that_was_set(tmp_path):
    model = MultiOutputDQN("MlpPolicy", PaidPatches())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(100, log_interval=1)
    model.logger.close()
    assert "agent/epsilon" in (tmp_path / "progress.csv").read_text()


def test_other_action_spaces_are_refused():
    with pytest.raises(AssertionError, match="only supports"):
        MultiOutputDQN("MlpPolicy", IdentityEnv(4))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"exploration_initial_eps": 1.5}, r"exploration_initial_eps must be in \[0, 1\], got 1.5"),
        ({"exploration_final_eps": -1}, r"exploration_final_eps must be in \[0, 1\], got -1"),
        ({"exploration_decay_steps": 0}, r"exploration_decay_steps must be in \(0, inf\], got 0"),
        ({"gamma": -3}, r"gamma must be in \[0, 1\], got -3"),
        ({"batch_size": 0}, r"batch_size must be in \[1, inf\), got 0"),
        ({"learning_rate": 0}, r"learning_rate must be in \(0, inf\), got 0"),
    ],
)
def test_bad_values_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MultiOutputDQN("MlpPolicy", PaidPatches(), **kwargs)


def test_infinity_turns_clipping_and_decay_off():
    model = MultiOutputDQN(
        "MlpPolicy", PaidPatches(), max_grad_norm=np.inf, exploration_decay_steps=np.inf, seed=0
    ).learn(100)
    assert model.exploration_rate == 1.0
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("name", ["max_grad_norm", "exploration_decay_steps", "gamma"])
def test_nan_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be in .*, got nan"):
        MultiOutputDQN("MlpPolicy", PaidPatches(), **{name: np.nan})
