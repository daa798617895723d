import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_patch_env.patches.sampling import SAMPLERS, sample_spread, sample_uniform


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()))
@given(side=st.integers(1, 12), data=st.data())
@settings(max_examples=50)
def test_n_keep_patches_are_sampled(sampler, side, data):
    n_patches = side * side
    n_keep = data.draw(st.integers(1, n_patches))
    scores = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=n_patches, max_size=n_patches)))
    mask = sampler(scores, n_keep, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert mask.shape == (n_patches,)
    assert mask.dtype == np.int8
    assert mask.sum(dtype=int) == n_keep
    assert set(mask.tolist()) <= {0, 1}


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()))
@pytest.mark.parametrize(("n_patches", "n_keep"), [(64, 16), (64, 11), (49, 5), (4, 3)])
def test_with_equal_scores_all_patches_are_equally_likely(sampler, n_patches, n_keep):
    rng = np.random.default_rng(0)
    masks = np.array([sampler(np.zeros(n_patches), n_keep, rng) for _ in range(4000)])
    assert np.abs(masks.mean(axis=0) - n_keep / n_patches).max() < 0.04


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()))
def test_patches_with_higher_scores_are_sampled_more_often(sampler):
    rng = np.random.default_rng(0)
    scores = np.zeros(64)
    scores[:8] = 2.0
    often = np.array([sampler(scores, 8, rng) for _ in range(1000)]).mean(axis=0)
    assert often[:8].min() > 2 * often[8:].max()


def test_uniform_sampling_is_sequential_in_proportion_to_the_weights():
    rng = np.random.default_rng(0)
    weights = np.array([0.1, 0.2, 0.7])
    ones = np.mean([sample_uniform(np.log(weights), 1, rng) for _ in range(4000)], axis=0)
    assert ones == pytest.approx(weights, abs=0.03)  # four standard errors
    # The second patch is sampled from the remaining two: the one left out comes last.
    pairs = np.mean([sample_uniform(np.log(weights), 2, rng) for _ in range(4000)], axis=0)
    last = 0.1 * 0.2 / 0.9 + 0.2 * 0.1 / 0.8  # the third patch is last: 1, 2 or 2, 1
    assert 1 - pairs[2] == pytest.approx(last, abs=0.03)


def test_a_dominating_score_is_always_sampled():
    scores = np.zeros(16)
    scores[5] = 30.0
    masks = [sample_spread(scores, 3, np.random.default_rng(seed)) for seed in range(100)]
    assert all(mask[5] == 1 for mask in masks)
    assert np.array(masks).sum(axis=1).tolist() == [3] * 100


@pytest.mark.parametrize("n_keep", [4, 16])
def test_spread_samples_leave_no_quarter_out(n_keep):
    rng = np.random.default_rng(0)
    for _ in range(200):
        quarters = sample_spread(np.zeros(64), n_keep, rng).reshape(2, 4, 2, 4).sum(axis=(1, 3))
        assert (quarters == n_keep // 4).all()
    uniform = sample_uniform(np.zeros(64), n_keep, rng).reshape(2, 4, 2, 4).sum(axis=(1, 3))
    assert uniform.sum() == n_keep


def test_spread_samples_vary():
    rng = np.random.default_rng(0)
    samples = {sample_spread(np.zeros(64), 8, rng).tobytes() for _ in range(500)}
    assert len(samples) > 490


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()))
def test_samples_depend_on_the_generator_alone(sampler):
    first, second = (sampler(np.zeros(64), 16, np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all()
