import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from vit_patch_env.data.batches import Batch, BatchStream, Normalize
from vit_patch_env.data.datasets import Split
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.observation import nothing
from vit_patch_env.training import trainer as training
from vit_patch_env.training.trainer import (
    Trainer,
    has_bf16,
    learning_rate_factor,
    resolve_device,
    resolve_precision,
)

CPU = torch.device("cpu")


def make_trainer(
    seed: int = 0, model: SimpleViT | None = None, device: torch.device = CPU, **kwargs
) -> Trainer:
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
    return Trainer(model, stream, n_steps=20, device=device, **kwargs)


def test_train_step_is_plain_adam_on_the_kept_patches():
    trainer, reference = make_trainer(), make_trainer()
    keep = torch.tensor([1, 4, 9])
    loss = trainer.train_step(trainer.batch, keep)

    model = reference.model
    expected = F.cross_entropy(model(reference.batch.images, keep), reference.batch.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    expected.backward()
    optimizer.step()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_learns_its_images(dtype):
    trainer = make_trainer(learning_rate=5e-3, dtype=dtype)
    batch = trainer.batch
    first = trainer.train_step(batch).item()
    for _ in range(60):
        last = trainer.train_step(batch).item()
    assert last < 0.3 * first


def test_step_trains_on_the_batch_that_was_observed():
    trainer = make_trainer()
    watched = trainer.batch
    expected = make_trainer().train_step(watched).item()
    result = trainer.step()
    assert result.loss == pytest.approx(expected)
    assert not torch.equal(trainer.batch.images, watched.images)
    assert torch.allclose(
        torch.from_numpy(result.observation), trainer.observe(trainer.batch.images)
    )


def test_progress_is_the_share_of_the_steps_and_ends_at_one():
    trainer = make_trainer()
    assert trainer.progress == 0
    for step in range(1, 22):
        trainer.step()
        assert trainer.progress == min(step / 20, 1)


def test_validation_loss_is_that_of_an_evaluation():
    trainer, plain = make_trainer(), make_trainer()
    split = Split(trainer.stream.images[:20], trainer.stream.labels[:20])
    batches = [
        Batch(trainer.stream.normalize(images), labels)
        for images, labels in zip(split.images.split(8), split.labels.split(8), strict=True)
    ]  # the last one is shorter
    assert trainer.validation_loss(batches) == pytest.approx(plain.evaluate(split).loss, rel=1e-5)
    assert trainer.step().loss == plain.step().loss


def test_seconds_begin_with_the_first_step():
    trainer = make_trainer()
    trainer.evaluate(Split(trainer.stream.images, trainer.stream.labels))
    assert trainer.seconds == 0
    trainer.step()
    first = trainer.seconds
    assert 0 < trainer.train_seconds + trainer.observe_seconds <= first < trainer.seconds


def test_step_keeps_time_apart(monkeypatch):
    now = 100.0

    def pass_time(seconds):
        nonlocal now
        now += seconds

    def look(model, images):
        pass_time(5)
        return nothing(model, images)

    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now))
    trainer = make_trainer(observation=look)
    trainer.model.register_forward_hook(lambda *_: pass_time(2))
    for _ in range(3):
        trainer.step()
    assert (trainer.train_seconds, trainer.observe_seconds) == (6, 15)
    assert trainer.seconds == 21


def test_observe_leaves_model_and_gradients_alone():
    trainer = make_trainer()
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.observe(trainer.batch.images)
    for parameter, old in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


class Overflowing(SimpleViT):
    """A gradient that is not finite where `overflows`, with a loss that is."""

    overflows = False

    def forward(self, images, keep=None):
        logits = super().forward(images, keep)
        if self.overflows:
            logits.register_hook(lambda gradient: gradient * math.inf)
        return logits


def overflowing_trainer(**kwargs):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 32}
    return make_trainer(model=Overflowing(n_classes=4, **sizes), **kwargs)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer, dtype):
    trainer = overflowing_trainer(optimizer=optimizer, dtype=dtype)
    trainer.step()
    trainer.model.overflows = True
    before = pickle.dumps((trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]))
    loss, skipped, observation = trainer.step()
    assert math.isfinite(loss)
    assert skipped
    assert torch.isfinite(torch.from_numpy(observation)).all()
    after = pickle.dumps((trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]))
    assert after == before
    assert trainer.n_steps_done == 2  # a step of the budget all the same
    trainer.model.overflows = False
    assert not trainer.step().skipped
    changed = pickle.dumps((trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]))
    assert changed != before


def test_label_smoothing_is_in_the_training_loss_but_not_in_evaluation():
    plain, smooth = make_trainer(), make_trainer(label_smoothing=0.5)
    split = Split(plain.stream.images, plain.stream.labels)
    assert plain.evaluate(split) == smooth.evaluate(split)
    expected = F.cross_entropy(
        smooth.model(smooth.batch.images), smooth.batch.labels, label_smoothing=0.5
    )
    assert smooth.train_step(smooth.batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_adamw_decays_weights_that_get_no_gradient_step():
    with_decay = make_trainer(optimizer="adamw", weight_decay=0.5, learning_rate=1e-2)
    without = make_trainer(optimizer="adamw", learning_rate=1e-2)
    for trainer in (with_decay, without):
        trainer.train_step(trainer.batch)
    norms = [
        sum(parameter.square().sum().item() for parameter in trainer.model.parameters())
        for trainer in (with_decay, without)
    ]
    assert norms[0] < norms[1]


def test_evaluate_counts_what_the_model_predicts():
    trainer = make_trainer()
    trainer.model = Constant()
    split = Split(
        torch.zeros(10, 3, 16, 16, dtype=torch.uint8), torch.tensor([0] * 6 + [1, 2, 3, 3])
    )
    metrics = trainer.evaluate(split)
    assert metrics.accuracy == 0.6
    assert metrics.recall == pytest.approx(0.25)  # one class of four is always found
    assert metrics.precision == pytest.approx(0.6 / 4)
    assert metrics.f1 == pytest.approx(2 * 0.6 / 1.6 / 4)
    expected = -0.6 * math.log(math.e / (math.e + 3)) + 0.4 * math.log(math.e + 3)
    assert metrics.loss == pytest.approx(expected, rel=1e-5)


class Constant(torch.nn.Module):
    def forward(self, images, keep=None):
        return torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(images), -1)


def test_evaluate_asks_for_the_patches_of_every_batch():
    trainer = make_trainer()
    asked = []

    def select(images):
        asked.append(len(images))
        return torch.tensor([0])

    split = Split(trainer.stream.images, trainer.stream.labels)
    assert trainer.evaluate(split, select) != trainer.evaluate(split)
    assert asked == [8] * 4


def test_a_trainer_pickles():
    trainer = make_trainer()
    trainer.step()
    copy = pickle.loads(pickle.dumps(trainer))
    assert copy.step().loss == trainer.step().loss


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


def test_the_schedule_reaches_the_optimiser():
    trainer = make_trainer(schedule="cosine", warmup=0.25, learning_rate=0.1)
    rates = []
    for _ in range(20):
        trainer.step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
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
        assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("fp32", CPU) == torch.float32
    with pytest.raises(ValueError, match="precision must be one of auto, fp32, bf16, got 'fp8'"):
        resolve_precision("fp8", CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_on_cuda_does_not_wait_for_the_host_before_its_end():
    trainer = make_trainer(device=torch.device("cuda"), dtype=torch.bfloat16)
    keep = torch.tensor([1, 4, 9], device="cuda")
    trainer.step(keep)  # the first step allocates
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(trainer.batch, keep)
        trainer.observe(trainer.stream.next().images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
