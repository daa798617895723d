import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_patch_env.reward import (
    MAX_LOSS_RATIO,
    REWARDS,
    RewardName,
    RewardTerms,
    StepOutcome,
    aic_reward,
    loss_term,
    paper_reward,
    patch_term,
    progress_reward,
    reward_terms,
    validation_reward,
    weighted_reward,
)

losses = st.floats(0, 1e6)
counts = st.integers(1, 256)
usual = st.floats(1e-3, 10)
outcomes = counts.flatmap(
    lambda n_patches: st.builds(
        StepOutcome,
        loss=losses,
        initial_loss=losses,
        mean_loss=losses,
        n_selected=st.integers(1, n_patches),
        n_desired=st.none() | st.integers(1, n_patches),
        n_patches=st.just(n_patches),
        alpha=st.floats(0, 1),
        flops_share=st.floats(1e-6, 2),
        val_loss_decrease=st.floats(-1e6, 1e6),
    )
)


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


def test_every_name_has_its_reward():
    assert set(REWARDS) == set(get_args(RewardName))


@pytest.mark.parametrize("name", list(REWARDS))
@given(outcomes)
def test_rewards_are_finite_floats(name, outcome):
    reward = REWARDS[name](outcome)
    assert type(reward) is float
    assert math.isfinite(reward)


@given(outcomes)
def test_paper_reward_weighs_its_terms_and_keeps_its_range(outcome):
    reward = paper_reward(outcome)
    assert -outcome.n_patches <= reward <= 1000
    assert reward == weighted_reward(reward_terms(outcome), outcome.alpha)


@given(outcomes, losses)
def test_paper_reward_does_not_fall_with_the_loss(outcome, loss):
    low, high = sorted((loss, outcome.loss))
    assert paper_reward(outcome._replace(loss=low)) >= paper_reward(outcome._replace(loss=high))


@given(outcomes)
def test_paper_reward_is_highest_at_the_desired_number(outcome):
    best = outcome._replace(n_selected=outcome.n_desired or 1)
    assert paper_reward(best) >= paper_reward(outcome)


@given(outcomes, outcomes)
def test_validation_reward_is_the_decrease_whatever_the_step(outcome, other):
    decrease = outcome.val_loss_decrease
    assert validation_reward(other._replace(val_loss_decrease=decrease)) == decrease


@given(outcomes)
def test_progress_reward_keeps_its_range_and_the_sign_of_the_decrease(outcome):
    reward = progress_reward(outcome)
    assert -10 <= reward <= 10
    assert (reward > 0) <= (outcome.loss < outcome.mean_loss)
    assert (reward < 0) <= (outcome.loss > outcome.mean_loss)
    assert progress_reward(outcome._replace(loss=outcome.mean_loss)) == 0


@given(outcomes, losses)
def test_progress_reward_does_not_fall_with_the_loss(outcome, loss):
    low, high = (outcome._replace(loss=loss) for loss in sorted((loss, outcome.loss)))
    assert progress_reward(low) >= progress_reward(high)


@given(usual, usual, st.floats(0.01, 1))
def test_progress_reward_is_per_flop(mean_loss, loss, share):
    outcome = StepOutcome(loss, 1.0, mean_loss, 8, None, 16, 0.2)
    expected = (mean_loss - loss) / mean_loss
    assert progress_reward(outcome) == pytest.approx(max(expected, -10))
    cheaper = progress_reward(outcome._replace(flops_share=share))
    assert cheaper == pytest.approx(min(max(expected / share, -10), 10))


@given(outcomes)
def test_aic_reward_is_half_of_akaikes_criterion(outcome):
    share = outcome.n_selected / outcome.n_patches
    assert aic_reward(outcome) == pytest.approx(-outcome.loss - share)
    assert aic_reward(outcome) <= 0


@given(outcomes, losses)
def test_aic_reward_prefers_a_low_loss_and_few_patches(outcome, loss):
    low, high = (outcome._replace(loss=loss) for loss in sorted((loss, outcome.loss)))
    assert aic_reward(low) >= aic_reward(high)
    assert aic_reward(outcome._replace(n_selected=1)) >= aic_reward(outcome)


def test_aic_reward_of_all_patches_costs_one_nat():
    outcome = StepOutcome(0.7, 2.0, 1.0, 16, None, 16, 0.2)
    assert aic_reward(outcome) == pytest.approx(-1.7)
