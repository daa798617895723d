"""Patch schedules for users' own training loops: which patches, of which budget."""

import pickle

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from vit_patch_env.agents import SCHEDULES
from vit_patch_env.integrations import progress
from vit_patch_env.integrations.progress import count_step_flops
from vit_patch_env.integrations.schedule import PatchSchedule

pytestmark = pytest.mark.counts_flops


def tokens_and_attention(n_keep):
    return 100 * n_keep + n_keep**2


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_named_schedule_keeps_its_share_of_the_patches(name):
    schedule = PatchSchedule(name, n_patches=196, total_steps=40, epochs=2)
    expected = [max(round(SCHEDULES[name](step / 40, 2) * 196), 1) for step in range(40)]
    assert [schedule.n_keep(step) for step in range(40)] == expected
    assert len(schedule) == 40


def test_patches_are_ascending_differ_by_step_and_repeat():
    schedule, again = (PatchSchedule(0.25, n_patches=64, total_steps=9, seed=3) for _ in range(2))
    first, second = schedule(0), schedule(1)
    assert first.dtype == torch.int64
    assert first.tolist() == sorted(set(first.tolist()))
    assert len(first) == 16
    assert first.tolist() != second.tolist()
    assert again(1).tolist() == second.tolist()
    other = PatchSchedule(0.25, n_patches=64, total_steps=9, seed=4)
    assert other(0).tolist() != first.tolist()


def test_all_patches_are_none():
    schedule = PatchSchedule("flip", n_patches=16, total_steps=100)
    assert len(schedule(94)) == 8
    assert schedule(95) is None


@pytest.mark.parametrize("sampling", ["uniform", "spread"])
def test_patches_of_each_image(sampling):
    schedule = PatchSchedule(0.5, n_patches=64, total_steps=9, sampling=sampling)
    keep = schedule(0, batch_size=8)
    assert keep.shape == (8, 32)
    assert len({tuple(row) for row in keep.tolist()}) == 8
    assert torch.equal(keep, keep.sort(dim=1).values)


def test_patches_are_spread_over_a_flat_grid():
    schedule = PatchSchedule(0.25, n_patches=(4, 16), total_steps=9)
    parts = schedule(3).reshape(-1) % 16 // 4  # four squares side by side
    assert torch.bincount(parts).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("make", [PatchSchedule, PatchSchedule.from_agent])
def test_all_patches_of_a_grid_that_is_not_square_are_sampled(make):
    schedule = make(n_patches=(5, 8), total_steps=60)
    seen = {patch for step in range(48) for patch in schedule(step).tolist()}
    assert seen == set(range(40))


def test_a_function_of_the_progress_decides_how_many():
    schedule = PatchSchedule(lambda progress: 0.5 + 0.5 * progress, n_patches=100, total_steps=4)
    assert [schedule.n_keep(step) for step in range(6)] == [50, 62, 75, 88, 100, 100]


def test_few_patches_allow_more_steps_for_the_same_flops():
    schedule = PatchSchedule(
        "quadratic", n_patches=64, total_steps=50, step_flops=tokens_and_attention
    )
    used = np.cumsum([tokens_and_attention(schedule.n_keep(step)) for step in range(len(schedule))])
    total = 50 * tokens_and_attention(64)
    assert len(schedule) > 100
    assert used[-2] < total <= used[-1]
    assert schedule.progress(7) == pytest.approx(used[6] / total)
    assert schedule.progress(len(schedule)) == 1


def test_the_learning_rate_follows_the_flops():
    schedule = PatchSchedule("quadratic", n_patches=64, total_steps=9, step_flops=lambda n: n)
    rates = [schedule.learning_rate(step, warmup=0.1) for step in range(len(schedule) + 1)]
    peak = rates.index(max(rates))
    assert 0 < rates[0] < rates[1]
    assert schedule.progress(peak) == pytest.approx(0.1, abs=0.02)
    assert rates[-1] == pytest.approx(0)
    half = min(range(len(schedule)), key=lambda step: abs(schedule.progress(step) - 0.55))
    assert rates[half] == pytest.approx(0.5, abs=0.03)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = LambdaLR(optimizer, schedule.learning_rate)
    assert scheduler.get_last_lr() == [2.0 * schedule.learning_rate(0)]


def test_seconds_count_from_the_first_step_without_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    schedule = PatchSchedule("pss_linear", n_patches=100, seconds=10)
    assert LambdaLR(torch.optim.SGD([torch.ones(1)], lr=1.0), schedule.learning_rate)
    now[0] += 50
    assert len(schedule(0)) == 20
    now[0] += 5
    assert schedule.progress(1) == 0.5
    with schedule.paused():
        now[0] += 100
    assert schedule.progress(2) == 0.5
    state = schedule.state_dict()
    resumed = PatchSchedule("pss_linear", n_patches=100, seconds=10)
    resumed.load_state_dict(state)
    now[0] += 1000
    assert resumed.progress(3) == 0.5
    resumed.start()
    now[0] += 20
    assert resumed.progress(4) == 1
    with pytest.raises(ValueError, match="seconds has no number of steps"):
        len(schedule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": "quadrtic"}, "shares must be one of pss, pss_linear, flip, quadratic"),
        ({"shares": 1.5}, r"shares must be .* a number in \(0, 1\] or a function, got 1\.5"),
        ({"n_patches": 15}, r"n_patches must be a square number, or rows and columns .* got 15"),
        ({"n_patches": 0}, r"n_patches must be .*, got 0"),
        ({"total_steps": 0}, r"total_steps must be .*, got 0"),
        ({"total_steps": None}, "needs a budget: either total_steps"),
        ({"seconds": 3}, "needs a budget: either total_steps"),
        ({"total_steps": None, "seconds": -3}, r"seconds must be .*, got -3"),
        ({"sampling": "random"}, "sampling must be one of uniform, spread, got 'random'"),
        ({"step_flops": lambda n_keep: 0}, "step_flops must be above 0"),
        ({"shares": lambda progress: 2.0, "step_flops": lambda n: n}, r"in \[0, 1\], got 2\.0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        PatchSchedule(**{"n_patches": 16, "total_steps": 9, **arguments})
    assert "\n" not in str(error.value)


def test_a_model_without_a_number_of_patches_is_refused():
    with pytest.raises(ValueError, match="n_patches, as select_patches gives it, got a Linear"):
        count_step_flops(torch.nn.Linear(2, 2), torch.zeros(1, 2))


@pytest.mark.parametrize(
    "schedule",
    [
        PatchSchedule("flip", epochs=2, n_patches=16, total_steps=9),
        PatchSchedule(0.5, n_patches=16, total_steps=9),
        PatchSchedule(abs, n_patches=16, total_steps=9, step_flops=float),
        PatchSchedule.from_agent(n_patches=16, total_steps=9),
    ],
)
def test_a_schedule_can_be_pickled(schedule):
    copy = pickle.loads(pickle.dumps(schedule))
    for step in range(9):
        assert np.array_equal(copy(step), schedule(step))
