import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vit_patch_env.patches.selection import (
    check_patch_mask,
    keep_to_masks,
    mask_to_keep,
    select_tokens,
    shifted,
    top_k_mask,
)

masks = st.lists(st.booleans(), min_size=1, max_size=100).map(np.array)


@given(masks)
def test_keep_are_the_indices_of_the_mask(mask):
    keep = mask_to_keep(mask)
    assert keep.dtype == torch.int64
    again = np.zeros(len(mask), dtype=bool)
    again[keep] = True
    assert np.array_equal(again, mask)


@given(masks)
def test_keep_is_ascending(mask):
    keep = mask_to_keep(mask)
    assert (keep.diff() > 0).all()
    assert len(keep) == mask.sum()


@given(masks, st.sampled_from([np.int8, np.int64, np.float32, np.bool_]))
def test_check_patch_mask_takes_what_algorithms_send(mask, dtype):
    checked = check_patch_mask(mask.astype(dtype), len(mask))
    assert checked.dtype == np.bool_
    assert np.array_equal(checked, mask)


def test_check_patch_mask_does_not_share_memory_with_the_action():
    action = np.ones(4, dtype=np.bool_)
    check_patch_mask(action, 4)[0] = False
    assert action.all()


def test_check_patch_mask_names_both_shapes():
    with pytest.raises(ValueError, match=r"action must have shape \(64,\), got \(16,\)"):
        check_patch_mask(np.ones(16), 64)


@pytest.mark.parametrize("value", [2, -1, 0.5, np.nan])
def test_check_patch_mask_names_other_values(value):
    with pytest.raises(ValueError, match=f"must be 0 or 1, got {value}"):
        check_patch_mask(np.array([0, 1, value]), 3)


scored = st.lists(st.floats(allow_nan=False), min_size=1, max_size=100).flatmap(
    lambda scores: st.tuples(st.just(np.array(scores)), st.integers(1, len(scores)))
)


@given(scored)
def test_top_k_mask_keeps_no_score_below_one_it_drops(scores_and_n_keep):
    scores, n_keep = scores_and_n_keep
    patch_mask = top_k_mask(scores, n_keep)
    assert patch_mask.dtype == np.int8
    assert patch_mask.sum() == n_keep
    kept = patch_mask == 1
    assert scores[kept].min() >= scores[~kept].max(initial=-np.inf)


def test_top_k_mask_keeps_the_first_of_equal_scores():
    assert top_k_mask(np.array([1, 2, 1, 2, 1]), 3).tolist() == [1, 1, 0, 1, 0]
    assert top_k_mask(np.zeros(64), 5).tolist() == [1] * 5 + [0] * 59


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32, np.bool_])
def test_top_k_mask_takes_any_numeric_type(dtype):
    assert top_k_mask(np.array([0, 1, 0], dtype=dtype), 1).tolist() == [0, 1, 0]
    assert top_k_mask(np.array([-128, 0], dtype=np.int8), 1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("scores", "n_keep", "message"),
    [
        (np.zeros((2, 3)), 1, r"scores must have shape \(n_patches,\), got \(2, 3\)"),
        (np.array([0, np.nan]), 1, "scores must not be NaN, got NaN at 1"),
        (np.zeros(4), 0, r"n_keep must be in \[1, 4\], got 0"),
        (np.zeros(4), 5, r"n_keep must be in \[1, 4\], got 5"),
        (np.zeros(4), 2.0, r"n_keep must be an integer in \[1, 4\], got 2.0"),
    ],
)
def test_top_k_mask_names_what_it_refuses(scores, n_keep, message):
    with pytest.raises(ValueError, match=message):
        top_k_mask(scores, n_keep)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
def test_a_shifted_selection_is_the_same_one_moved_around_the_edges(grid, n_images, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(grid) < 0.5
    mask[0, 0] = True
    keep = shifted(mask_to_keep(mask.ravel()), n_images, grid, rng)
    assert (keep.diff(dim=1) > 0).all()
    moved = {
        np.roll(mask, (down, right), axis=(0, 1)).tobytes()
        for down in range(grid[0])
        for right in range(grid[1])
    }
    masks = keep_to_masks(keep, mask.size)
    assert {one.tobytes() for one in masks} <= moved
    if n_images == mask.size:
        assert (masks.sum(axis=0) == mask.sum()).all()


@pytest.mark.parametrize(("n_images", "n_uses"), [(6, 2), (12, 4), (1, None)])
def test_each_patch_is_used_equally_often_over_as_many_images(n_images, n_uses):
    keep = shifted(torch.tensor([0, 4]), n_images, (2, 3), np.random.default_rng(0))
    assert keep.shape == (n_images, 2)
    if n_uses is not None:
        assert torch.bincount(keep.flatten()).tolist() == [n_uses] * 6


@given(masks.filter(np.any))
def test_select_tokens_keeps_image_order(mask):
    tokens = torch.arange(len(mask)).view(1, -1, 1).expand(2, -1, 3)
    selected = select_tokens(tokens, mask_to_keep(mask))
    assert selected.shape == (2, mask.sum(), 3)
    assert selected[0, :, 0].tolist() == np.flatnonzero(mask).tolist()


def test_select_tokens_without_selection_is_the_same_tensor():
    tokens = torch.rand(2, 5, 3)
    assert select_tokens(tokens, None) is tokens
