"""Numbers given to agents and rules: NumPy's are taken as what they are, others are refused."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.envs import IdentityEnvMultiBinary

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import (
    BanditPolicy,
    BranchingMlpPolicy,
    DQNOptions,
    FixedRule,
    MultiOutputDQN,
    PatchBandit,
    RandomPatches,
    ScheduledCount,
)
from vit_patch_env.arguments import declared
from vit_patch_env.experiments import TrainingMonitor


def rule(n_keep, name="random", **kwargs):
    return FixedRule(name, ViTPatchSelectEnv(**TINY, observation="none"), n_keep=n_keep, **kwargs)


def dqn(**kwargs):
    policy = {"net_arch": [8]}
    return MultiOutputDQN("MlpPolicy", IdentityEnvMultiBinary(4), policy_kwargs=policy, **kwargs)


def bandit(**kwargs):
    env = ViTPatchSelectEnv(**TINY, observation="none+run")
    return PatchBandit("BanditPolicy", env, **kwargs)


def counts_over(agent, n_steps=4):
    seen = []
    agent.learn(n_steps, callback=lambda now, _: seen.append(int(now["actions"].sum())) or True)
    return seen


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("n_keep", "expected"),
    [
        (np.int64(5), [5] * 4),
        (np.uint8(5), [5] * 4),
        (np.array([3, 4, 5, 6], dtype=np.int32), [3, 4, 5, 6]),
        ([np.int64(3), 4, np.uint8(5), 6], [3, 4, 5, 6]),
        ((3, 4, 5, 6), [3, 4, 5, 6]),
        (range(3, 7), [3, 4, 5, 6]),
        (lambda progress: np.int64(4), [4] * 4),
    ],
)
def test_a_rule_keeps_as_many_patches_as_numpy_numbers_say(n_keep, expected):
    agent = rule(n_keep, seed=0)
    assert counts_over(agent) == expected
    assert agent.predict(np.zeros(16, dtype=np.float32))[0].sum() == expected[-1]


@pytest.mark.parametrize(
    "n_keep",
    [
        5.0, np.float32(5), True, np.True_, "5", b"5", np.array(5), np.array([5.0] * 4),
        np.array([True] * 4), [8.7] * 4, [True] * 4, [3, 4, 5, 6.0], np.ones((4, 4), dtype=int),
        iter([5] * 4), lambda progress: 4 + progress, lambda progress: True,
    ],
)  # fmt: skip
def test_a_rule_refuses_other_numbers_in_one_line(n_keep):
    with pytest.raises(ValueError, match=r"^n_keep must be an integer in \[1, 16\].*, got [^\n]*$"):
        rule(n_keep)


def test_a_rule_refuses_a_number_that_its_function_gives_late():
    agent = rule(lambda progress: 4 if progress * 1000 % 1 == 0 or progress > 0.999 else 4.5)
    with pytest.raises(ValueError, match=r"n_keep must be an integer in \[1, 16\].*, got 4.5"):
        agent.learn(14)


def test_a_rule_refuses_no_numbers():
    with pytest.raises(ValueError, match="n_keep must be a number for each step, got none"):
        rule([])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("n_keep", [None, 3, [3] * 4, lambda progress: 3])
def test_the_rule_all_keeps_all_patches_whatever_the_number(n_keep):
    assert counts_over(rule(n_keep, "all")) == [16] * 4


@pytest.mark.parametrize("n_keep", [True, 3.0, "3"])
def test_the_rule_all_refuses_what_is_no_number(n_keep):
    with pytest.raises(ValueError, match="n_keep must be an integer or None, got"):
        rule(n_keep, "all")


@pytest.mark.parametrize("make", [lambda **kw: rule(4, **kw), dqn, bandit])
def test_seeds_are_integers(make):
    assert make(seed=np.int64(3)).seed == 3
    for seed in (True, 1.5, -1, 2**32, "x"):
        with pytest.raises(ValueError, match=r"^seed must be .*\[0, 4294967295\].*, got [^\n]*$"):
            make(seed=seed)
    agent = make(seed=0)
    for seed in (True, 1.5, -1):
        with pytest.raises(ValueError, match=r"^seed must be "):
            agent.set_random_seed(seed)


@pytest.mark.parametrize("make", [lambda **kw: rule(4, **kw), dqn, bandit])
def test_the_window_of_statistics_is_an_integer(make):
    assert make(stats_window_size=np.int64(7))._stats_window_size == 7
    for size in (True, 10.0, 0):
        with pytest.raises(ValueError, match=r"stats_window_size must be .*, got"):
            make(stats_window_size=size)


INTEGERS = [one.name for one in declared(DQNOptions) if "an integer" in one.expected]
NUMBERS = [one.name for one in declared(DQNOptions) if "a number" in one.expected]


@pytest.mark.parametrize("name", [*INTEGERS, "n_steps"])
def test_the_dqns_integers_may_be_numpys(name):
    agent = dqn(**{"learning_starts": 4, name: np.int64(2)}, seed=0).learn(20)
    value = getattr(agent, name)
    assert getattr(value, "frequency", value) == 2
    for value in (True, 2.0, np.float64(2), 2.5, "2"):
        with pytest.raises(ValueError, match=f"{name} must be an integer .*, got"):
            dqn(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_dqns_numbers_may_be_numpys(name):
    agent = dqn(**{name: np.float32(0.5)}, seed=0).learn(100)
    assert getattr(agent, name) == 0.5
    assert type(getattr(agent, name)) is float
    for value in (True, np.True_, "0.5"):
        with pytest.raises(ValueError, match=f"{name} must be a number .*, got"):
            dqn(**{name: value})


def test_the_dqns_frequency_may_have_a_unit():
    assert dqn(train_freq=(np.int64(4), "step")).train_freq.frequency == 4
    with pytest.raises(ValueError, match=r"train_freq must be an integer .*, got 4.0"):
        dqn(train_freq=(4.0, "step"))


def test_the_bandits_numbers_may_be_numpys():
    policy = {"n_stages": np.int64(3), "prior_precision": np.float32(0.5)}
    agent = bandit(
        decision_steps=np.int64(2), forgetting=np.float32(0.5), learning=np.True_,
        policy_kwargs=policy, seed=0,
    ).learn(8)  # fmt: skip
    assert (agent.decision_steps, agent.forgetting, agent.learning) == (2, 0.5, True)
    assert (agent.policy.n_stages, agent.policy.of_counts.prior_precision) == (3, 0.5)


@pytest.mark.parametrize("learning", [1, "no", None])
def test_whether_the_bandit_learns_is_true_or_false(learning):
    with pytest.raises(ValueError, match="learning must be one of False, True, got"):
        bandit(learning=learning)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("cubic", 64, 3), "name must be one of pss, pss_linear, flip, quadratic, got 'cubic'"),
        (("pss", 64.0, 3), r"n_patches must be an integer in \[1, inf\), got 64.0"),
        (("pss", True, 3), r"n_patches must be an integer in \[1, inf\), got True"),
        (("pss", 64, 0), r"epochs must be in \[1, inf\), got 0"),
    ],
)
def test_a_schedules_values_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        ScheduledCount(*values)


def test_a_schedule_of_numpys_numbers_gives_pythons():
    assert type(ScheduledCount("pss", np.int64(64), np.int64(3))(1.0)) is int


@pytest.mark.parametrize(
    "make",
    [
        lambda space: RandomPatches(spaces.Box(0, 1, (16,)), space, n_keep=2),
        lambda space: BanditPolicy(spaces.Box(0, 1, (7,)), space),
    ],
)
def test_actions_of_several_dimensions_are_refused(make):
    with pytest.raises(ValueError, match=r"action_space must be MultiBinary\(n_patches\), got Mu"):
        make(spaces.MultiBinary([4, 4]))


@pytest.mark.parametrize("policy", ["MlpPolicy", BranchingMlpPolicy])
def test_the_dqn_refuses_actions_of_several_dimensions(policy):
    env = IdentityEnvMultiBinary(4)
    env.action_space = spaces.MultiBinary([2, 2])
    with pytest.raises(ValueError, match=r"action_space must be MultiBinary\(n_patches\), got Mu"):
        MultiOutputDQN(policy, env)


@pytest.mark.parametrize("values", [{"log_interval": 2.5}, {"max_episodes": True}])
def test_a_monitors_numbers_are_integers(values):
    with pytest.raises(ValueError, match=r"must be an integer in \[1, inf\), got"):
        TrainingMonitor(**values)
