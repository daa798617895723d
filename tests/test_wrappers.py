import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from tests.conftest import TINY
from vit_patch_env import CountAction, TopKAction


class Echo(gym.Env):
    """Eight patches and three further numbers; info holds the mask that arrived."""

    def __init__(self, n_patches=8, values=(0.0,) * 11):
        self.values = np.array(values, dtype=np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, self.values.shape, np.float32)
        self.action_space = spaces.MultiBinary(n_patches)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.values.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.values.copy(), 0.0, False, False, {"mask": action}


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **kwargs})


def masks_of(env, seed, n_steps=10, action=1):
    if seed is not None:
        env.reset(seed=seed)
    return np.array([env.step(action)[-1]["mask"] for _ in range(n_steps)])


def scores_and_number(*scores, number):
    return np.array([*scores, number], dtype=np.float32)


WRAPPERS = {
    "top_k": TopKAction,
    "count": CountAction,
    "count_attended": lambda env: CountAction(env, counts=(2, 5, 16), sampling="attended"),
}
each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.mark.one_in(3)
# The checker prefers a bare environment: wrappers may break what it checks, and are checked here.
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version:UserWarning")
@each_wrapper
def test_both_checkers_pass(wrap):
    check_env(wrap(make()))
    sb3_check_env(wrap(make()))


@each_wrapper
def test_spec_with_a_wrapper_goes_to_json_and_back(wrap):
    env = wrap(make())
    text = env.spec.to_json()
    json.loads(text)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    assert again.spec == env.spec
    assert type(again) is type(env)
    assert again.action_space == env.action_space
    env.action_space.seed(0)
    action = env.action_space.sample()
    for one in (env, again):
        one.reset(seed=1)
    assert again.step(action)[1:] == env.step(action)[1:]


def test_specs_hold_the_arguments():
    (spec,) = CountAction(make(), np.array([2, 5]), sampling="attended").spec.additional_wrappers[
        -1:
    ]
    assert spec.kwargs == {"counts": [2, 5], "sampling": "attended"}
    assert TopKAction(make()).spec.additional_wrappers[-1].kwargs == {}


@each_wrapper
def test_pickles_before_the_first_reset(wrap):
    env = wrap(make())
    again = pickle.loads(pickle.dumps(env))
    env.action_space.seed(0)
    action = env.action_space.sample()
    for one in (env, again):
        one.reset(seed=1)
    assert again.step(action)[1:] == env.step(action)[1:]


# Python 3.12 warns of every fork of a process with threads.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_without_a_seed_sample_different_patches():
    envs = gym.vector.AsyncVectorEnv(
        [lambda: CountAction(Echo(64, np.zeros(64)), counts=(32,))] * 2
    )
    envs.reset()
    _, _, _, _, info = envs.step(np.zeros(2, dtype=np.int64))
    envs.close()
    assert not np.array_equal(*info["mask"])


@pytest.mark.parametrize("wrapper", [TopKAction, CountAction])
@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiBinary([2, 2])])
def test_other_action_spaces_are_refused(wrapper, space):
    env = Echo()
    env.action_space = space
    with pytest.raises(ValueError, match=r"must be MultiBinary\(n_patches\), got "):
        wrapper(env)


def test_top_k_keeps_the_highest_scores():
    env = TopKAction(Echo(4))
    assert env.action_space == spaces.Box(-1, 1, (5,), np.float32)
    action = scores_and_number(0.1, 0.9, -0.5, 0.3, number=-1 / 3)
    assert env.action(action).tolist() == [0, 1, 0, 1]


def test_top_k_keeps_the_first_of_equal_scores():
    action = scores_and_number(0, 0, 0.5, 0, number=-1 / 3)
    assert TopKAction(Echo(4)).action(action).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("number", "n_keep"),
    [(-1, 1), (-0.9, 1), (-0.8, 2), (0, 4), (0.01, 5), (1, 8), (-9, 1), (9, 8), (np.inf, 8)],
)
def test_top_k_maps_the_number_linearly_and_clips_it(number, n_keep):
    action = scores_and_number(*np.linspace(1, -1, 8), number=number)
    mask = TopKAction(Echo()).action(action)
    assert mask.tolist() == [1] * n_keep + [0] * (8 - n_keep)


def test_top_k_only_ranks_the_scores():
    scores = np.array([3, -2, 0.5, 100])
    env = TopKAction(Echo(4))
    ranked = env.action(np.append(scores, 0.4))
    assert np.array_equal(env.action(np.append(scores / 100, 0.4)), ranked)
    assert ranked.tolist() == [1, 0, 1, 1]


def test_top_k_of_a_single_patch_keeps_it():
    assert TopKAction(Echo(1)).action(scores_and_number(-1, number=-1)).tolist() == [1]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(4), r"action must have shape \(5,\), got \(4,\)"),
        (np.zeros((1, 5)), r"action must have shape \(5,\), got \(1, 5\)"),
        (np.array([0, 0, np.nan, 0, 0]), "action must not be NaN, got NaN at 2"),
        (np.array([0, 0, 0, 0, np.nan]), "action must not be NaN, got NaN at 4"),
        ([[0, 0], 0], r"action must be numbers of shape \(5,\), got \[\[0, 0\], 0\]"),
        ("many", r"action must be numbers of shape \(5,\), got 'many'"),
        (None, r"action must have shape \(5,\), got \(\)"),
    ],
)
def test_top_k_names_bad_actions(action, message):
    with pytest.raises(ValueError, match=message):
        TopKAction(Echo(4)).step(action)


@pytest.mark.parametrize(
    ("n_patches", "counts"),
    [
        (64, (8, 16, 24, 32, 40, 48, 56, 64)),
        (16, (2, 4, 6, 8, 10, 12, 14, 16)),
        (9, (1, 2, 3, 4, 6, 7, 8, 9)),
        (8, (1, 2, 3, 4, 5, 6, 7, 8)),
        (3, (1, 2, 3)),
        (1, (1,)),
    ],
)
def test_default_counts_are_evenly_spaced(n_patches, counts):
    env = CountAction(Echo(n_patches))
    assert env.counts == counts
    assert env.action_space == spaces.Discrete(len(counts))


@pytest.mark.parametrize("sampling", ["uniform", "attended"])
def test_actions_choose_the_number_of_patches(sampling):
    env = CountAction(Echo(), counts=(7, 1, 4), sampling=sampling)
    env.reset(seed=0)
    assert [env.step(action)[-1]["mask"].sum() for action in (0, 1, 2, 1)] == [7, 1, 4, 1]


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1), np.array([1])])
def test_actions_of_any_integer_type_are_the_same_action(action):
    env = CountAction(Echo())
    expected = masks_of(env, seed=0)
    assert np.array_equal(masks_of(env, seed=0, action=action), expected)


@pytest.mark.parametrize(
    ("action", "got"),
    [
        (-1, "-1"), (8, "8"), (1.0, "1.0"), (True, "True"), (None, "None"), ("one", "'one'"),
        (np.array([1, 2]), r"array\(\[1, 2\]\)"), (np.array([[1]]), r"array\(\[\[1\]\]\)"),
        ([[1], 2], r"\[\[1\], 2\]"),
    ],
)  # fmt: skip
def test_bad_counting_actions_are_named(action, got):
    env = CountAction(Echo())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"integer in \[0, 7\], got {got}$"):
        env.step(action)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"counts": (1, 9)}, r"counts\[1\] must be in \[1, 8\], got 9"),
        ({"counts": (0,)}, r"counts\[0\] must be in \[1, 8\], got 0"),
        ({"counts": (1.5,)}, r"counts\[0\] must be an integer in \[1, 8\], got 1.5"),
        ({"counts": (2, 2)}, r"counts must be distinct numbers, at least one, got \(2, 2\)"),
        ({"counts": ()}, r"counts must be distinct numbers, at least one, got \(\)"),
        ({"counts": 4}, "counts must be a sequence of integers, got 4"),
        ({"sampling": "best"}, "sampling must be one of uniform, spread, attended, got 'best'"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CountAction(Echo(), **kwargs)


def test_attended_refuses_observations_without_a_number_per_patch():
    with pytest.raises(
        ValueError, match="must have 8 numbers or more for sampling='attended', got"
    ):
        CountAction(Echo(values=np.zeros(7)), sampling="attended")


def test_attended_refuses_nan():
    env = CountAction(Echo(values=[np.nan] * 8), sampling="attended")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must be finite for sampling='attended', got .*nan"):
        env.step(0)


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(ValueError, match="expected a reset before this call, got none"):
        CountAction(Echo()).step(0)


@pytest.mark.parametrize("sampling", ["uniform", "attended"])
def test_same_seed_same_patches_if_other_generators_change(sampling):
    first = masks_of(CountAction(Echo(), sampling=sampling), seed=3)
    np.random.seed(99)  # noqa: NPY002
    env = CountAction(Echo(), sampling=sampling)
    masks_of(env, seed=7)
    assert np.array_equal(masks_of(env, seed=3), first)
    assert not np.array_equal(masks_of(env, seed=4), first)


def test_sampling_does_not_use_the_global_or_the_environments_generator():
    env = CountAction(Echo())
    np.random.seed(5)  # noqa: NPY002
    env.reset(seed=0)
    before = np.random.get_state()[1].copy(), env.np_random.bit_generator.state  # noqa: NPY002
    masks_of(env, seed=None)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert env.np_random.bit_generator.state == before[1]


def test_resets_without_a_seed_sample_anew_and_continue_the_last_seeds_stream():
    env = CountAction(Echo())
    env.reset()
    unseeded = masks_of(env, seed=None)
    runs = []
    for _ in range(2):
        first = masks_of(env, seed=0)
        env.reset()
        runs.append(masks_of(env, seed=None))
        assert not np.array_equal(first, runs[-1])
    assert np.array_equal(*runs)
    other = CountAction(Echo())
    other.reset()
    assert not np.array_equal(masks_of(other, seed=None), unseeded)


def test_uniform_sampling_ignores_the_observation():
    values = np.arange(11.0)
    plain, other = CountAction(Echo()), CountAction(Echo(values=values))
    assert np.array_equal(masks_of(plain, seed=0), masks_of(other, seed=0))


def test_attended_sampling_favours_high_values_and_no_further_numbers():
    values = [*range(8), 1e9, -1e9, 1e9]
    env = CountAction(Echo(values=values), counts=(1, 3), sampling="attended")
    shares = masks_of(env, seed=0, n_steps=3000).mean(axis=0)
    assert (np.diff(shares) > 0).all()
    singles = masks_of(env, seed=0, n_steps=3000, action=0).mean(axis=0)
    weights = np.exp((np.arange(8) - 3.5) / np.arange(8).std())
    assert singles == pytest.approx(weights / weights.sum(), abs=0.03)


@pytest.mark.parametrize("value", [0, 0.1, 3e38])
def test_attended_sampling_of_equal_values_is_uniform(value):
    env = CountAction(Echo(values=[value] * 8), sampling="attended")
    assert np.array_equal(masks_of(env, seed=0), masks_of(CountAction(Echo()), seed=0))


def test_attended_sampling_follows_the_latest_observation():
    env = CountAction(Echo(values=np.eye(8)[0] * 9), counts=(1,), sampling="attended")
    observation, _ = env.reset(seed=0)
    observation[:] = np.eye(8)[5]  # the caller's own
    first = np.mean([env.action(0) for _ in range(300)], axis=0)
    assert first.argmax() == 0
    env.unwrapped.values = np.eye(8, dtype=np.float32)[3] * 9
    env.step(0)
    assert np.mean([env.action(0) for _ in range(300)], axis=0).argmax() == 3


def test_the_reward_counts_the_sampled_patches():
    env = CountAction(make(alpha=0, n_patches_desired=8), sampling="attended")
    env.reset(seed=0)
    assert [env.step(action)[1] for action in (0, 3, 7)] == [-6 / 8, 0, -1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("algorithm", "wrap"),
    [(DQN, CountAction), (QRDQN, CountAction), (SAC, TopKAction), (TD3, TopKAction)],
)
def test_drives_the_environment(algorithm, wrap):
    n_selected = []

    def record(values, _):
        n_selected.append(values["infos"][0]["n_selected"])
        return True

    model = algorithm(
        "MlpPolicy", wrap(make()), learning_starts=8, batch_size=8, train_freq=1, seed=0,
        buffer_size=100, policy_kwargs={"net_arch": [16]}, device="cpu",
    )  # fmt: skip
    model.learn(40, callback=record)
    assert len(n_selected) == 40  # past the ends of two episodes
    assert len(set(n_selected)) > 1
    assert model._n_updates > 0


@pytest.mark.long
def test_dqn_finds_the_number_of_patches_that_pays():
    """Random play earns -0.5 a step, as alpha = 0 pays for the number of patches alone."""
    env = CountAction(make(alpha=0, n_patches_desired=8))
    model = DQN(
        "MlpPolicy", env, gamma=0, learning_rate=3e-3, learning_starts=16, batch_size=32,
        train_freq=1, buffer_size=500, exploration_fraction=0.7, seed=0, device="cpu",
        policy_kwargs={"net_arch": [32]},
    )  # fmt: skip
    model.learn(300)
    observation, _ = env.reset(seed=1)
    rewards = []
    for _ in range(14):
        observation, reward, _, _, _ = env.step(model.predict(observation, deterministic=True)[0])
        rewards.append(reward)
    assert np.mean(rewards) > -0.2
