import json
import pickle
import time
from dataclasses import replace
from operator import methodcaller

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import vit_patch_env
from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv, load_dataset
from vit_patch_env.data.splits import Split
from vit_patch_env.episode import MAX_SKIPPED
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.observation import FEATURES_AFTER_RUN
from vit_patch_env.penalty import DIVERGED_REWARD
from vit_patch_env.reward import REWARDS
from vit_patch_env.training.run import TrainingRun

INFO_KEYS = {
    "loss", "n_selected", "reward_loss", "reward_patch", "epoch", "progress", "empty_action",
    "skipped", "diverged", "loss_mean", "n_selected_mean",
}  # fmt: skip


def run_episode(env, seed=0, n_selected=None, after_step=lambda: None):
    """Every step's results: of the first patches, or random masks of their own generator."""
    rng = np.random.default_rng(0)
    env.reset(seed=seed)
    n_patches = env.action_space.shape[0]
    results = []
    while True:
        mask = (
            rng.random(n_patches) < 0.5 if n_selected is None else np.arange(n_patches) < n_selected
        )
        results.append(env.step(mask.astype(np.int8)))
        after_step()
        if results[-1][2] or results[-1][3]:
            return results


def make(**kwargs):
    return gym.make("ViTPatchSelect-v0", **{**TINY, **kwargs})


def test_both_checkers_pass_without_a_warning():
    """Warnings are errors in this suite."""
    check_env(make().unwrapped)
    sb3_check_env(make())


def test_both_checkers_pass_for_the_other_observation_and_rendering():
    env = make(observation="attention_received", render_mode="rgb_array")
    check_env(env.unwrapped)
    sb3_check_env(env)
    assert env.observation_space.low.max() == 0
    assert env.observation_space.high.min() == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "kwargs",
    [
        {"observation": "attention_output+run", "reward": "progress"},
        {"observation": "none+run", "reward": "validation", "reward_every": 1},
    ],
)
def test_both_checkers_pass_for_the_run_and_a_budget_of_flops(kwargs):
    """With them, info is reproducible."""
    kwargs["budget"] = "flops"
    check_env(make(**kwargs).unwrapped)
    sb3_check_env(make(**kwargs))


def test_the_id_is_found_without_an_import():
    env = gym.make("vit_patch_env:ViTPatchSelect-v0", **TINY)
    assert isinstance(env.unwrapped, ViTPatchSelectEnv)


def test_a_second_import_registers_nothing_anew():
    spec = gym.spec("ViTPatchSelect-v0")
    import importlib

    importlib.reload(vit_patch_env)
    assert gym.spec("ViTPatchSelect-v0") is spec


OTHERS = {
    "budget": "flops", "reward": "validation", "reward_every": 2, "reward_images": 20,
    "observation": "attention_received+run",
}  # fmt: skip


@pytest.mark.parametrize("kwargs", [{}, OTHERS, {"budget": "seconds", "seconds": 1.5}])
def test_spec_goes_to_json_and_back(kwargs):
    env = make(**kwargs)
    text = env.spec.to_json()
    json.loads(text)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    assert again.spec == env.spec
    assert np.array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])


def test_pickles_before_the_first_reset():
    env = make()
    copy = pickle.loads(pickle.dumps(env))
    assert np.array_equal(copy.reset(seed=1)[0], env.reset(seed=1)[0])


def test_pickles_in_the_middle_of_a_run():
    env = make(**OTHERS).unwrapped
    env.reset(seed=1)
    env.step(np.ones(16, dtype=np.int8))
    copy = pickle.loads(pickle.dumps(env))
    for _ in range(3):
        one, other = (each.step(np.arange(16) % 2) for each in (env, copy))
        assert np.array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def test_spaces_follow_the_patches():
    env = make(patch_size=4)
    assert env.observation_space.shape == (64,)
    assert env.observation_space.dtype == np.float32
    assert env.action_space == gym.spaces.MultiBinary(64)


def test_an_episode_is_epochs_passes_and_then_truncated():
    env = make(epochs=3)
    results = run_episode(env)
    n_train = len(env.unwrapped.data.train.labels)
    assert len(results) == env.unwrapped.expected_steps == 3 * (n_train // TINY["batch_size"])
    assert [step[2] for step in results] == [False] * len(results)
    assert [step[3] for step in results] == [False] * (len(results) - 1) + [True]
    assert [step[4]["epoch"] for step in results] == sorted([0, 1, 2] * 7)


def test_info_holds_what_is_promised_in_plain_types():
    observation, reward, terminated, truncated, info = run_episode(make())[0]
    assert set(info) == INFO_KEYS
    assert type(reward) is float
    assert type(terminated) is type(truncated) is bool
    assert {type(value) for value in info.values()} == {float, int, bool}
    assert observation.dtype == np.float32


def test_reward_is_equation_2_3():
    results = run_episode(make(alpha=0.3, n_patches_desired=5))
    initial = results[0][4]["loss"]
    for _, reward, _, _, info in results:
        assert info["reward_loss"] == pytest.approx(initial / info["loss"])
        assert info["reward_patch"] == pytest.approx(-abs(info["n_selected"] - 5) / 5)
        assert reward == pytest.approx(0.3 * info["reward_loss"] + 0.7 * info["reward_patch"])


def test_without_a_desired_number_fewer_patches_are_rewarded():
    for step in run_episode(make(n_patches_desired=None)):
        assert step[4]["reward_patch"] == -step[4]["n_selected"] / 16


def held_out_loss(env, n_images):
    """Of the first validation images."""
    images, labels = env.data.val
    return env.episode.run.evaluate(Split(images[:n_images], labels[:n_images])).loss


@pytest.mark.parametrize("n_images", [10, 999])  # of 52, in batches of 64 or less
def test_validation_rewards_add_up_to_the_decrease_of_the_validation_loss(n_images):
    env = make(reward="validation", reward_every=4, reward_images=n_images).unwrapped
    env.reset(seed=0)
    first = held_out_loss(env, n_images)
    rewards = [step[1] for step in run_episode(env)]
    assert sum(rewards) == pytest.approx(first - held_out_loss(env, n_images), abs=1e-5)
    measured = [step for step, reward in enumerate(rewards, start=1) if reward]
    assert measured == [4, 8, 12, 14]


def test_progress_is_rewarded_against_the_running_mean_per_flop():
    env = make(reward="progress", epochs=1).unwrapped
    results = run_episode(env)
    losses = [step[4]["loss"] for step in results]
    assert results[0][1] == 0
    for index, (_, reward, _, _, info) in enumerate(results[1:], start=1):
        mean = np.mean(losses[:index])
        keep = torch.arange(info["n_selected"])
        share = env.episode.run.step_flops(keep) / env.episode.run.step_flops()
        assert 0 < share < 1
        assert reward == pytest.approx((mean - info["loss"]) / mean / share)


def test_progress_on_all_patches_is_not_divided():
    results = run_episode(make(reward="progress"), n_selected=16)
    losses = [step[4]["loss"] for step in results]
    assert results[1][1] == pytest.approx(1 - losses[1] / losses[0])


def test_aic_weighs_the_loss_against_the_share_of_patches():
    for _, reward, _, _, info in run_episode(make(reward="aic")):
        assert reward == pytest.approx(-(info["loss"] + info["n_selected"] / 16))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model", ["simple_vit", "ats_vit"])
def test_the_reward_does_not_change_the_run(model):
    """With any reward, the run and the terms of equation 2.3 are the same."""
    infos = []
    for reward in REWARDS:
        env = make(model=model, epochs=1, reward=reward, reward_every=3)
        infos.append([step[4] for step in run_episode(env, n_selected=10)])
    assert infos[1:] == infos[:1] * (len(REWARDS) - 1)


def test_reading_flops_changes_no_reward():
    kwargs = {"model": "ats_vit", "epochs": 1, "reward": "progress"}
    expected = run_episode(make(**kwargs), n_selected=8)
    env = make(**kwargs)
    results = run_episode(env, n_selected=8, after_step=lambda: env.unwrapped.episode.flops())
    assert [step[1] for step in results] == [step[1] for step in expected]


def test_a_validation_loss_that_is_not_finite_ends_the_run():
    class Unfit(SimpleViT):
        def forward(self, images, keep=None):
            logits = super().forward(images, keep)
            return logits if self.training else logits * float("nan")

    def model(n_classes, channels):
        return Unfit(n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1, heads=1)

    env = ViTPatchSelectEnv(**{**TINY, "model": model, "reward": "validation", "reward_every": 2})
    env.reset(seed=0)
    assert env.step(np.ones(16))[1:3] == (0.0, False)
    _, reward, terminated, truncated, info = env.step(np.ones(16))
    assert (reward, terminated, truncated) == (DIVERGED_REWARD, True, False)
    assert info["diverged"]


@pytest.mark.parametrize("observation", ["attention_received+run", "none+run"])
def test_run_features_follow_the_patches(observation):
    """Over more steps than the window of the running means."""
    env = make(observation=observation, batch_size=16, train_fraction=0.5, epochs=4)
    plain = make(observation=observation.removesuffix("+run"), batch_size=16, train_fraction=0.5)
    seen, info = env.reset(seed=0)
    assert (info["epoch"], info["progress"]) == (0, 0)
    assert (info["budget_steps"], info["n_images"], info["n_classes"]) == (56, 230, 4)
    parameters = env.unwrapped.episode.run.trainer.model.parameters()
    assert info["n_parameters"] == sum(one.numel() for one in parameters)
    assert info["step_costs"].tolist() == [1] * 5  # of a budget of epochs
    assert seen.tolist() == [*plain.reset(seed=0)[0], 0, 1, 1]
    results = run_episode(env)
    assert len(results) == 56
    loss = share = 0.0
    for step, (seen, _, _, _, info) in enumerate(results, start=1):
        weight = 1 / min(step, 50)
        loss += weight * (info["loss"] - loss)
        share += weight * (info["n_selected"] / 16 - share)
        assert seen.shape == (19,)
        assert seen in env.observation_space
        assert seen[-3] == np.float32(info["progress"]) == np.float32(step / 56)
        assert seen[-2] == pytest.approx(loss / results[0][4]["loss"], rel=1e-5)
        assert seen[-1] == pytest.approx(share, rel=1e-5)


def test_the_costs_of_steps_are_known_before_a_run_of_flops():
    plain, slow = (
        make(budget="flops", observation="none+run", step_overhead=one) for one in (0.0, 1.0)
    )
    costs, slowed = (env.reset(seed=0)[1]["step_costs"] for env in (plain, slow))
    flops = plain.unwrapped.episode.run.step_flops
    shares = [flops(torch.arange(n)) / flops() for n in (1, 2, 4, 8, 16)]
    assert costs == pytest.approx(shares)
    assert slowed == pytest.approx((np.array(shares) + 1) / 2)
    without_features = make(budget="flops", observation="none")
    assert set(without_features.reset(seed=0)[1]) == {"epoch", "progress", "budget_steps"}


def test_steps_are_timed_for_a_budget_of_seconds(monkeypatch):
    """The clock is a model of a machine: 2 s per step and 0.5 s per patch."""
    now, train = [0.0], TrainingRun.step

    def step(self, keep=None):
        now[0] += 2 + 0.5 * (16 if keep is None else len(keep))
        return train(self, keep)

    monkeypatch.setattr(TrainingRun, "step", step)
    clock = type("Clock", (), {"perf_counter": lambda: now[0]})
    monkeypatch.setattr("vit_patch_env.training.step_times.time", clock)
    for seconds, rounds in ((100.0, 2), (3000.0, 3), (1e6, 6)):
        now[0] = 0.0
        env = make(budget="seconds", seconds=seconds, observation="none+run")
        _, info = env.reset(seed=0)
        assert info["step_costs"] == pytest.approx([0.25, 0.3, 0.4, 0.6, 1])
        assert info["budget_steps"] == seconds / 10
        assert now[0] == rounds * 25.5
        assert env.reset()[1]["step_costs"].tolist() == info["step_costs"].tolist()
        assert now[0] == rounds * 25.5  # once


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode])
def test_timing_steps_is_independent_of_torch_s_state_and_leaves_it(state):
    env = make(budget="seconds", seconds=1.0, observation="none+run")
    generator = torch.get_rng_state()
    with state():
        env.reset(seed=0)
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_loaded_run_does_not_pay_for_timing_steps(tmp_path, monkeypatch):
    env = make(budget="seconds", seconds=30.0, observation="none+run").unwrapped
    env.reset(seed=0)
    env.step(np.ones(16))
    env.save(tmp_path / "state")
    saved = env.episode.run.stopwatch.training
    slow = vit_patch_env.episode_factory.step_times

    def slower(*args):
        time.sleep(1.0)
        return slow(*args)

    monkeypatch.setattr(vit_patch_env.episode_factory, "step_times", slower)
    other = make(budget="seconds", seconds=30.0, observation="none+run").unwrapped
    other.load(tmp_path / "state")
    assert other.episode.run.stopwatch.training < saved + 1.0


def test_run_features_stay_in_bounds_after_a_divergence():
    env = make(observation="attention_output+run").unwrapped
    env.reset(seed=0)
    with torch.no_grad():
        env.episode.model.head.bias.fill_(float("nan"))
    seen = env.step(np.ones(16, dtype=np.int8))[0]
    assert seen in env.observation_space
    assert seen[-3:] == pytest.approx([1 / 14, 1, 1])


@pytest.mark.parametrize("observation", ["attention_received", "none"])
def test_an_empty_action_keeps_a_patch_for_any_run_features(observation):
    """They are higher than any patch's value."""
    masks = []
    for name in (observation, f"{observation}+run"):
        env = make(observation=name).unwrapped
        seen, _ = env.reset(seed=0)
        assert env.step(np.zeros(16, dtype=np.int8))[4]["empty_action"]
        masks.append(env.episode.patch_mask)
        assert np.flatnonzero(masks[-1]) == [seen[:16].argmax()]
    assert np.array_equal(*masks)


def test_evaluate_shows_a_selector_the_features_of_a_finished_run():
    seen = []

    class All:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            seen.append(observation)
            return np.zeros(16, dtype=np.int8) if len(seen) == 1 else np.ones(16, np.int8), None

    env = make(observation="attention_received+run").unwrapped
    env.reset(seed=0)
    env.step(np.ones(16, dtype=np.int8))
    env.evaluate("test", selector=All())
    assert len(seen) == 2  # the first one answered without a patch
    for observation in seen:
        assert observation in env.observation_space
        assert np.array_equal(observation[-3:], FEATURES_AFTER_RUN)
        assert observation[:-3].sum() == pytest.approx(1, abs=1e-5)


def test_the_observation_is_of_the_next_batch(tiny_env):
    tiny_env.reset(seed=0)
    for _ in range(3):
        observation = tiny_env.step(np.ones(16, dtype=np.int8))[0]
        run = tiny_env.episode.run
        with torch.no_grad():
            expected = run.trainer.model.first_attention(run.batch.images).mean(dim=(0, 2))
        assert np.allclose(observation, expected.numpy(), atol=1e-6)


def test_same_seed_same_run_if_others_use_the_global_generators():
    one = run_episode(make(), seed=3)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    env = make()
    env.reset(seed=7)
    other = run_episode(env, seed=3)
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first[0], second[0])
        assert first[1:] == second[1:]


def test_a_reset_does_not_change_the_global_generators():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_episode(make())
    assert torch.equal(torch.rand(3), expected)


def test_resets_without_a_seed_give_new_runs():
    env = make()
    first = env.reset(seed=0)[0]
    assert not np.array_equal(first, env.reset()[0])


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, bool])
def test_actions_of_any_numeric_type_are_the_same_action(dtype):
    env = make()
    env.reset(seed=0)
    mask = np.arange(16) % 2
    assert env.unwrapped.step(mask.astype(dtype))[4]["n_selected"] == 8


def test_an_empty_action_keeps_the_highest_observation(tiny_env):
    observation, _ = tiny_env.reset(seed=0)
    tiny_env.render_mode = "rgb_array"
    _, reward, _, _, info = tiny_env.step(np.zeros(16, dtype=np.int8))
    assert info["empty_action"]
    assert info["n_selected"] == 1
    assert np.isfinite(reward)

    chosen = np.zeros(16, dtype=np.int8)
    chosen[observation.argmax()] = 1
    tiny_env.reset(seed=0)
    other = tiny_env.step(chosen)[4]
    assert not other["empty_action"]
    assert other["loss"] == info["loss"]


def test_a_loss_that_is_not_finite_ends_the_run(tiny_env):
    before, _ = tiny_env.reset(seed=0)
    with torch.no_grad():
        tiny_env.episode.model.head.bias.fill_(float("nan"))
    after, reward, terminated, truncated, info = tiny_env.step(np.ones(16, dtype=np.int8))
    assert (terminated, truncated, info["diverged"]) == (True, False, True)
    assert reward == DIVERGED_REWARD
    assert not np.array_equal(after, before)  # of the next batch, by weights that are left alone
    assert after in tiny_env.observation_space
    tiny_env.reset()
    assert not tiny_env.step(np.ones(16, dtype=np.int8))[4]["diverged"]


def test_a_gradient_that_is_not_finite_is_reported_and_ten_in_a_row_end_the_run(tiny_env):
    tiny_env.reset(seed=0)
    model = tiny_env.episode.model
    mask = np.ones(16, dtype=np.int8)
    hook = model.head.register_full_backward_hook(lambda *_: (torch.full((64, 16), torch.nan),))
    for _ in range(MAX_SKIPPED - 1):
        observation, reward, terminated, _, info = tiny_env.step(mask)
        assert info["skipped"]
        assert not terminated
        assert np.isfinite(reward)
        assert np.isfinite(observation).all()
    hook.remove()
    assert not tiny_env.step(mask)[4]["skipped"]
    tiny_env.reset(seed=0)
    tiny_env.episode.model.head.register_full_backward_hook(
        lambda *_: (torch.full((64, 16), torch.nan),)
    )
    for step in range(1, MAX_SKIPPED + 1):
        _, reward, terminated, truncated, info = tiny_env.step(mask)
        assert terminated == info["diverged"] == (step == MAX_SKIPPED)
    assert reward == DIVERGED_REWARD
    assert not truncated


def test_returned_observations_are_copies(tiny_env):
    observation, _ = tiny_env.reset(seed=0)
    observation[:] = -99
    tiny_env.step(np.zeros(16, dtype=np.int8))  # would pick by the changed values
    again = ViTPatchSelectEnv(**TINY)
    again.reset(seed=0)
    assert tiny_env.step(np.ones(16))[1] == [
        again.step(np.zeros(16, dtype=np.int8)), again.step(np.ones(16))
    ][1][1]  # fmt: skip


def test_evaluate_returns_metrics_of_each_split(tiny_env):
    tiny_env.reset(seed=0)
    figures = {split: tiny_env.evaluate(split) for split in ("train", "val", "test")}
    assert len(set(figures.values())) == 3
    for metrics in figures.values():
        assert all(np.isfinite(metrics))
        assert all(0 <= value <= 1 for value in metrics[1:])


def test_evaluate_with_a_selector_uses_its_patches(tiny_env):
    class First:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            assert deterministic
            assert observation.shape == (16,)
            return (np.arange(16) < 3).astype(np.int8), None

    class All:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.ones(16, dtype=np.int8), None

    tiny_env.reset(seed=0)
    assert tiny_env.evaluate("val", selector=First()) != tiny_env.evaluate("val")
    assert tiny_env.evaluate("val", selector=All()) == tiny_env.evaluate("val")


def test_evaluation_does_not_change_the_run():
    plain = run_episode(make())
    env = make()
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for step in plain:
        env.unwrapped.evaluate("val")
        result = env.step((rng.random(16) < 0.5).astype(np.int8))
        assert result[1] == step[1]


def test_the_last_episodes_vit_survives_a_reset(tiny_env):
    with pytest.raises(ValueError, match="expected a reset before this call"):
        tiny_env.evaluate("val")
    tiny_env.reset(seed=0)
    with pytest.raises(ValueError, match="expected an episode that has ended"):
        tiny_env.last_episode.evaluate("val")
    run_episode(tiny_env)
    trained = tiny_env.evaluate("val")
    tiny_env.reset()
    assert tiny_env.last_episode.evaluate("val") == trained
    assert tiny_env.evaluate("val") != trained
    assert tiny_env.last_episode.timings.train_seconds > tiny_env.episode.timings.train_seconds == 0


@pytest.mark.long
def test_the_selecting_vit_learns():
    """Random play on four classes: from 25 % to clearly more than chance."""
    env = make(epochs=25, dim=32, depth=2, dim_head=16, mlp_dim=64, learning_rate=3e-3)
    run_episode(env)
    assert env.unwrapped.evaluate("test").accuracy > 0.7


def test_a_users_images_and_model(tiny_env):
    made = []

    def model(n_classes, channels):
        made.append((n_classes, channels))
        return SimpleViT(
            n_classes=n_classes, channels=channels, patch_size=8, dim=16, depth=1, heads=1,
            dim_head=8, mlp_dim=8,
        )  # fmt: skip

    data = load_dataset("synthetic")
    env = ViTPatchSelectEnv(**{**TINY, "dataset": data, "model": model})
    run_episode(env)
    assert made == 2 * [(4, 3)]  # to check it, and to train it
    wrong = ViTPatchSelectEnv(**{**TINY, "patch_size": 4, "model": model})
    with pytest.raises(ValueError, match="model must have 64 patches, got 16"):
        wrong.reset()


def test_render_shows_the_patches_last_trained_on():
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    whole = env.render()
    env.step(np.eye(16, dtype=np.int8)[0])
    part = env.render()
    assert whole.shape == part.shape
    assert whole.dtype == np.uint8
    assert not np.array_equal(part, whole)
    assert make().unwrapped.render() is None


@pytest.mark.one_in(2)
# Python 3.12 warns of every fork of a process with threads.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
@pytest.mark.usefixtures("two_threads")
def test_runs_in_gymnasiums_vector_environments(vectorization_mode):
    envs = gym.make_vec(
        "ViTPatchSelect-v0", num_envs=2, vectorization_mode=vectorization_mode, **TINY
    )
    envs.reset(seed=0)
    for _ in range(16):  # past the end of an episode
        observations, rewards, _, _, _ = envs.step(np.ones((2, 16), dtype=np.int8))
    assert observations.shape == (2, 16)
    assert np.isfinite(rewards).all()
    envs.close()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_runs_in_stable_baselines_vector_environments(kind):
    envs = kind([make, make])
    envs.seed(0)
    envs.reset()
    for _ in range(14):
        observations, _, dones, infos = envs.step(np.ones((2, 16), dtype=np.int8))
    assert dones.all()
    assert observations.shape == (2, 16)
    assert infos[0]["TimeLimit.truncated"]
    metrics = envs.env_method("ask", methodcaller("evaluate", "val"), ended=True)
    assert metrics[0] != metrics[1]  # two seeds, two runs
    envs.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dataset": "imagenet"}, "dataset must be one of digits, .*, got 'imagenet'"),
        ({"dataset": "folder"}, "dataset 'folder' needs data_dir"),
        ({"dataset": "folder", "data_dir": "nowhere"}, "got 'nowhere': no such folder"),
        ({"image_size": 30}, "image_size must be divisible by patch_size"),
        ({"dim": 18}, "dim must be divisible by 4, got 18"),
        ({"depth": 0}, r"depth must be in \[1, 1000\], got 0"),
        ({"n_patches_desired": 0}, r"n_patches_desired must be in \[1, 16\], got 0"),
        ({"n_patches_desired": 17}, r"n_patches_desired must be in \[1, 16\], got 17"),
        ({"alpha": 1.1}, r"alpha must be in \[0, 1\], got 1.1"),
        ({"precision": "fp8"}, "precision must be one of auto, fp32, bf16, fp16, got 'fp8'"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:<n>, got 'tpu'"),
        (
            {"optimizer": "lamb"},
            "optimizer must be one of adam, adamw, sgd, sgd_nesterov, got 'lamb'",
        ),
        ({"schedule": "step"}, "schedule must be one of constant, cosine, got 'step'"),
        ({"observation": "pixels"}, "observation must be one of attention_output"),
        ({"train_fraction": 2}, r"train_fraction must be in \(0, 1\], got 2"),
        ({"learning_rate": 0}, r"learning_rate must be in \(0, inf\), got 0"),
        ({"label_smoothing": 1}, r"label_smoothing must be in \[0, 1\), got 1"),
        ({"warmup_epochs": 3}, r"warmup_epochs must be in \[0, 2\], got 3"),
        ({"epochs": 0}, r"epochs must be in \(0, 10\^9\], got 0"),
        ({"budget": "steps"}, "budget must be one of epochs, flops, seconds, got 'steps'"),
        ({"budget": None}, "budget must be one of epochs, flops, seconds, got None"),
        (
            {"budget": "seconds"},
            "seconds must be given if and only if budget is seconds, "
            "got budget seconds and seconds None",
        ),
        ({"seconds": 3}, "if and only if budget is seconds, got budget epochs and seconds 3"),
        (
            {"budget": "flops", "seconds": 3},
            "if and only if budget is seconds, got budget flops and seconds 3",
        ),
        ({"budget": "seconds", "seconds": 0}, r"seconds must be in \(0, inf\), got 0"),
        ({"budget": "seconds", "seconds": -1}, r"seconds must be in \(0, inf\), got -1"),
        ({"budget": "seconds", "seconds": np.nan}, r"seconds must be in \(0, inf\), got nan"),
        ({"budget": "seconds", "seconds": np.inf}, r"seconds must be in \(0, inf\), got inf"),
        ({"budget": "seconds", "seconds": "1"}, r"seconds must be a number in .*, got '1'"),
        ({"reward": "loss"}, "reward must be one of paper, validation, progress, aic, got 'loss'"),
        ({"reward_every": 0}, r"reward_every must be in \[1, 10\^9\], got 0"),
        ({"reward_every": 1.5}, r"reward_every must be an integer in \[1, 10\^9\], got 1.5"),
        ({"reward_images": 0}, r"reward_images must be in \[1, 10\^9\], got 0"),
        ({"observation": "run"}, "observation must be one of .*, got 'run'"),
    ],
)
def test_bad_values_are_refused_when_the_environment_is_made(kwargs, message):
    with pytest.raises(ValueError, match=message) as raised:
        ViTPatchSelectEnv(**{**TINY, **kwargs})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"batch_size": "64"}, {"epochs": 2.5}, {"alpha": None}, {"image_size": 32.0},
        {"depth": True}, {"dataset": None}, {"dataset": 3}, {"device": None}, {"flip": "no"},
        {"n_patches_desired": 8.5}, {"learning_rate": float("nan")},
    ],
)  # fmt: skip
def test_values_of_the_wrong_type_are_refused_by_name(kwargs):
    (name, value) = next(iter(kwargs.items()))
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        ViTPatchSelectEnv(**{**TINY, **kwargs})


def test_patches_of_a_single_value_are_refused():
    env = ViTPatchSelectEnv(
        **{**TINY, "dataset": "digits", "image_size": 8, "patch_size": 1, "n_patches_desired": 40}
    )
    with pytest.raises(ValueError, match="a patch must have two values or more"):
        env.data  # noqa: B018


def test_images_of_another_size_are_refused():
    env = ViTPatchSelectEnv(**{**TINY, "dataset": load_dataset("synthetic", image_size=16)})
    with pytest.raises(ValueError, match=r"image_size must be .*\[16, 16\], got 32"):
        env.reset()


def test_a_validation_reward_without_validation_images_is_refused_before_any_training():
    data = load_dataset("synthetic")
    data = replace(data, val=Split(data.val.images[:0], data.val.labels[:0]))
    env = ViTPatchSelectEnv(**{**TINY, "dataset": data, "reward": "validation"})
    with pytest.raises(ValueError, match=r"^reward validation needs validation images, got 0 of"):
        env.reset()
    run_episode(ViTPatchSelectEnv(**{**TINY, "dataset": data, "epochs": 1}))  # others do not


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(
        ValueError, match="render_mode must be one of rgb_array, human, None, got 'x'"
    ):
        ViTPatchSelectEnv(**TINY, render_mode="x")


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be in \[1, 460\], got 500"):
        ViTPatchSelectEnv(**{**TINY, "batch_size": 500}).reset()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([[1, 0], [1]], r"action must have shape \(16,\), got \[\[1, 0\], \[1\]\]"),
        (np.ones(15), r"action must have shape \(16,\), got \(15,\)"),
        (np.full(16, 2), "action values must be 0 or 1, got 2"),
    ],
)
def test_bad_actions_are_refused_before_any_training(tiny_env, action, message):
    tiny_env.reset(seed=0)
    before = tiny_env.evaluate("val")
    with pytest.raises(ValueError, match=message):
        tiny_env.step(action)
    assert tiny_env.evaluate("val") == before
