import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_patch_env.patches.sampling import DRAWS, draw_spread, draw_uniform


@pytest.mark.parametrize("draw", list(DRAWS.values()))
@given(side=st.integers(1, 12), data=st.data())
@settings(max_examples=50)
def test_as_many_patches_are_drawn_as_asked_for(draw, side, data):
    n_patches = side * side
    n_keep = data.draw(st.integers(1, n_patches))
    scores = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=n_patches, max_size=n_patches)))
    mask = draw(scores, n_keep, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert mask.shape == (n_patches,)
    assert mask.dtype == np.int8
    assert mask.sum(dtype=int) == n_keep
    assert set(mask.tolist()) <= {0, 1}


@pytest.mark.parametrize("draw", list(DRAWS.values()))
@pytest.mark.parametrize(("n_patches", "n_keep"), [(64, 16), (64, 11), (49, 5), (4, 3)])
def test_without_scores_every_patch_is_as_likely(draw, n_patches, n_keep):
    rng = np.random.default_rng(0)
    masks = np.array([draw(np.zeros(n_patches), n_keep, rng) for _ in range(4000)])
    assert np.abs(masks.mean(axis=0) - n_keep / n_patches).max() < 0.04


@pytest.mark.parametrize("draw", list(DRAWS.values()))
def test_patches_of_higher_scores_are_drawn_more_often(draw):
    rng = np.random.default_rng(0)
    scores = np.zeros(64)
    scores[:8] = 2.0
    often = np.array([draw(scores, 8, rng) for _ in range(1000)]).mean(axis=0)
    assert often[:8].min() > 2 * often[8:].max()


def test_uniform_draws_are_one_after_another_in_proportion_to_the_weights():
    rng = np.random.default_rng(0)
    weights = np.array([0.1, 0.2, 0.7])
    ones = np.mean([draw_uniform(np.log(weights), 1, rng) for _ in range(4000)], axis=0)
    assert ones == pytest.approx(weights, abs=0.03)  # four standard errors
    # The second patch is drawn from those left: left out of two is what comes last.
    pairs = np.mean([draw_uniform(np.log(weights), 2, rng) for _ in range(4000)], axis=0)
    last = 0.1 * 0.2 / 0.9 + 0.2 * 0.1 / 0.8  # the third patch is last: 1, 2 or 2, 1
    assert 1 - pairs[2] == pytest.approx(last, abs=0.03)


def test_a_score_beyond_all_others_is_always_drawn():
    scores = np.zeros(16)
    scores[5] = 30.0
    masks = [draw_spread(scores, 3, np.random.default_rng(seed)) for seed in range(100)]
    assert all(mask[5] == 1 for mask in masks)
    assert np.array(masks).sum(axis=1).tolist() == [3] * 100


@pytest.mark.parametrize("n_keep", [4, 16])
def test_spread_draws_leave_no_quarter_out(n_keep):
    rng = np.random.default_rng(0)
    for _ in range(200):
        quarters = draw_spread(np.zeros(64), n_keep, rng).reshape(2, 4, 2, 4).sum(axis=(1, 3))
        assert (quarters == n_keep // 4).all()
    uniform = draw_uniform(np.zeros(64), n_keep, rng).reshape(2, 4, 2, 4).sum(axis=(1, 3))
    assert uniform.sum() == n_keep


def test_spread_draws_vary():
    rng = np.random.default_rng(0)
    drawn = {draw_spread(np.zeros(64), 8, rng).tobytes() for _ in range(500)}
    assert len(drawn) > 490


@pytest.mark.parametrize("draw", list(DRAWS.values()))
def test_draws_come_from_the_generator_alone(draw):
    first, second = (draw(np.zeros(64), 16, np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all()
