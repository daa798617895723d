import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from tests.conftest import TINY
from tests.test_env import run_episode
from vit_patch_env import ViTPatchSelectEnv, load_dataset
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.observation import mean_attention_output
from vit_patch_env.training import flop_meter
from vit_patch_env.training.budget import Budget
from vit_patch_env.training.flops import FlopCount
from vit_patch_env.training.schedule import learning_rate_factor

pytestmark = pytest.mark.counts_flops

SIZES = {
    name: TINY[name] for name in ("patch_size", "dim", "depth", "heads", "dim_head", "mlp_dim")
}
ALL = np.ones(16, dtype=np.int8)


@functools.cache
def few_images():
    """Seven batches of 16 to train on."""
    return load_dataset("synthetic", train_fraction=0.25)


def make(**kwargs):
    few = {"dataset": few_images(), "batch_size": 16}
    return ViTPatchSelectEnv(**{**TINY, **few, "budget": "flops", "observation": "none", **kwargs})


def maker(kind, **kwargs):
    """A user's own function that makes a model."""
    return lambda n_classes, channels: kind(
        n_classes=n_classes, channels=channels, **SIZES, **kwargs
    )


def flops_of(env):
    return env.episode.flops()


def progress_of(results):
    return [step[4]["progress"] for step in results]


class Twice(SimpleViT):
    """A user's own model: twice the work."""

    def forward(self, images, keep=None):
        return super().forward(images, keep) + super().forward(images, keep)


class Uncopied(SimpleViT):
    def __deepcopy__(self, memo):
        raise TypeError("no copies\nof this model")


class InFloat32(SimpleViT):
    """A kernel that takes neither shapes alone nor other types."""

    def forward(self, images, keep=None):
        if images.is_meta or images.dtype == torch.float64:
            raise RuntimeError("a kernel of float32 alone")
        return super().forward(images, keep)


def refuse_counting():
    if _get_current_dispatch_mode() is not None:
        raise RuntimeError("a kernel that no mode sees\n(in C++)")


class Unseen(SimpleViT):
    def forward(self, images, keep=None):
        refuse_counting()
        return super().forward(images, keep)


class UnseenAttention(SimpleViT):
    def mean_first_attention(self, images):
        refuse_counting()
        return super().first_attention(images).float().mean(dim=(0, 2))


class WithoutProducts(nn.Module):
    n_patches = 16

    def __init__(self, n_classes, **_):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_classes))

    def first_attention(self, images):
        return images.new_zeros(len(images), 16, 1)

    def forward(self, images, keep=None):
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight


def test_the_share_of_a_budget():
    assert Budget("epochs", 20).share(5) == 0.25
    assert Budget("seconds", 2).share(3.0) == 1
    assert Budget("flops", 100).share(10) == 0.1


def test_flops_on_all_patches_are_epochs_passes():
    env = make()
    results = run_episode(env, n_selected=16)
    assert len(results) == env.epochs * env.steps_per_epoch == 14
    assert progress_of(results) == [step / 14 for step in range(1, 15)]
    assert [step[3] for step in results] == [False] * 13 + [True]
    plain = make(budget="epochs")
    assert [step[1] for step in run_episode(plain, n_selected=16)] == [step[1] for step in results]


@pytest.mark.parametrize("flops", [1, 10**17 + 29])
def test_flops_are_added_up_without_rounding(monkeypatch, flops):
    monkeypatch.setattr(FlopCount, "train_step", lambda *args, **kwargs: flops)
    assert len(run_episode(make(), n_selected=16)) == 14


def test_fewer_patches_allow_more_steps_for_the_same_flops():
    env = make(epochs=1)
    run_episode(env, n_selected=16)
    budget = env.episode.flops()
    lengths = []
    for n_selected in (16, 10, 5):
        results = run_episode(env, n_selected=n_selected)
        step = env.episode.run.step_flops(torch.arange(n_selected))
        assert budget <= env.episode.flops() < budget + step
        lengths.append(len(results))
        assert lengths[-1] == math.ceil(budget / step)
    assert lengths[0] == 7
    assert lengths[1] > 10
    assert lengths[2] > 20


@pytest.mark.parametrize(("epochs", "n_steps"), [(0.5, 4), (1.5, 10), (0.01, 1)])
def test_flops_may_be_those_of_a_fraction_of_an_epoch(epochs, n_steps):
    env = make(epochs=epochs, schedule="cosine", warmup_epochs=epochs / 4)
    assert env.budget_steps == n_steps
    assert len(run_episode(env, n_selected=16)) == n_steps


def test_an_overhead_is_charged_for_each_step():
    for overhead in (0.0, 0.25, 4.0):
        env = make(step_overhead=overhead)
        assert len(run_episode(env, n_selected=16)) == 14  # a budget of as many steps
        flops = env.episode.flops() / 14
        few = run_episode(env, n_selected=4)
        cost = env.episode.flops() / len(few) + overhead * flops
        assert len(few) == math.ceil(14 * (1 + overhead) * flops / cost)
        assert few[-1][4]["progress"] == 1
        assert len(few) <= env.max_steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "epochs", "epochs": 1.5}, "epochs must be an integer in .*, got 1.5"),
        ({"budget": "epochs", "step_overhead": 0.5}, "step_overhead is of a budget of FLOPs, got"),
        ({"epochs": 0}, r"epochs must be in \(0, .*, got 0"),
        ({"epochs": 2, "warmup_epochs": 2.5}, r"warmup_epochs must be in \[0, 2\], got 2.5"),
        ({"step_overhead": -1.0}, "step_overhead must be in .*, got -1.0"),
    ],
)
def test_lengths_that_a_budget_cannot_have_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_the_last_step_may_cost_more_than_is_left():
    env = make(epochs=1)
    env.reset(seed=0)
    one = np.eye(16, dtype=np.int8)[0]
    while env.episode.run.progress < 0.97:
        env.step(ALL if env.episode.run.progress < 0.8 else one)
    _, _, _, truncated, info = env.step(ALL)
    assert truncated
    assert info["progress"] == 1
    assert env.episode.flops() > 1.05 * env.episode.run.budget.total


def test_observations_count_against_the_flops():
    env = make(observation="attention_output")
    results = run_episode(env, n_selected=16)
    run = env.episode.run
    observation = FlopCount(run.trainer.model).forward(mean_attention_output, run.batch.images)
    share = observation / run.step_flops()
    assert len(results) == math.ceil(14 / (1 + share)) < 14
    assert progress_of(results)[0] == pytest.approx((1 + share) / 14)


def test_validation_losses_count_against_the_flops():
    env = make(reward="validation", reward_every=3)
    _, info = env.reset(seed=0)
    n_val = len(env.data.val.labels)
    run = env.episode.run
    count = FlopCount(run.trainer.model)
    share = count.forward(lambda model, images: model(images), run.batch.images)
    share *= n_val / 16 / run.step_flops()
    assert 0.2 < share < 0.4
    assert info["progress"] == pytest.approx(share / 14)
    results = run_episode(env, n_selected=16)
    expected = [(step + (1 + step // 3) * share) / 14 for step in range(1, len(results))]
    assert progress_of(results) == pytest.approx([*expected, 1])
    assert len(results) == 13


@pytest.mark.long
def test_a_budget_that_the_first_measurement_uses_up_allows_one_step():
    env = make(reward="validation", epochs=1, model=maker(CostlyAlone))
    _, info = env.reset(seed=0)
    assert info["progress"] == 1
    assert env.step(ALL)[3]


class CostlyAlone(SimpleViT):
    """Evaluates at thirty times the cost."""

    def forward(self, images, keep=None):
        for _ in range(0 if self.training else 29):
            super().forward(images, keep)
        return super().forward(images, keep)


MODEL_CASES = [
    "simple_vit", "ats_vit", "tome", "token_expansion", maker(Twice),
]  # fmt: skip


@pytest.mark.one_in(6)
@pytest.mark.parametrize("model", MODEL_CASES, ids=[*MODEL_CASES[:-1], "own"])
def test_same_seed_same_run_under_a_budget_of_flops(model, monkeypatch):
    """Independent of earlier runs, the global generators and reads in between."""
    monkeypatch.setattr(flop_meter, "_RECOUNT", 5)
    sizes = {"epochs": 1, "depth": 2 if model == "token_expansion" else 1}
    env = make(model=model, observation="none+run", **sizes)
    first = run_episode(env, seed=3, n_selected=10)
    progress = progress_of(first)
    assert progress == sorted(set(progress))
    assert progress[-1] == 1
    assert len(first) > 7
    torch.manual_seed(99)
    other = make(model=model, observation="none+run", **sizes)
    other.reset(seed=5)
    other.step(ALL)
    for again in (env, other):
        results = run_episode(
            again, seed=3, n_selected=10, after_step=functools.partial(flops_of, again)
        )
        for step, expected in zip(results, first, strict=True):
            assert np.array_equal(step[0], expected[0])
            assert step[1:] == expected[1:]


def test_a_users_model_gets_the_flops_of_its_own_epochs():
    own, usual = make(model=maker(Twice), epochs=1), make(epochs=1)
    assert len(run_episode(own, n_selected=16)) == len(run_episode(usual, n_selected=16)) == 7
    assert own.episode.flops() == pytest.approx(2 * usual.episode.flops(), rel=0.01)


def test_a_model_whose_cost_depends_on_its_weights_has_one_budget():
    class Moody(SimpleViT):
        data_dependent = True

        def forward(self, images, keep=None):
            n_tokens = 4 if next(self.parameters()).sum() > 0 else 8
            return super().forward(images, torch.arange(n_tokens))

    budgets = set()
    for seed in range(4):
        torch.manual_seed(seed)
        env = make(model=maker(Moody))
        env.reset(seed=seed)
        budgets.add(env.episode.run.budget.total)
    assert len(budgets) == 1


def test_models_that_reduce_tokens_get_the_flops_of_a_simple_vit():
    budgets = set()
    lengths = {}
    for name in ("simple_vit", "tome", "ats_vit"):
        env = make(model=name, depth=2, epochs=1)
        lengths[name] = len(run_episode(env, n_selected=16))
        budgets.add(env.episode.run.budget.total)
    assert len(budgets) == 1
    assert lengths.pop("simple_vit") == 7
    assert min(lengths.values()) > 7


def test_a_rate_follows_the_flops():
    env = make(model="token_expansion", depth=2, epochs=3)
    progress = np.array(progress_of(run_episode(env, n_selected=16)))
    shares = np.diff(progress, prepend=0)
    stages = (3 * np.append(0, progress[:-1])).astype(int)
    for stage in range(3):  # each step costs what its stage costs; the last one is cut off
        assert np.ptp(shares[:-1][stages[:-1] == stage]) < 1e-12
    assert shares[0] < shares[stages == 1][0] < shares[stages == 2][0]
    assert shares[stages == 2][0] == pytest.approx(1 / 21, rel=0.01)


def test_rates_are_requested_only_before_the_end():
    class Asked(SimpleViT):
        def train_rate(self, progress):
            assert 0 <= progress < 1
            return round(progress)

        def forward(self, images, keep=None, rate=0.0):
            return super().forward(images, keep)

    for budget in ("flops", "epochs"):
        env = make(model=maker(Asked), epochs=1, budget=budget, reward="progress")
        assert len(run_episode(env, n_selected=16)) == 7
        assert len(run_episode(env, n_selected=8)) >= 7


def test_the_learning_rate_follows_the_flops():
    env = make(schedule="cosine", warmup_epochs=1, learning_rate=0.01)
    results = run_episode(env, n_selected=4, after_step=lambda: env.episode.run.trainer.optimizer)
    progress = [0, *progress_of(results)[:-1]]
    rates = []
    env.reset(seed=0)
    for share in progress:
        env.step((np.arange(16) < 4).astype(np.int8))
        rates.append(env.episode.run.trainer.optimizer.param_groups[0]["lr"])
        assert rates[-1] == 0.01 * learning_rate_factor(share, 1 / 14, 0.5, "cosine")
    assert len(rates) > 50
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(0.01)
    assert progress[top] <= 0.5
    assert rates[: top + 1] == sorted(rates[: top + 1])
    falling = [rate for rate, share in zip(rates, progress, strict=True) if share >= 0.5]
    assert falling == sorted(falling, reverse=True)
    assert rates[0] < 0.002
    assert rates[-1] < 0.0001


@pytest.mark.parametrize("n_desired", [None, 4])
def test_expected_steps_are_those_with_the_desired_number_of_patches(n_desired):
    env = make(n_patches_desired=n_desired, epochs=1)
    assert abs(env.expected_steps - len(run_episode(env, n_selected=n_desired or 16))) <= 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["simple_vit", "ats_vit", "patch_merger", "tome"])
def test_no_episode_is_longer_than_max_steps(name):
    env = make(model=name, patch_size=16, n_patches_desired=None, epochs=1)
    results = run_episode(env, n_selected=1)
    assert 7 < len(results) <= env.max_steps < 40
    if name == "simple_vit":
        assert len(results) == env.max_steps


def test_expected_and_most_steps_are_charged_for_observations():
    plain, observed = make(epochs=1), make(epochs=1, observation="attention_output")
    assert observed.expected_steps < plain.expected_steps
    assert observed.max_steps < plain.max_steps / 2
    assert make(n_patches_desired=None, observation="attention_output").expected_steps < 14


def test_max_steps_are_exact_for_epochs_and_unlimited_for_seconds():
    assert make(budget="epochs").max_steps == make(budget="epochs").expected_steps == 14
    assert make(budget="seconds", seconds=1).max_steps > 10**9
    assert make(budget="seconds", seconds=1).expected_steps == 14


def test_reading_the_steps_does_not_change_the_global_generators():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    env = make()
    assert env.expected_steps < env.max_steps
    run_episode(env, n_selected=16)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_in_one_type_is_counted_on_its_values():
    env, plain = make(model=maker(InFloat32)), make()
    for one in (env, plain):
        one.reset(seed=0)
        one.step(ALL)
    assert env.episode.flops() == plain.episode.flops() > 0


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"model": maker(Uncopied)}, "no copies"),
        ({"model": maker(Unseen)}, "a kernel that no mode sees"),
        (
            {"model": maker(UnseenAttention), "observation": "attention_output"},
            "a kernel that no mode sees",
        ),
        ({"model": maker(WithoutProducts)}, "0 FLOPs per step"),
        ({"model": maker(Uncopied), "budget": "epochs", "reward": "progress"}, "no copies"),
        (
            {"model": maker(WithoutProducts), "budget": "epochs", "reward": "progress"},
            "0 FLOPs per step",
        ),
    ],
)
def test_models_that_cannot_be_counted_are_refused_in_one_line(kwargs, reason):
    env = make(**kwargs)
    with pytest.raises(ValueError, match="need a model whose FLOPs can be counted, got") as raised:
        env.reset(seed=0)
    assert str(raised.value).endswith(f"counted, got one with: {reason}")
    with pytest.raises(ValueError, match="expected a reset before this call"):
        _ = env.episode


@pytest.mark.counts_on_shapes
def test_a_count_that_fails_during_a_run_raises_an_error():
    class Failing(SimpleViT):
        def forward(self, images, keep=None):
            if images.is_meta and keep is not None and len(keep) == 3:
                raise TypeError("three")
            return super().forward(images, keep)

    env = make(model=maker(Failing))
    env.reset(seed=0)
    env.step(ALL)
    with pytest.raises(ValueError, match="FLOPs can be counted, got one with: three"):
        env.step((np.arange(16) < 3).astype(np.int8))


def timed_episode(env, clock, before_step=lambda: None):
    """Steps that take no time, by an agent that takes a second for each."""
    env.reset(seed=0)
    clock.now += 500  # what nobody does before the first step does not count
    results = []
    while not results or not results[-1][3]:
        before_step()
        results.append(env.step(ALL))
        clock.now += 1
    return results


def test_seconds_are_measured_from_the_first_step_and_include_the_agents(clock):
    env = make(budget="seconds", seconds=8, schedule="cosine", learning_rate=0.01)
    results = timed_episode(env, clock)
    assert progress_of(results) == [second / 8 for second in range(9)]
    assert env.episode.run.trainer.optimizer.param_groups[0]["lr"] < 0.0005


def test_evaluation_neither_uses_nor_extends_the_seconds(clock):
    class Slow:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            clock.now += 100
            return ALL, None

    env = make(budget="seconds", seconds=8)
    results = timed_episode(env, clock, lambda: env.evaluate("val", selector=Slow()))
    assert progress_of(results) == [second / 8 for second in range(9)]


def test_seconds_end_soon_after():
    env = make(budget="seconds", seconds=0.2)
    env.reset(seed=0)
    shares = []
    truncated = False
    while not truncated:
        *_, truncated, info = env.step(ALL)
        shares.append(info["progress"])
    assert 0.2 <= env.episode.run.stopwatch.training < 2
    assert shares == sorted(shares)
    assert shares[-2] < shares[-1] == 1


def test_a_budget_of_seconds_is_documented_as_not_reproducible():
    text = " ".join(ViTPatchSelectEnv.__doc__.split())
    assert "including the agent's and excluding evaluation; such runs are not reproducible" in text
    assert "no times except the share of a budget of seconds" in text
