import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import TINY
from tests.test_training import make_run
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.data.batches import Batch
from vit_patch_env.models import make_model, model_class
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.names import ModelName
from vit_patch_env.observation import make_observation, mean_attention_output, zeros
from vit_patch_env.training import flop_meter, flops
from vit_patch_env.training.flop_meter import Work
from vit_patch_env.training.flops import FlopCount

pytestmark = [pytest.mark.counts_flops, pytest.mark.counts_on_shapes]

SIZES = {"image_size": 16, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 32}


def by_hand(n_tokens, batch=8):
    """Multiplications and additions of the products in a step of the ViT in `make_run`."""
    patch, dim, inner, mlp, classes = 48, 16, 16, 32, 4
    embedding = n_tokens * patch * dim
    layer = n_tokens * (4 * dim * inner + 2 * dim * mlp) + 2 * n_tokens**2 * inner
    # Backwards every product needs two; the embedding's follows a LayerNorm with weights.
    return 2 * 3 * batch * (embedding + 2 * layer + dim * classes)


class Rounding(nn.Module):
    """Drops tokens in the middle of the network, whose number it rounds."""

    n_patches = 16

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 4)

    def forward(self, images, keep):
        return self.layer(images.view(len(images), 16, 48)[:, : round(0.7 * len(keep))])


@pytest.mark.parametrize(
    ("model", "n_counts"),
    [(make_model("simple_vit", n_classes=4, **SIZES), 7), (Rounding(), 16)],
    ids=["polynomial", "rounding"],
)
def test_other_numbers_of_patches_follow_where_counts_confirm_a_polynomial(
    model, n_counts, monkeypatch
):
    images = torch.zeros(2, 3, 16, 16)
    alone = {n_keep: FlopCount(model).train_step(images, n_keep) for n_keep in range(1, 17)}
    counts, count = [], flops._counted
    monkeypatch.setattr(flops, "_counted", lambda *args: counts.append(args) or count(*args))
    counter = FlopCount(model)
    for n_keep in (*range(2, 17), 1):
        assert counter.train_step(images, n_keep) == alone[n_keep]
    assert len(counts) == n_counts


def test_a_steps_flops_are_those_of_its_matrix_products():
    run = make_run(observe=zeros)
    run.step()
    assert run.flops() == by_hand(16)
    run.step(torch.tensor([1, 4, 9]))
    run.step(torch.tensor([0, 2, 3]))
    assert run.flops() == by_hand(16) + 2 * by_hand(3)
    assert run.flops() == by_hand(16) + 2 * by_hand(3)


def test_observations_count_and_cost_less_than_a_step():
    seen, unseen = make_run(), make_run(observe=zeros)
    for run in (seen, unseen):
        run.step()
    images = seen.batch.images
    observation = FlopCount(seen.trainer.model).forward(mean_attention_output, images)
    assert 0 < observation < by_hand(16) / 3
    assert seen.flops() == unseen.flops() + observation


def test_counting_does_not_change_the_run():
    counted, plain = make_run(), make_run()
    for _ in range(3):
        losses = [run.step().loss for run in (counted, plain)]
        counted.flops()
        assert losses[0] == losses[1]


def test_flops_follow_the_rate_of_a_model_that_grows():
    model = make_model("token_expansion", n_classes=4, **SIZES)
    run = make_run(model=model, observe=zeros)
    costs, before = [], 0
    for _ in range(20):
        run.step()
        total = run.flops()
        costs.append(total - before)
        before = total
    assert costs == sorted(costs)
    assert len(set(costs)) == 3
    assert costs[0] < 0.8 * costs[-1]
    assert costs[-1] == by_hand(16)


def test_tokens_that_depend_on_the_images_are_counted_on_them():
    model = make_model("ats_vit", n_classes=4, **SIZES)
    count = FlopCount(model)
    assert count.computed
    images = torch.randn(8, 3, 16, 16)
    sampled = count.train_step(images, None)
    everything = FlopCount(make_model("vit", n_classes=4, **SIZES)).train_step(images, None)
    assert 0 < sampled < everything
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_users_model_that_needs_values_is_counted_on_them():
    class Peeking(SimpleViT):
        def forward(self, images, keep=None):
            n_tokens = 4 if images.abs().sum().item() > 0 else 2
            return super().forward(images, torch.arange(n_tokens))

    count = FlopCount(Peeking(n_classes=4, **SIZES))
    assert count.train_step(torch.randn(8, 3, 16, 16), None) == by_hand(4)
    assert count.computed


def test_the_environment_returns_an_episodes_flops():
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    assert env.episode.flops() == 0
    env.step(env.action_space.sample())
    assert env.episode.flops() > 0


def observed_of(name):
    """What can be observed of a model."""
    kind = model_class(name)
    yield from ("attention_output", "attention_standardized", "attention_received", "none")
    if hasattr(kind, "class_attention"):
        yield "class_attention"
    if not kind.reduces_tokens:
        yield "attention_output:mean"


@pytest.mark.one_in(9)
@pytest.mark.parametrize(
    ("name", "observation"),
    [(name, one) for name in get_args(ModelName) for one in observed_of(name)],
)
def test_every_models_steps_and_observations_are_counted(name, observation):
    model = make_model(name, n_classes=4, **SIZES)
    run = make_run(model=model, observe=make_observation(observation).function)
    run.step()
    assert run.flops() > 0


def test_a_model_whose_flops_cannot_be_counted_still_trains():
    class Uncopied(SimpleViT):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    run = make_run(model=Uncopied(n_classes=4, **SIZES))
    run.step()
    with pytest.warns(UserWarning, match="FLOPs of this model cannot be counted: no copies"):
        assert math.isnan(run.flops())
    run.step()
    assert math.isnan(run.flops())  # and said once


def test_step_flops_are_those_of_the_next_step():
    run = make_run(observe=zeros)
    assert run.step_flops() == by_hand(16)
    assert run.step_flops(torch.tensor([3, 5])) == by_hand(2)
    assert run.flops() == 0


def test_validation_losses_count_by_their_images():
    run = make_run(observe=zeros)
    images, labels = run.batch
    run.validation_loss([run.batch])
    assert run.flops() == by_hand(16) / 3
    run.validation_loss([run.batch, Batch(images[:2], labels[:2])])
    assert run.flops() == (by_hand(16) * 2.25) / 3


def test_runs_of_the_same_sizes_share_what_steps_cost_by_their_shapes(monkeypatch):
    shared = {}
    first, second = (make_run(known_flops=shared) for _ in range(2))
    for run in (first, second):
        run.step()
    expected = first.flops()
    monkeypatch.setattr(FlopCount, "_count", None)  # would fail
    assert second.flops() == expected


def test_runs_do_not_share_what_depends_on_their_images():
    shared = {}
    for seed in range(2):
        alone, sharing = (
            make_run(
                model=make_model("ats_vit", n_classes=4, **SIZES).requires_grad_(),
                known_flops=known_flops,
                observe=zeros,
                seed=seed,
            )
            for known_flops in ({}, shared)
        )
        sharing.trainer.model.load_state_dict(alone.trainer.model.state_dict())
        for run in (alone, sharing):
            run.step()
        assert sharing.flops() == alone.flops()
    assert not shared


def test_flops_that_depend_on_the_images_are_counted_again_after_a_while(monkeypatch):
    counts = iter(range(1000, 2000))
    monkeypatch.setattr(flop_meter, "_RECOUNT", 4)
    monkeypatch.setattr(FlopCount, "_count", lambda *args: next(counts))
    run = make_run(model=make_model("ats_vit", n_classes=4, **SIZES), observe=zeros)
    totals = [0.0]
    for _ in range(10):
        run.flop_meter.add(Work("train"))
        totals.append(run.flops())
    assert np.diff(totals).tolist() == [1000] * 3 + [1001] * 4 + [1002] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flops_are_the_same_in_every_precision(dtype):
    run = make_run(dtype=dtype)
    run.step()
    reference = make_run()
    reference.step()
    assert run.flops() == reference.flops()
