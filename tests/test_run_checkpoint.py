"""Agents and environments in this process, broken off and gone on with."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from tests.conftest import TINY
from tests.test_saving import dropout_model
from vit_patch_env.config import EnvConfig
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.experiments import RunCheckpoint, TrainingMonitor
from vit_patch_env.experiments.agents_by_name.factory import make_agent, resolve_agent
from vit_patch_env.experiments.checkpoints.callback import Interval, parse_interval
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.checkpoints.recorder import AnswerRecorder
from vit_patch_env.experiments.checkpoints.snapshot import (
    put,
    put_generators,
    take,
    take_generators,
)
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.runs.train import make_env
from vit_patch_env.system.files import load_state, save_state

AGENTS = {
    "paper": {},
    "branching": {},
    "ppo": {},
    "a2c": {},
    "trpo": {},
    "bandit": {"sb3": ("decision_steps=5",)},
    "random": {},
    "spread": {},
    "centre": {},
    "attended": {},
    "quadratic": {},
    "dqn": {"actions": "count", "sb3": ("learning_starts=5", "buffer_size=50")},
    "qrdqn": {"actions": "count", "sb3": ("learning_starts=5", "buffer_size=12")},
    "sac": {"actions": "top_k", "sb3": ("learning_starts=5", "buffer_size=50")},
    "td3": {"actions": "top_k", "sb3": ("learning_starts=5", "buffer_size=50")},
}
USUAL = [("paper", "any"), ("ppo", "any"), ("bandit", "any"), ("dqn", "any"), ("paper", "short")]
"""What is tried by default; `make faults` tries all."""

N_STEPS = 28
FLOPS = {}
"""What steps cost, by the observation: the same for all environments here."""


class Diary(BaseCallback):
    """Notes what happened in each step, and stops where it is told to."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.notes = []
        self.stop_at = stop_at

    def _on_step(self):
        info = self.locals["infos"][0]
        reward = float(self.locals["rewards"][0])
        self.notes.append((info["loss"], info["n_selected"], reward, self.model.num_timesteps))
        if len(self.notes) == self.stop_at:
            self.stop()
        return True

    def state_dict(self):
        return {"notes": self.notes}

    def load_state_dict(self, state):
        self.notes = state["notes"]


def disturb():
    """As another process would: the global generators are elsewhere."""
    random.random()
    np.random.rand(3)  # noqa: NPY002
    torch.rand(5)


def learn(agent, env, folder, stop_at=None, resume=False, n_steps=N_STEPS):
    """Notes of the steps, the monitor and the checkpoints of a run."""
    disturb()
    diary, monitor = Diary(stop_at), TrainingMonitor(max_episodes=1)
    checkpoint = RunCheckpoint(folder, every="never", callback=[monitor, diary], resume=resume)
    diary.stop = checkpoint.stop
    agent.learn(n_steps, callback=checkpoint)
    return diary.notes, monitor, checkpoint


def named(name, **env):
    options = TrainOptions(
        agent=name, seed=3, env=EnvConfig(**TINY | {"epochs": 4} | env), **AGENTS[name]
    )
    options = resolve_agent(options)
    env = make_env(options.env)
    if options.env.patch_size == TINY["patch_size"]:  # counting takes longer than all the rest
        env._factory._known_flops = FLOPS.setdefault(options.env.observation, {})
    return make_agent(options, env), env


@pytest.mark.parametrize(
    ("name", "rollouts"),
    [
        pytest.param(name, rollouts, marks=() if (name, rollouts) in USUAL else pytest.mark.long)
        for rollouts in ("any", "short")
        for name in AGENTS
    ],
)
def test_every_agent_takes_the_course_it_would_have_taken(name, rollouts, tmp_path, monkeypatch):
    # "any": broken off in the middle of a rollout; "short": at the start of the next one.
    seconds = 0.0 if rollouts == "any" else 1000.0
    monkeypatch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_SECONDS", seconds)
    agent, env = named(name)
    expected, monitor, _ = learn(agent, env, tmp_path / "unbroken")
    assert len(expected) == N_STEPS
    for stop_at in (1, 13):
        folder = tmp_path / str(stop_at)
        first, _, checkpoint = learn(*named(name), folder, stop_at=stop_at)
        assert checkpoint.stopped
        assert len(first) == checkpoint.saved_steps
        assert len(first) == stop_at or rollouts == "short"
        other, its_env = named(name)
        notes, its_monitor, checkpoint = learn(other, its_env, folder, resume=True)
        assert checkpoint.resumed_steps == len(first)
        assert notes == expected  # the diary is saved too
        assert its_monitor.flops == monitor.flops
        assert its_monitor.n_selected_mean == monitor.n_selected_mean
        assert np.array_equal(its_monitor.selected, monitor.selected)
        figures = [one.last_episode.evaluate("test") for one in (env, its_env)]
        assert figures[0] == figures[1]
        assert same(take(other.policy), take(agent.policy))


def same(one, other):
    """Whether two states are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_run_can_be_broken_off_again_and_again(tmp_path):
    expected, *_ = learn(*named("ppo"), tmp_path / "unbroken")
    for stop_at in (3, 11, 20):
        learn(*named("ppo"), tmp_path / "run", stop_at=stop_at, resume=True)
    notes, _, checkpoint = learn(*named("ppo"), tmp_path / "run", resume=True)
    assert notes == expected
    assert len(checkpoint.folder.files) <= 3


def test_a_run_that_had_ended_is_at_its_end_again(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_SECONDS", 0.0)
    agent, env = named("paper")
    expected, monitor, _ = learn(agent, env, tmp_path / "run")
    other, its_env = named("paper")
    notes, its_monitor, _ = learn(other, its_env, tmp_path / "run", resume=True)
    assert notes == expected
    assert its_monitor.n_calls == monitor.n_calls == N_STEPS
    assert its_env.last_episode.evaluate("test") == env.last_episode.evaluate("test")


def test_several_environments_and_wrappers_of_stable_baselines(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_SECONDS", 0.0)

    def make():
        envs = DummyVecEnv([lambda seed=seed: ViTPatchSelectEnv(**TINY) for seed in (1, 2)])
        world = VecNormalize(envs)
        return PPO("MlpPolicy", world, n_steps=5, batch_size=5, seed=1, device="cpu")

    def run(folder, **kwargs):
        diary = Diary(kwargs.pop("stop_at", None))
        checkpoint = RunCheckpoint(folder, every="never", callback=diary, **kwargs)
        diary.stop = checkpoint.stop
        make().learn(60, callback=checkpoint)
        return diary.notes

    expected = run(tmp_path / "unbroken")
    run(tmp_path / "run", stop_at=18)  # behind the first episodes' ends
    assert run(tmp_path / "run", resume=True) == expected


def test_a_users_model_may_draw_from_torchs_global_generator(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_SECONDS", 0.0)

    def make():
        env = ViTPatchSelectEnv(**TINY | {"model": dropout_model, "epochs": 4})
        env._factory._known_flops = FLOPS.setdefault("dropout", {})
        return PPO("MlpPolicy", env, n_steps=10, batch_size=10, seed=1, device="cpu"), env

    expected, *_ = learn(*make(), tmp_path / "unbroken")
    learn(*make(), tmp_path / "run", stop_at=17)
    assert learn(*make(), tmp_path / "run", resume=True)[0] == expected


def test_checkpoints_come_every_so_many_steps_and_the_newest_are_kept(tmp_path):
    agent, _ = named("random")
    checkpoint = RunCheckpoint(tmp_path, every="4", keep=2)
    agent.learn(18, callback=checkpoint)
    assert [path.name for path in checkpoint.folder.files] == [
        "step-000000000016.ckpt", "step-000000000012.ckpt"
    ]  # fmt: skip
    assert checkpoint.n_written == 4
    assert checkpoint.seconds > 0


def test_checkpoints_come_after_a_time(tmp_path):
    agent, _ = named("random")
    checkpoint = RunCheckpoint(tmp_path, every="0.001s")
    agent.learn(5, callback=checkpoint)
    assert checkpoint.n_written == 5


def test_the_time_of_checkpoints_is_no_training_time(tmp_path, monkeypatch):
    agent, env = named("random")
    monitor = TrainingMonitor(max_episodes=1)
    checkpoint = RunCheckpoint(tmp_path, every="1", callback=monitor)
    write = checkpoint.folder.write

    def slow(step, state):
        write(step, state)
        env.exclude_time(1000)  # as if it took so long

    monkeypatch.setattr(checkpoint.folder, "write", slow)
    monkeypatch.setattr("vit_patch_env.experiments.runs.monitor.time.perf_counter", lambda: 0.0)
    agent.learn(N_STEPS, callback=checkpoint)
    assert monitor.clock.apart >= 1000 * (N_STEPS - 1)


def test_a_disk_that_cannot_be_written_to_is_a_warning_and_tried_again(tmp_path, monkeypatch):
    agent, _ = named("random")
    checkpoint = RunCheckpoint(tmp_path, every="5")
    write, fails = checkpoint.folder.write, [False, True, True, False, False]

    def unreliable(step, state):
        if fails.pop(0):
            raise OSError(28, "No space left on device")
        write(step, state)

    monkeypatch.setattr(checkpoint.folder, "write", unreliable)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.learn(26, callback=checkpoint)
    assert ["at step 10" in str(caught[0].message), "at step 15" in str(caught[1].message)] == [
        True, True
    ]  # fmt: skip
    assert (checkpoint.n_written, checkpoint.n_failed) == (3, 2)
    assert [path.stem[-2:] for path in checkpoint.folder.files] == ["25", "20", "05"]


def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path):
    learn(*named("random"), tmp_path, stop_at=5)
    learn(*named("random"), tmp_path, stop_at=9, resume=True)
    newest, older = CheckpointFolder(tmp_path).files
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"an older checkpoint is taken: .*{newest}"):
        checkpoint = RunCheckpoint(tmp_path, keep=1, resume=True)
    assert checkpoint.resumed_steps <= 6
    assert checkpoint.folder.files == [older]  # what comes next must not fall behind the damaged
    older.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^no checkpoint in .* is whole: [^\n]*$"):
        RunCheckpoint(tmp_path, resume=True)


def test_checkpoints_that_are_not_gone_on_with_are_kept(tmp_path):
    learn(*named("random"), tmp_path, stop_at=5)
    with pytest.raises(ValueError, match="folder must be without checkpoints, or resume be true"):
        RunCheckpoint(tmp_path)
    assert len(CheckpointFolder(tmp_path).files) == 1


def test_only_checkpoints_are_removed(tmp_path):
    learn(*named("random"), tmp_path, stop_at=5)
    for name in ("precious.pt", "step-1.txt", ".mine.tmp"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".step-000000000001.ckpt.0123456789abcdef.tmp").write_text("half")
    CheckpointFolder(tmp_path).clear()
    assert {path.name for path in tmp_path.iterdir()} == {"precious.pt", "step-1.txt", ".mine.tmp"}


def test_target_networks_that_move_within_a_rollout_are_saved_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_SECONDS", 0.0)

    def make():
        values = ("learning_starts=5", "train_freq=8", "tau=0.3", "target_update_interval=2")
        env = EnvConfig(**TINY | {"epochs": 4})
        options = TrainOptions(agent="dqn", actions="count", sb3=values, seed=3, env=env)
        world = make_env(options.env)
        world._factory._known_flops = FLOPS.setdefault("attention_output", {})
        return make_agent(options, world), world

    agent, env = make()
    expected, *_ = learn(agent, env, tmp_path / "unbroken")
    learn(*make(), tmp_path / "run", stop_at=13)
    other, its_env = make()
    assert learn(other, its_env, tmp_path / "run", resume=True)[0] == expected
    assert same(take(other.policy), take(agent.policy))


def test_off_policy_behind_vec_normalize_is_broken_off_between_rollouts(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_patch_env.experiments.checkpoints.callback.LONG_SECONDS", 0.0)

    def run(folder, stop_at=None, resume=False):
        diary = Diary(stop_at)
        checkpoint = RunCheckpoint(folder, every="never", callback=diary, resume=resume)
        diary.stop = checkpoint.stop
        world = VecNormalize(DummyVecEnv([lambda: ViTPatchSelectEnv(**TINY)]))
        agent = MultiOutputDQN("MlpPolicy", world, learning_starts=5, seed=1, device="cpu")
        agent.learn(40, callback=checkpoint)
        return diary.notes

    expected = run(tmp_path / "unbroken")
    run(tmp_path / "run", stop_at=17)
    assert run(tmp_path / "run", resume=True) == expected


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_generators_of_every_kind_go_on(bits, tmp_path):
    generator, other = np.random.Generator(bits(1)), np.random.Generator(bits(2))
    save_state(tmp_path / "state", take(generator))
    put(other, load_state(tmp_path / "state"))
    assert other.random() == generator.random()


def test_without_a_checkpoint_a_run_begins(tmp_path):
    checkpoint = RunCheckpoint(tmp_path / "none", resume=True)
    assert checkpoint.resumed_steps is None
    named("random")[0].learn(3, callback=checkpoint)
    assert not (tmp_path / "none").exists()


def test_checkpoints_of_another_run_are_refused(tmp_path):
    agent, _ = named("random")
    checkpoint = RunCheckpoint(tmp_path, every="2", belongs_to={"seed": 1, "dim": 16})
    agent.learn(3, callback=checkpoint)
    with pytest.raises(ValueError, match=r"got one of another: seed 1 instead of 2$"):
        RunCheckpoint(tmp_path, belongs_to={"seed": 2, "dim": 16}, resume=True)


@pytest.mark.parametrize(("name", "kwargs"), [("ppo", {}), ("paper", {"patch_size": 4})])
def test_checkpoints_of_another_agent_or_environment_are_refused(name, kwargs, tmp_path):
    learn(*named("paper"), tmp_path, stop_at=3)
    with pytest.raises(ValueError, match=r"must (be|hold)|expected"):
        learn(*named(name, **kwargs), tmp_path, resume=True)


def test_environments_in_other_processes_are_refused(tmp_path):
    agent, _ = named("random")
    agent.env = SubprocVecEnv.__new__(SubprocVecEnv)  # without its processes
    checkpoint = RunCheckpoint(tmp_path)
    checkpoint.init_callback(agent)
    with pytest.raises(ValueError, match=r"environments in this process .* got SubprocVecEnv"):
        checkpoint.on_training_start({}, {})


def test_the_agents_environment_is_its_own_again_after_learning(tmp_path):
    agent, _ = named("random")
    world = agent.env
    agent.learn(3, callback=RunCheckpoint(tmp_path))
    assert agent.env is world


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", Interval(steps=500)),
        ("5min", Interval(seconds=300)),
        ("0.5min", Interval(seconds=30)),
        ("90s", Interval(seconds=90)),
        ("never", Interval()),
    ],
)
def test_intervals(text, interval):
    assert parse_interval(text) == interval


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "5 min", "5h", "nan", "1e9", "0s", "٣"])
def test_other_intervals_are_named(text):
    with pytest.raises(ValueError, match="checkpoint_every must be a number of steps such as 500"):
        parse_interval(text)


def test_keep_must_be_positive_and_the_folder_no_link(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        RunCheckpoint(tmp_path, keep=0)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="got the link"):
        RunCheckpoint(tmp_path / "link")


def test_generators_go_on_where_they_were():
    state = take_generators()
    expected = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    disturb()
    put_generators(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002


def test_what_cannot_be_saved_is_named():
    class Odd:
        lock = None

        def __init__(self, thing):
            self.thing = [thing]

    with pytest.raises(ValueError, match=r"saved in Odd\.thing\[0\], got \{1, 2\}"):
        take(Odd({1, 2}))
    with pytest.raises(ValueError, match=r"saved in Odd\.thing\[0\], got <random.Random"):
        take(Odd(random.Random(1)))
    with pytest.raises(ValueError, match=r"expected numbers in Odd\.thing\[0\], got an array of"):
        take(Odd(np.array(["a"])))
    with pytest.raises(ValueError, match=r"as keys of Odd\.thing\[0\], got \(1, 2\)"):
        take(Odd({(1, 2): 3}))
    with pytest.raises(ValueError, match=r"Odd\.thing\[0\] must be a .*Odd, .* got None"):
        put(Odd(None), take(Odd(Odd(1))))


def test_a_space_that_was_never_drawn_from_stays_so():
    assert put(Discrete(3), take(Discrete(3)))._np_random is None


def test_the_recorder_says_again_what_it_heard():
    env = DummyVecEnv([lambda: ViTPatchSelectEnv(**TINY)])
    recorder = AnswerRecorder(env)
    recorder.seed(1)
    recorder.reset()
    masks = np.ones((1, 16), dtype=np.int8)
    first = [recorder.step(masks) for _ in range(3)]
    answers = list(recorder.answers)
    first[0][1][0] = 1000  # as an algorithm may
    recorder.forget()
    recorder.repeat(answers)
    n_steps_done = env.envs[0].unwrapped.steps_done
    again = [recorder.step(masks) for _ in range(3)]
    assert env.envs[0].unwrapped.steps_done == n_steps_done == 3
    assert again[0][1][0] != 1000
    assert [one[3][0]["loss"] for one in again] == [one[3][0]["loss"] for one in first]
    assert recorder.n_again == 0
    recorder.step(masks)
    assert env.envs[0].unwrapped.steps_done == 4


def test_options_are_the_same_dataclass():
    # What a checkpoint belongs to must not depend on where the run is.
    from vit_patch_env.experiments.runs.train import _course

    options = TrainOptions()
    assert _course(options) == _course(replace(options, out="x", checkpoint_every="1", resume="y"))
    assert _course(options) != _course(replace(options, seed=1))


def test_epsilon_goes_on_where_it_was(tmp_path):
    agent, _ = named("paper")
    learn(agent, None, tmp_path, stop_at=13)
    other, _ = named("paper")
    assert isinstance(other, MultiOutputDQN)
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            seen.append(self.model.exploration_rate)
            return False

    checkpoint = RunCheckpoint(tmp_path, callback=[TrainingMonitor(), Watch()], resume=True)
    with pytest.raises(ValueError, match="must be a"):  # other callbacks than it was saved with
        other.learn(N_STEPS, callback=checkpoint)
    other, _ = named("paper")
    learn(other, None, tmp_path, resume=True)
    expected, _ = named("paper")
    learn(expected, None, tmp_path / "unbroken")
    assert other.exploration_rate == expected.exploration_rate
