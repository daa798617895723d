"""Patches of its own for each image: those of the action, moved over the image."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import TINY
from vit_patch_env import SimpleViT, ViTPatchSelectEnv

ACTION = np.eye(16, dtype=np.int8)[[1, 6, 12]].sum(axis=0)


def make(**options):
    return ViTPatchSelectEnv(**TINY | options)


def kept_in_steps(env, monkeypatch, n_steps=3, action=ACTION, seed=0):
    """What the model is given to keep in each training step from a reset on."""
    env.reset(seed=seed)
    trainer, kept = env.episode.run.trainer, []
    step = trainer.step
    monkeypatch.setattr(
        trainer,
        "step",
        lambda batch, keep, progress: kept.append(keep) or step(batch, keep, progress),
    )
    for _ in range(n_steps):
        env.step(action)
    return kept


def test_images_of_a_batch_keep_other_patches_and_all_are_used_equally(monkeypatch):
    first, second, third = kept_in_steps(make(per_image=True), monkeypatch)
    assert first.shape == (64, 3)
    assert torch.bincount(first.flatten()).tolist() == [12] * 16
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_by_default_all_images_of_a_batch_keep_the_same(monkeypatch):
    for keep in kept_in_steps(make(), monkeypatch):
        assert keep.tolist() == [1, 6, 12]


def test_all_patches_are_not_moved(monkeypatch):
    full = np.ones(16, dtype=np.int8)
    assert kept_in_steps(make(per_image=True), monkeypatch, action=full) == [None] * 3


def test_moves_follow_from_the_seed(monkeypatch):
    first, again, other = (
        torch.stack(kept_in_steps(make(per_image=True), monkeypatch, seed=seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_loaded_run_goes_on_with_the_same_patches(monkeypatch):
    env = make(per_image=True)
    env.reset(seed=3)
    env.step(ACTION)
    state = env.state_dict()
    expected = [env.step(ACTION)[1] for _ in range(3)]
    loaded = make(per_image=True)
    loaded.load_state_dict(state)
    assert loaded.episode.shown.of_each.tolist() == state["episode"]["shown"][-1].tolist()
    assert [loaded.step(ACTION)[1] for _ in range(3)] == expected


@pytest.mark.parametrize("budget", ["epochs", "flops"])
def test_moved_patches_cost_no_flops(budget):
    used = []
    for per_image in (False, True):
        env = make(per_image=per_image, budget=budget)
        env.reset(seed=0)
        for _ in range(3):
            env.step(ACTION)
        used.append(env.episode.flops())
    assert used[0] == used[1]


def test_pictures_show_the_patches_of_each_image(monkeypatch):
    env = make(per_image=True, render_mode="rgb_array")
    (kept,) = kept_in_steps(env, monkeypatch, n_steps=1)
    shown = env.episode.shown
    for mask, keep in zip(shown.of_each, kept, strict=False):
        assert np.flatnonzero(mask).tolist() == keep.tolist()
    assert np.array_equal(env.episode.patch_mask, ACTION)
    own = env.render()
    env.episode.shown = shown._replace(of_each=None)
    assert not np.array_equal(own, env.render())


class SharedPatches(nn.Module):
    """Takes one selection for the batch alone, as many models outside of this package."""

    def __init__(self, n_classes: int, channels: int) -> None:
        super().__init__()
        sizes = {name: TINY[name] for name in ("dim", "depth", "heads", "dim_head", "mlp_dim")}
        self.vit = SimpleViT(n_classes=n_classes, channels=channels, patch_size=8, **sizes)
        self.n_patches = 16

    def forward(self, images, keep=None):
        tokens = self.vit.embed(images)
        tokens = tokens if keep is None else tokens.index_select(1, keep)
        return self.vit.head(self.vit.pool(self.vit.transform(tokens)))


def test_a_model_that_takes_one_selection_alone_is_refused_before_training():
    options = {name: TINY[name] for name in ("dataset", "patch_size", "batch_size", "device")}
    env = ViTPatchSelectEnv(**options, model=SharedPatches, observation="none", per_image=True)
    with pytest.raises(ValueError, match=r"model SharedPatches.*keep of shape \(n_images, n_keep"):
        env.reset()
