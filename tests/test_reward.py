import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_patch_env.reward import (
    MAX_LOSS_RATIO,
    RewardTerms,
    loss_term,
    patch_term,
    weighted_reward,
)

losses = st.floats(0, 1e6)
counts = st.integers(1, 256)


def test_loss_term_is_the_ratio_of_equation_2_3():
    assert loss_term(2.0, 0.5) == 4.0


def test_loss_term_starts_at_one():
    assert loss_term(2.3, 2.3) == 1.0


@given(losses, losses)
def test_loss_term_is_finite_even_at_a_loss_of_zero(initial, loss):
    assert 0 <= loss_term(initial, loss) <= MAX_LOSS_RATIO


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.1, 10))
def test_loss_term_grows_as_the_loss_falls(initial, one, other):
    low, high = sorted((one, other))
    assert loss_term(initial, low) >= loss_term(initial, high)


@given(counts, counts, counts)
def test_patch_term_is_best_at_the_desired_number(n_selected, n_desired, n_patches):
    term = patch_term(n_selected, n_desired, n_patches)
    assert term <= 0
    assert (term == 0) == (n_selected == n_desired)
    assert term == pytest.approx(-abs(n_selected - n_desired) / n_desired)


@given(counts, counts)
def test_patch_term_without_a_desired_number_prefers_fewer(n_selected, n_patches):
    assert patch_term(n_selected, None, n_patches) > patch_term(n_selected + 1, None, n_patches)


@given(st.floats(0, 1), st.floats(-10, 10), st.floats(-10, 10))
def test_weighted_reward_lies_between_its_terms(alpha, loss, patch):
    reward = weighted_reward(RewardTerms(loss, patch), alpha)
    assert min(loss, patch) - 1e-9 <= reward <= max(loss, patch) + 1e-9


def test_weighted_reward_of_the_papers_weight():
    assert math.isclose(weighted_reward(RewardTerms(3.0, -0.5), 0.2), 0.2 * 3 - 0.8 * 0.5)
