import math
import pickle
from functools import partial
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from vit_patch_env.data.batches import Batch, BatchStream, Normalize
from vit_patch_env.data.splits import Split
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.names import OptimizerName
from vit_patch_env.observation import OBSERVATIONS, mean_attention_output, zeros
from vit_patch_env.training import run as training_run
from vit_patch_env.training import stopwatch
from vit_patch_env.training.budget import Budget
from vit_patch_env.training.loss import CrossEntropy
from vit_patch_env.training.precision import (
    Precision,
    has_bf16,
    resolve_device,
    resolve_precision,
)
from vit_patch_env.training.run import TrainingRun
from vit_patch_env.training.schedule import learning_rate_factor
from vit_patch_env.training.trainer import Trainer

CPU = torch.device("cpu")


def make_run(
    seed: int = 0,
    model: SimpleViT | None = None,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    observe=mean_attention_output,
    known_flops=None,
    **kwargs,
) -> TrainingRun:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model or SimpleViT(
            n_classes=4, image_size=16, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=32
        )
        images = torch.randint(256, (32, 3, 16, 16), dtype=torch.uint8)
    stream = BatchStream(
        images.to(device),
        (torch.arange(32) % 4).to(device),
        Normalize((0.5,) * 3, (0.3,) * 3, device),
        batch_size=8,
        seed=seed,
    )
    trainer = Trainer(model, Precision(device, dtype), **kwargs)
    return TrainingRun(
        trainer,
        stream,
        observation=OBSERVATIONS["none"]._replace(mean=observe),
        budget=Budget("epochs", 20),
        known_flops=known_flops,
    )


def test_train_step_is_plain_adam_on_the_kept_patches():
    run, reference = make_run(), make_run()
    keep = torch.tensor([1, 4, 9])
    loss = run.trainer.step(run.batch, keep)

    model = reference.trainer.model
    expected = F.cross_entropy(model(reference.batch.images, keep), reference.batch.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    expected.backward()
    optimizer.step()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(run.trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_fits_its_images(dtype):
    run = make_run(learning_rate=5e-3, dtype=dtype)
    batch = run.batch
    first = run.trainer.step(batch).item()
    for _ in range(60):
        last = run.trainer.step(batch).item()
    assert last < 0.3 * first


def test_step_trains_on_the_batch_that_was_observed():
    run = make_run()
    watched = run.batch
    expected = make_run().trainer.step(watched).item()
    result = run.step()
    assert result.loss == pytest.approx(expected)
    assert not torch.equal(run.batch.images, watched.images)
    assert torch.allclose(torch.from_numpy(result.observation), run.observe(run.batch.images))


def test_progress_is_the_share_of_the_steps_and_ends_at_one():
    run = make_run()
    assert run.progress == 0
    for step in range(1, 22):
        run.step()
        assert run.progress == min(step / 20, 1)


def test_validation_loss_is_that_of_an_evaluation():
    run, plain = make_run(), make_run()
    split = Split(run.stream.images[:20], run.stream.labels[:20])
    batches = [
        Batch(run.stream.normalize(images), labels)
        for images, labels in zip(split.images.split(8), split.labels.split(8), strict=True)
    ]  # the last one is shorter
    assert run.validation_loss(batches) == pytest.approx(plain.evaluate(split).loss, rel=1e-5)
    assert run.step().loss == plain.step().loss


def test_seconds_are_measured_from_the_first_step():
    run = make_run()
    run.evaluate(Split(run.stream.images, run.stream.labels))
    assert run.stopwatch.training == 0
    run.step()
    first = run.stopwatch.training
    assert (
        0
        < run.stopwatch.seconds["train"] + run.stopwatch.seconds["observe"]
        <= first
        < run.stopwatch.training
    )


def test_step_measures_training_and_observation_separately(monkeypatch):
    now = 100.0

    def pass_time(seconds):
        nonlocal now
        now += seconds

    def look(model, images):
        pass_time(5)
        return zeros(model, images)

    for module in (training_run, stopwatch):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    run = make_run(observe=look)
    run.trainer.model.register_forward_hook(lambda *_: pass_time(2))
    for _ in range(3):
        run.step()
    assert (run.stopwatch.seconds["train"], run.stopwatch.seconds["observe"]) == (6, 15)
    assert run.stopwatch.training == 21


def test_observe_does_not_change_model_or_gradients():
    run = make_run()
    before = [parameter.clone() for parameter in run.trainer.model.parameters()]
    run.observe(run.batch.images)
    for parameter, old in zip(run.trainer.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


class Overflowing(SimpleViT):
    """A gradient that is not finite where `overflows`, with a loss that is."""

    overflows = False

    def forward(self, images, keep=None):
        logits = super().forward(images, keep)
        if self.overflows and logits.requires_grad:
            logits.register_hook(lambda gradient: gradient * math.inf)
        return logits


def state_of(run):
    trainer = run.trainer
    return pickle.dumps((trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]))


def overflowing_run(**kwargs):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 32}
    return make_run(model=Overflowing(n_classes=4, **sizes), **kwargs)


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer, dtype):
    run = overflowing_run(optimizer=optimizer, dtype=dtype)
    run.step()
    run.trainer.model.overflows = True
    before = state_of(run)
    loss, skipped, observation = run.step()
    assert math.isfinite(loss)
    assert skipped
    assert torch.isfinite(torch.from_numpy(observation)).all()
    after = state_of(run)
    assert after == before
    assert run.steps_done == 2  # a step of the budget all the same
    run.trainer.model.overflows = False
    assert not run.step().skipped
    changed = state_of(run)
    assert changed != before


def test_label_smoothing_is_in_the_training_loss_but_not_in_evaluation():
    plain, smooth = make_run(), make_run(loss=CrossEntropy(label_smoothing=0.5))
    split = Split(plain.stream.images, plain.stream.labels)
    assert plain.evaluate(split) == smooth.evaluate(split)
    expected = F.cross_entropy(
        smooth.trainer.model(smooth.batch.images), smooth.batch.labels, label_smoothing=0.5
    )
    assert smooth.trainer.step(smooth.batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_adamw_decays_weights_that_get_no_gradient_step():
    with_decay = make_run(optimizer="adamw", weight_decay=0.5, learning_rate=1e-2)
    without = make_run(optimizer="adamw", learning_rate=1e-2)
    for run in (with_decay, without):
        run.trainer.step(run.batch)
    norms = [
        sum(parameter.square().sum().item() for parameter in run.trainer.model.parameters())
        for run in (with_decay, without)
    ]
    assert norms[0] < norms[1]


def test_evaluate_counts_what_the_model_predicts():
    run = make_run()
    run.trainer.model = Constant()
    split = Split(
        torch.zeros(10, 3, 16, 16, dtype=torch.uint8), torch.tensor([0] * 6 + [1, 2, 3, 3])
    )
    metrics = run.evaluate(split)
    assert metrics.accuracy == 0.6
    assert metrics.recall == pytest.approx(0.25)  # one class of four is always found
    assert metrics.precision == pytest.approx(0.6 / 4)
    assert metrics.f1 == pytest.approx(2 * 0.6 / 1.6 / 4)
    expected = -0.6 * math.log(math.e / (math.e + 3)) + 0.4 * math.log(math.e + 3)
    assert metrics.loss == pytest.approx(expected, rel=1e-5)


class Constant(torch.nn.Module):
    def forward(self, images, keep=None):
        return torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(images), -1)


def test_evaluate_selects_patches_for_every_batch():
    run = make_run()
    asked = []

    def select(images):
        asked.append(len(images))
        return torch.tensor([0])

    split = Split(run.stream.images, run.stream.labels)
    assert run.evaluate(split, select) != run.evaluate(split)
    assert asked == [8] * 4


def test_a_trainer_pickles():
    run = make_run()
    run.step()
    copy = pickle.loads(pickle.dumps(run))
    assert copy.step().loss == run.step().loss


def test_learning_rate_warms_up_and_follows_a_cosine():
    factors = [learning_rate_factor(step / 110, 1 / 110, 10 / 110, "cosine") for step in range(111)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0)
    assert learning_rate_factor(0.99, 0.01, 0.0, "constant") == 1.0
    assert learning_rate_factor(0.0, 0.1, 0.01, "constant") == 1.0  # a step longer than warm-up
    assert learning_rate_factor(0.5, 0.01, 1.0, "cosine") == pytest.approx(0.51)
    assert learning_rate_factor(1.0, 0.01, 1.0, "cosine") == 1.0


def test_the_schedule_reaches_the_optimizer():
    run = make_run(
        schedule=partial(learning_rate_factor, step_share=1 / 20, warmup=0.25, schedule="cosine"),
        learning_rate=0.1,
    )
    rates = []
    for _ in range(20):
        run.step()
        rates.append(run.trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] < 0.01


def test_resolve_device_takes_the_cpu_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == CPU
    with pytest.raises(ValueError, match="'cuda' needs a CUDA device, got 0 of them"):
        resolve_device("cuda")


def test_resolve_device_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto").type == "cuda"
    with pytest.raises(ValueError, match="'cuda:1' needs a CUDA device, got 1 of them"):
        resolve_device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x"])
def test_unknown_devices_are_named(name):
    with pytest.raises(ValueError, match=f"device must be auto, cpu, cuda .* got '{name}'"):
        resolve_device(name)


def test_resolve_precision_follows_the_hardware(monkeypatch):
    for capable in (True, False):
        capabilities = {"avx512_bf16": capable}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert has_bf16(CPU) == capable
        expected = torch.bfloat16 if capable else torch.float32
        assert resolve_precision("auto", CPU) == (CPU, expected)
    assert resolve_precision("bf16", CPU) == (CPU, torch.bfloat16)
    assert resolve_precision("fp32", CPU) == (CPU, torch.float32)
    with pytest.raises(
        ValueError, match="precision must be one of auto, fp32, bf16, fp16, got 'fp8'"
    ):
        resolve_precision("fp8", CPU)
