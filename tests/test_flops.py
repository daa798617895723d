import math

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.test_training import make_trainer
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.data.batches import Batch
from vit_patch_env.models import MODELS, make_model
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.observation import OBSERVATIONS, mean_attention_output, nothing
from vit_patch_env.training import trainer as training
from vit_patch_env.training.flops import FlopCount

SIZES = {"image_size": 16, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 32}


def by_hand(n_tokens, batch=8):
    """Multiplications and additions of the products in a step of the ViT in `make_trainer`."""
    patch, dim, inner, mlp, classes = 48, 16, 16, 32, 4
    embedding = n_tokens * patch * dim
    layer = n_tokens * (4 * dim * inner + 2 * dim * mlp) + 2 * n_tokens**2 * inner
    # Backwards every product needs two; the embedding's follows a LayerNorm with weights.
    return 2 * 3 * batch * (embedding + 2 * layer + dim * classes)


def test_a_steps_flops_are_those_of_its_products():
    trainer = make_trainer(observation=nothing)
    trainer.train_step(trainer.batch)
    assert trainer.count_flops() == by_hand(16)
    trainer.train_step(trainer.batch, torch.tensor([1, 4, 9]))
    trainer.train_step(trainer.batch, torch.tensor([0, 2, 3]))
    assert trainer.count_flops() == by_hand(16) + 2 * by_hand(3)
    assert trainer.count_flops() == by_hand(16) + 2 * by_hand(3)


def test_observations_count_and_cost_less_than_a_step():
    seen, unseen = make_trainer(), make_trainer(observation=nothing)
    for trainer in (seen, unseen):
        trainer.step()
    images = seen.batch.images
    observation = FlopCount(seen.model).forward(mean_attention_output, images)
    assert 0 < observation < by_hand(16) / 3
    assert seen.count_flops() == unseen.count_flops() + observation


def test_counting_leaves_the_run_as_it_was():
    counted, plain = make_trainer(), make_trainer()
    for _ in range(3):
        losses = [trainer.step().loss for trainer in (counted, plain)]
        counted.count_flops()
        assert losses[0] == losses[1]


def test_flops_follow_the_rate_of_a_model_that_grows():
    model = make_model("token_expansion", n_classes=4, **SIZES)
    trainer = make_trainer(model=model, observation=nothing)
    costs, before = [], 0
    for _ in range(20):
        trainer.step()
        total = trainer.count_flops()
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


def test_the_environment_tells_an_episodes_flops():
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    assert env.flops() == 0
    env.step(env.action_space.sample())
    assert env.flops() > 0


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("observation", list(OBSERVATIONS))
def test_every_models_steps_and_observations_are_counted(name, observation):
    model = make_model(name, n_classes=4, **SIZES)
    trainer = make_trainer(model=model, observation=OBSERVATIONS[observation].function)
    trainer.step()
    assert trainer.count_flops() > 0


def test_a_model_that_cannot_be_counted_trains_all_the_same():
    class Uncopied(SimpleViT):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    trainer = make_trainer(model=Uncopied(n_classes=4, **SIZES))
    trainer.step()
    with pytest.warns(UserWarning, match="FLOPs of this model cannot be counted: no copies"):
        assert math.isnan(trainer.count_flops())
    trainer.step()
    assert math.isnan(trainer.count_flops())  # and said once


def test_step_flops_are_those_of_a_step_to_come():
    trainer = make_trainer(observation=nothing)
    assert trainer.step_flops() == by_hand(16)
    assert trainer.step_flops(torch.tensor([3, 5])) == by_hand(2)
    assert trainer.count_flops() == 0


def test_held_out_losses_count_by_their_images():
    trainer = make_trainer(observation=nothing)
    images, labels = trainer.batch
    trainer.validation_loss([trainer.batch])
    assert trainer.count_flops() == by_hand(16) / 3
    trainer.validation_loss([trainer.batch, Batch(images[:2], labels[:2])])
    assert trainer.count_flops() == (by_hand(16) * 2.25) / 3


def test_runs_of_the_same_sizes_share_what_steps_cost_by_their_shapes(monkeypatch):
    shared = {}
    first, second = (make_trainer(flops_of=shared) for _ in range(2))
    for trainer in (first, second):
        trainer.step()
    expected = first.count_flops()
    monkeypatch.setattr(FlopCount, "_count", None)  # would fail
    assert second.count_flops() == expected


def test_runs_do_not_share_what_depends_on_their_images():
    shared = {}
    for seed in range(2):
        alone, sharing = (
            make_trainer(
                model=make_model("ats_vit", n_classes=4, **SIZES).requires_grad_(),
                flops_of=flops_of,
                observation=nothing,
                seed=seed,
            )
            for flops_of in ({}, shared)
        )
        sharing.model.load_state_dict(alone.model.state_dict())
        for trainer in (alone, sharing):
            trainer.step()
        assert sharing.count_flops() == alone.count_flops()
    assert not shared


def test_what_depends_on_the_images_is_counted_anew_after_a_while(monkeypatch):
    counts = iter(range(1000, 2000))
    monkeypatch.setattr(training, "_RECOUNT", 4)
    monkeypatch.setattr(FlopCount, "_count", lambda *args: next(counts))
    trainer = make_trainer(model=make_model("ats_vit", n_classes=4, **SIZES), observation=nothing)
    totals = [0.0]
    for _ in range(10):
        trainer.train_step(trainer.batch)
        totals.append(trainer.count_flops())
    assert np.diff(totals).tolist() == [1000] * 3 + [1001] * 4 + [1002] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flops_are_the_same_in_every_precision(dtype):
    trainer = make_trainer(dtype=dtype)
    trainer.step()
    reference = make_trainer()
    reference.step()
    assert trainer.count_flops() == reference.count_flops()
