import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import (
    SCHEDULES,
    AllPatches,
    CentrePatches,
    FixedRule,
    MostAttendedPatches,
    RandomPatches,
    ScheduledCount,
    SpreadPatches,
)

RULES = {
    "all": AllPatches,
    "random": RandomPatches,
    "spread": SpreadPatches,
    "centre": CentrePatches,
    "attended": MostAttendedPatches,
}


def make_rule(kind, n_patches=16, **kwargs):
    return kind(
        spaces.Box(-1, 1, (n_patches,), np.float32), spaces.MultiBinary(n_patches), **kwargs
    )


@pytest.mark.parametrize("name", list(RULES))
def test_rules_predict_on_one_and_on_many_observations(name):
    rule = make_rule(RULES[name], n_keep=5, seed=0)
    rng = np.random.default_rng(0)
    one, state = rule.predict(rng.random(16, dtype=np.float32))
    many, _ = rule.predict(rng.random((3, 16), dtype=np.float32), deterministic=True)
    assert (state is None) == (name not in ("random", "spread"))
    n_keep = 16 if name == "all" else 5
    assert one.shape == (16,)
    assert one.sum() == n_keep
    assert many.shape == (3, 16)
    assert (many.sum(axis=1) == n_keep).all()
    assert spaces.MultiBinary(16).contains(one)


def test_random_patches_vary_and_cover_the_image():
    rule = make_rule(RandomPatches, n_keep=4, seed=0)
    masks = np.stack([rule.predict(np.zeros(16, dtype=np.float32))[0] for _ in range(200)])
    assert len(np.unique(masks, axis=0)) > 150
    assert masks.mean(axis=0) == pytest.approx(0.25, abs=0.12)


def test_random_patches_depend_on_their_seed_and_no_global_generator():
    observation = np.zeros(16, dtype=np.float32)
    first, second = (make_rule(RandomPatches, n_keep=4, seed=3) for _ in range(2))
    for _ in range(5):
        expected, _ = first.predict(observation)
        np.random.seed(0)  # noqa: NPY002
        assert np.array_equal(second.predict(observation)[0], expected)


def test_deterministic_random_patches_depend_on_the_observation_alone():
    rule = make_rule(RandomPatches, n_keep=4, seed=3)
    observations = np.random.default_rng(0).random((10, 16), dtype=np.float32)
    before, _ = rule.predict(observations, deterministic=True)
    rule.predict(observations)
    again, _ = rule.predict(observations, deterministic=True)
    assert np.array_equal(before, again)
    assert len(np.unique(before, axis=0)) > 5


def test_centre_patches_are_those_in_the_middle():
    mask, _ = make_rule(CentrePatches, n_keep=4).predict(np.zeros(16, dtype=np.float32))
    assert mask.reshape(4, 4).tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_centre_patches_need_a_square():
    with pytest.raises(ValueError, match="n_patches must be a square number, got 15"):
        make_rule(CentrePatches, n_patches=15, n_keep=4)


def test_most_attended_patches_have_the_highest_observations():
    observation = np.arange(16, dtype=np.float32)[::-1].copy()
    mask, _ = make_rule(MostAttendedPatches, n_keep=3).predict(observation)
    assert np.flatnonzero(mask).tolist() == [0, 1, 2]


@pytest.mark.parametrize("n_keep", [0, 17, 2.5, None])
def test_the_number_of_patches_is_checked(n_keep):
    with pytest.raises(
        ValueError, match=rf"n_keep must be an integer in \[1, 16\].*, got {n_keep}"
    ):
        make_rule(RandomPatches, n_keep=n_keep)


@pytest.mark.parametrize("name", list(RULES))
def test_a_rule_has_an_agents_interface(name, tmp_path):
    agent = FixedRule(name, ViTPatchSelectEnv(**TINY), n_keep=5, seed=0)
    agent.learn(20, log_interval=1)
    assert agent.num_timesteps == 20
    assert len(agent.ep_info_buffer) == 1
    agent.save(tmp_path / "agent.zip")
    loaded = FixedRule.load(tmp_path / "agent.zip")
    observations = np.random.default_rng(0).random((6, 16), dtype=np.float32)
    for deterministic in (True, False):  # the random rule continues its stream
        original, _ = agent.predict(observations, deterministic=deterministic)
        copy, _ = loaded.predict(observations, deterministic=deterministic)
        assert np.array_equal(original, copy)


def test_a_rule_runs_in_several_environments_and_stops_with_its_callback():
    def make():
        return ViTPatchSelectEnv(**TINY)

    agent = FixedRule("random", DummyVecEnv([make, make]), n_keep=5, seed=0)
    agent.learn(100, callback=lambda local, _: local["self"].num_timesteps < 10)
    assert agent.num_timesteps == 10


def test_random_patches_of_an_evaluation_vary_and_are_reproducible():
    rule = make_rule(RandomPatches, n_keep=4, seed=0)
    observation = np.zeros(16, dtype=np.float32)

    def evaluation():
        state, masks = None, []
        for _ in range(10):
            mask, state = rule.predict(observation, state=state, deterministic=True)
            masks.append(mask)
        return np.stack(masks)

    first = evaluation()
    rule.predict(observation)
    assert len(np.unique(first, axis=0)) > 8
    assert np.array_equal(evaluation(), first)


def test_a_rule_follows_a_sequence_of_numbers_and_then_keeps_the_last():
    counts = [1, 16, 3, 4, 7] * 4
    agent = FixedRule("random", ViTPatchSelectEnv(**TINY), n_keep=counts, seed=0)
    seen = []
    agent.learn(20, callback=lambda local, _: seen.append(int(local["actions"].sum())) or True)
    assert seen == counts
    mask, _ = agent.predict(np.zeros(16, dtype=np.float32))
    assert mask.sum() == 7


def test_a_sequence_of_numbers_is_checked():
    env = ViTPatchSelectEnv(**TINY)
    with pytest.raises(ValueError, match=r"n_keep must be an integer in \[1, 16\].*, got 17"):
        FixedRule("random", env, n_keep=[1, 17])
    with pytest.raises(ValueError, match="n_keep must be a number for each of 20 steps, got 19"):
        FixedRule("random", env, n_keep=[4] * 19).learn(20)


def over_run(name, n_patches=64, epochs=3, n_steps=300):
    schedule = ScheduledCount(name, n_patches, epochs)
    return [schedule(step / n_steps) for step in range(n_steps)]


def test_published_schedules_of_the_number_of_patches():
    cyclic = over_run("pss")
    assert (cyclic[0], cyclic[50], cyclic[100]) == (13, 64, 13)
    assert cyclic[:100] == cyclic[200:]
    growing = over_run("pss_linear")
    assert growing == sorted(growing)
    assert (growing[0], growing[-1]) == (13, 64)
    assert np.mean(cyclic) == pytest.approx(0.6 * 64, abs=0.5)
    assert np.mean(growing) == pytest.approx(0.6 * 64, abs=0.5)
    assert over_run("flip", n_steps=100) == [32] * 95 + [64] * 5


def test_the_quadratic_schedule_spends_most_steps_on_few_patches():
    counts = over_run("quadratic")
    assert counts == sorted(counts)
    assert (counts[0], counts[150], counts[-1]) == (4, 19, 64)


@pytest.mark.parametrize("name", list(SCHEDULES))
@given(n_patches=st.integers(1, 100), epochs=st.integers(1, 50), progress=st.floats(0, 1))
def test_schedules_give_a_valid_number_at_any_progress(name, n_patches, epochs, progress):
    assert 1 <= ScheduledCount(name, n_patches, epochs)(progress) <= n_patches


def test_a_rule_follows_a_function_of_the_budget_used():
    env = ViTPatchSelectEnv(**{**TINY, "budget": "flops"})
    agent = FixedRule("random", env, n_keep=lambda progress: 2 if progress < 0.5 else 16, seed=0)
    seen, progress = [], []

    def watch(local, _):
        seen.append(int(local["actions"].sum()))
        progress.append(local["infos"][0]["progress"])
        return not local["dones"].any()

    agent.learn(env.max_steps, callback=watch)
    before = [0.0, *progress[:-1]]
    assert seen == [2 if share < 0.5 else 16 for share in before]
    assert len(seen) > 14
    mask, _ = agent.predict(np.zeros(16, dtype=np.float32))
    assert mask.sum() == 16
