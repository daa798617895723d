import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_patch_env.experiments.report.statistics import (
    difference,
    dominating,
    estimate,
    paired,
    pareto_front,
    ratio,
    round_levels,
    spread_out,
    time_to,
)

FINITE = st.floats(-100, 100)
POINTS = st.dictionaries(st.integers(0, 99), st.tuples(st.integers(0, 9), st.integers(0, 9)))


@settings(deadline=None, max_examples=30)
@given(st.lists(FINITE, min_size=2, max_size=6))
def test_an_interval_lies_around_the_mean_and_within_the_values(values):
    found = estimate(values)
    assert found.n == len(values)
    slack = 1e-9
    assert found.lowest - slack <= found.low <= found.mean + slack
    assert found.mean - slack <= found.high <= found.highest + slack


def test_an_interval_over_three_values_is_their_range():
    found = estimate([1.0, 2.0, 6.0])
    assert (found.mean, found.low, found.high) == (3.0, 1.0, 6.0)


def test_a_95_percent_interval_contains_the_true_mean_about_95_times_of_100():
    rng = np.random.default_rng(0)
    sides = [estimate(rng.normal(size=30)).side(0.0) for _ in range(100)]
    assert 88 <= sides.count(0) <= 99


def test_an_interval_is_the_same_every_time():
    assert estimate([0.1, 0.5, 0.2, 0.7]) == estimate([0.1, 0.5, 0.2, 0.7])


def test_one_value_has_no_interval_and_no_side():
    found = estimate([2.0])
    assert (found.mean, found.n, found.side(0)) == (2.0, 1, None)
    assert math.isnan(found.low)


def test_values_that_are_not_finite_are_left_out():
    assert estimate([1.0, math.nan, math.inf]).n == 1
    assert math.isnan(estimate([]).mean)


@pytest.mark.parametrize(("values", "side"), [([1, 2], 1), ([-1, -2], -1), ([-1, 1], 0)])
def test_an_interval_is_below_above_or_around_a_value(values, side):
    assert estimate(values).side(0) == side


def test_rounding_errors_are_no_difference():
    values = {seed: 0.1 * seed for seed in range(1, 6)}
    assert paired(values, {seed: 3 * v / 3 for seed, v in values.items()}, ratio).side(1) == 0


def test_pairs_are_formed_over_the_seeds_that_both_have():
    found = paired({0: 5.0, 1: 7.0, 2: 9.0}, {1: 4.0, 2: 3.0, 3: 100.0}, difference)
    assert (found.n, found.mean, found.lowest, found.highest) == (2, 4.5, 3.0, 6.0)


def test_a_ratio_over_zero_is_left_out():
    assert paired({0: 1.0, 1: 4.0}, {0: 0.0, 1: 2.0}, ratio).mean == 2.0


@settings(deadline=None)
@given(POINTS)
def test_every_point_is_on_the_front_or_dominated_by_one_that_is(points):
    front = pareto_front(points)
    for name in points:
        others = dominating(name, points)
        assert (name in front) == (not others)
        assert not others or set(others) & set(front)


def test_a_front_is_sorted_from_cheap_to_expensive():
    points = {"slow": (3, 0.9), "fast": (1, 0.5), "bad": (2, 0.4), "middle": (2, 0.7)}
    assert pareto_front(points) == ["fast", "middle", "slow"]


def test_time_to_an_accuracy_is_that_of_the_first_epoch_that_has_it():
    seconds, accuracy = np.array([10.0, 20.0, 30.0]), np.array([0.2, 0.5, 0.4])
    assert time_to(0.4, accuracy, seconds) == 20
    assert time_to(0.5, accuracy, seconds) == 20
    assert math.isnan(time_to(0.6, accuracy, seconds))


def test_levels_are_round_and_reached_by_half_of_the_runs():
    runs = [np.array([0.15, 0.4, best]) for best in (0.46, 0.48, 0.52, 0.61)]
    assert round_levels(runs) == [0.3, 0.4, 0.5]
    assert round_levels([np.array([0.91, 0.97])]) == [0.95]
    assert round_levels([np.array([np.nan])]) == round_levels([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(-1, 2), max_size=12))
def test_labels_are_spread_in_order_within_the_bounds(values):
    positions = spread_out(values, 0.05, 0.0, 1.0)
    assert all(-1e-9 <= position <= 1 + 1e-9 for position in positions)
    assert all(np.diff(sorted(positions)) > 0.05 - 1e-9)
    order = np.argsort(values, kind="stable")
    assert list(np.argsort(positions, kind="stable")) == list(order)


def test_labels_that_do_not_overlap_are_not_moved():
    assert spread_out([0.8, 0.2], 0.1, 0.0, 1.0) == pytest.approx([0.8, 0.2])
