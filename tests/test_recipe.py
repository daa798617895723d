"""The recipe: options of the training step, alone, in an environment, and resumed."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from tests.conftest import TINY, TINY_OPTIONS
from tests.test_cli import refused
from tests.test_training import Overflowing, make_run, overflowing_run
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError
from vit_patch_env.data.splits import Split, read_splits
from vit_patch_env.models import make_model
from vit_patch_env.training.loss import CrossEntropy, UserLoss, balanced_weights
from vit_patch_env.training.loss_scale import LossScale
from vit_patch_env.training.precision import Precision

pytestmark = pytest.mark.counts_flops

CPU = torch.device("cpu")


def norm_of_gradients(run):
    return math.sqrt(sum(one.grad.square().sum().item() for one in parameters(run)))


def parameters(run):
    return list(run.trainer.model.parameters())


def weights_of(run):
    return torch.cat([one.detach().flatten() for one in parameters(run)])


def test_gradients_are_clipped_to_their_norm():
    free = make_run()
    free.trainer.step(free.batch)
    norm = norm_of_gradients(free)
    loose, tight = make_run(clip_grad_norm=2 * norm), make_run(clip_grad_norm=norm / 2)
    for run in (loose, tight):
        run.trainer.step(run.batch)
    assert norm_of_gradients(loose) == pytest.approx(norm)
    assert norm_of_gradients(tight) == pytest.approx(norm / 2, rel=1e-4)


def test_accumulated_batches_are_one_step_on_all_of_them():
    run, reference = make_run(accumulate=3), make_run()
    trainer = reference.trainer
    losses = []
    before = weights_of(run)
    for index in range(3):
        assert torch.equal(weights_of(run), before), index
        batch = run.batch
        losses.append(F.cross_entropy(trainer.model(batch.images), batch.labels))
        run.step()
    torch.stack(losses).mean().backward()
    trainer.optimizer.step()
    assert torch.allclose(weights_of(run), weights_of(reference), rtol=1e-5, atol=1e-6)


def test_the_last_batches_of_a_run_are_trained_on_though_they_are_fewer():
    run, reference = make_run(accumulate=8), make_run()  # 20 steps: 8, 8, and 4
    for _ in range(19):
        run.step()
    before = copy.deepcopy(run.trainer.model)
    reference.trainer.model.load_state_dict(before.state_dict())
    gradients = [one.grad * 8 / 3 for one in parameters(run)]  # their mean so far
    batch = run.batch
    run.step()
    assert not torch.equal(
        weights_of(run), torch.cat([one.flatten() for one in before.parameters()])
    )
    F.cross_entropy(before(batch.images), batch.labels).backward()
    for weight, own, last in zip(parameters(run), gradients, before.parameters(), strict=True):
        assert torch.allclose(weight.grad, (3 * own + last.grad) / 4, rtol=1e-3, atol=1e-6)


def test_one_bad_gradient_of_an_accumulation_skips_its_update():
    run = overflowing_run(accumulate=2)
    before = weights_of(run)
    run.trainer.model.overflows = True
    assert not run.step().skipped
    run.trainer.model.overflows = False
    assert run.step().skipped
    assert torch.equal(weights_of(run), before)
    assert [run.step().skipped, run.step().skipped] == [False, False]
    assert not torch.equal(weights_of(run), before)


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", False), ("sgd_nesterov", True)])
def test_sgd_is_torchs(name, nesterov):
    run, reference = make_run(optimizer=name, learning_rate=0.1, momentum=0.8), make_run()
    model = reference.trainer.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8, nesterov=nesterov)
    for _ in range(3):
        batch = run.batch
        run.step()
        optimizer.zero_grad()
        F.cross_entropy(model(batch.images), batch.labels).backward()
        optimizer.step()
    assert torch.allclose(weights_of(run), weights_of(reference), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_nesterov"])
def test_momentum_is_finite_after_a_skipped_first_step(optimizer):
    run, plain = (overflowing_run(optimizer=optimizer, learning_rate=0.1) for _ in range(2))
    run.trainer.model.overflows = True
    first = run.batch
    assert run.step().skipped
    run.trainer.model.overflows = False
    for one in (run, plain):
        one.trainer.step(first)
    assert torch.equal(weights_of(run), weights_of(plain))


def test_the_average_is_evaluated_and_the_model_trains_and_observes():
    run, plain = make_run(ema=0.9), make_run()
    averaged = AveragedModel(plain.trainer.model, avg_fn=lambda a, w, n: a + (w - a) * rate(n))

    def rate(n):
        return 1 - min(0.9, (1 + int(n)) / (10 + int(n)))

    for _ in range(12):
        one, other = run.step(), plain.step()
        assert one.loss == other.loss
        assert (one.observation == other.observation).all()
        averaged.update_parameters(plain.trainer.model)
    assert torch.equal(weights_of(run), weights_of(plain))
    split = Split(run.stream.images, run.stream.labels)
    assert run.evaluate(split) != plain.evaluate(split)
    plain.trainer.model = averaged.module
    assert run.evaluate(split).loss == pytest.approx(plain.evaluate(split).loss, rel=1e-5)


def test_the_average_of_accumulated_updates_is_of_the_updates():
    run = make_run(ema=0.5, accumulate=2)
    run.step()
    assert torch.equal(run.trainer.average.model.head.weight, run.trainer.model.head.weight)
    for _ in range(3):
        run.step()
    assert int(run.trainer.average.state_dict()["n_averaged"]) == 2


def test_class_weights_weigh_the_training_loss_alone():
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    run, plain = make_run(loss=CrossEntropy(class_weights=weights)), make_run()
    split = Split(run.stream.images, run.stream.labels)
    assert run.evaluate(split) == plain.evaluate(split)
    logits = run.trainer.model(run.batch.images)
    expected = F.cross_entropy(logits, run.batch.labels, weight=weights)
    assert run.step().loss == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_weights_give_every_class_the_same_share():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = balanced_weights(labels, ("a", "b", "c"))
    assert weights * torch.bincount(labels) == pytest.approx([10 / 3] * 3)
    with pytest.raises(ArgumentError, match=r"class_weights balanced needs .* got none of d"):
        balanced_weights(labels, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, labels: logits.sum(), None),
        (lambda logits: logits.sum(), "must take logits .* got an error: .* takes 1 positional"),
        (lambda logits, labels: 1.0, r"must return a tensor of shape \(\) .* got 1.0"),
        (lambda logits, labels: logits.sum(dim=1), r"must return .* got shape \(2,\)"),
        (lambda logits, labels: logits.detach().sum(), "must return .* got one without a gradient"),
    ],
)
def test_a_loss_is_tried_before_training(function, message):
    options = {"n_classes": 4, "soft": False, "device": CPU}
    if message is None:
        UserLoss(function, **options)
        return
    with pytest.raises(ArgumentError, match=f"^loss {message}"):
        UserLoss(function, **options)


def test_the_scale_of_the_loss_falls_at_an_overflow_and_changes_no_gradient():
    scale, weight = LossScale(CPU), nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for factor, bad, expected in ((1.0, 0.0, 2.0**16), (1e36, 1.0, 2.0**15), (2.0, 0.0, 2.0**15)):
        optimizer.zero_grad()
        scale.scaled(factor * weight.sum()).backward()
        assert scale.unscale(optimizer).item() == bad
        assert bad or weight.grad.item() == factor
        assert scale.state_dict()["scale"] == expected
    other = LossScale(CPU)
    other.load_state_dict(pickle.loads(pickle.dumps(scale)).state_dict())
    assert other.state_dict() == scale.state_dict()


def in_fp16(monkeypatch):
    """Runs on a CPU scale their losses as with CUDA's fp16."""
    monkeypatch.setattr(Precision, "scales_loss", property(lambda self: True))


def test_steps_that_the_scale_skips_are_no_divergence(monkeypatch):
    in_fp16(monkeypatch)
    env = ViTPatchSelectEnv(**TINY | {"model": overflowing, "epochs": 6})
    env.reset(seed=0)
    env.episode.model.overflows = True
    skipped = []
    for _ in range(40):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        skipped.append(info["skipped"])
        if terminated or truncated:
            break
    assert info["diverged"]
    assert all(skipped)
    assert len(skipped) == 10 + LossScale.N_HALVINGS


def overflowing(n_classes, channels):
    sizes = {"patch_size": 8, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 16}
    return Overflowing(n_classes=n_classes, channels=channels, **sizes)


def own_loss(logits, labels):
    return F.multi_margin_loss(logits, labels) if labels.dim() == 1 else (logits * labels).mean()


RECIPES = {
    "clip": {"clip_grad_norm": 0.5},
    "accumulate": {"accumulate": 3, "schedule": "cosine"},
    "accumulate in flops": {"accumulate": 3, "budget": "flops"},
    "ema": {"ema": 0.9, "reward": "validation", "reward_every": 4},
    "ema of accumulated": {"ema": 0.9, "accumulate": 4, "optimizer": "adamw"},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "nesterov": {"optimizer": "sgd_nesterov", "momentum": 0.5, "accumulate": 2},
    "balanced": {"class_weights": "balanced", "mixup": 0.5},
    "own loss": {"loss": own_loss},
    "own loss of soft labels": {"loss": "tests.test_recipe:own_loss", "cutmix": 0.5},
    "groups": {"decay_norms": False, "layer_decay": 0.5, "weight_decay": 0.1, "model": "vit"},
    "frozen": {"freeze": ("embedding", "blocks:0"), "schedule": "cosine", "warmup_epochs": 1},
}


def trained(env, n_steps):
    """Infos of steps on patches that depend on their index."""
    infos = []
    for _ in range(n_steps):
        kept = torch.arange(env.n_patches) % 3 != env.steps_done % 3
        *_, terminated, truncated, info = env.step(kept.numpy())
        infos.append(info)
        if terminated or truncated:
            break
    return infos


@pytest.mark.one_in(9)
@pytest.mark.parametrize("name", [*RECIPES, "fp16"])
def test_every_recipe_resumes_identically(name, monkeypatch):
    if name == "fp16":
        in_fp16(monkeypatch)
    kwargs = TINY | {"epochs": 3} | RECIPES.get(name, {})
    env, other = ViTPatchSelectEnv(**kwargs), ViTPatchSelectEnv(**kwargs)
    env.reset(seed=1)
    assert len(trained(env, 10)) == 10  # within an accumulation of 3, 4
    other.reset(seed=2)
    trained(other, 5)
    other.load_state_dict(env.state_dict())
    assert trained(other, 100) == trained(env, 100)
    assert env.last_episode.evaluate("test") == other.last_episode.evaluate("test")
    before = {one: value for one, value in kwargs.items() if one not in RECIPES.get(name, {})}
    if name in RECIPES:
        plain = ViTPatchSelectEnv(**before)
        plain.reset(seed=1)
        trained(plain, 100)
        assert plain.last_episode.evaluate("test") != env.last_episode.evaluate("test")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"precision": "fp16"}, "precision must be auto, fp32 or bf16 on a CPU, got fp16"),
        ({"momentum": 0.9}, "momentum is of sgd and sgd_nesterov, got optimizer adam"),
        ({"optimizer": "sgd_nesterov", "momentum": 0.0}, "momentum must be above 0 for sgd_nest"),
        ({"optimizer": "sgd", "momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"accumulate": 0}, r"accumulate must be in \[1, 10\^9\], got 0"),
        ({"ema": 1.0}, r"ema must be in \(0, 1\), got 1.0"),
        ({"clip_grad_norm": 0.0}, r"clip_grad_norm must be in \(0, inf\), got 0.0"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], got 0.0"),
        ({"compile": 1}, "compile must be one of False, True, got 1"),
        ({"freeze": ("blocks:1",)}, "freeze must be of 1 block, numbered from 0, got 'blocks:1'"),
        ({"freeze": ("block",)}, "freeze must be parts of the model, .*head, got 'block'"),
        ({"freeze": ("*",)}, r"freeze must leave a part to train, got \*"),
        ({"class_weights": "equal"}, "class_weights must be .* or balanced .*, got 'equal'"),
        ({"loss": 3}, "loss must be a function or its name, got 3"),
        ({"loss": "cross_entropy"}, "loss must be module:function, got 'cross_entropy'"),
        ({"loss": "no_such_module:f"}, "loss must be module:function, got .*: No module named"),
        ({"loss": "math:no_such"}, "loss must be module:function, got .*: math has no no_such"),
        ({"loss": own_loss, "label_smoothing": 0.1}, "label_smoothing is of the cross-entropy"),
        ({"loss": own_loss, "class_weights": "balanced"}, "class_weights is of the cross-entropy"),
    ],
)
def test_bad_recipes_are_refused_before_an_image_is_read(kwargs, message):
    with pytest.raises(ArgumentError, match=f"^{message}") as raised:
        ViTPatchSelectEnv(**TINY | kwargs)
    assert "\n" not in str(raised.value)


MODULE_OF_MINE = """
from torch import nn

def summed(logits, labels):
    return logits

class Vit(nn.Module):
    n_patches = 16

    def __init__(self, n_classes, channels):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, n_classes)

    def forward(self, images, keep=None):
        return self.head(images.flatten(1))

class Flat(Vit):
    def forward(self, images, keep=None):
        return super().forward(images).flatten()
"""


@pytest.mark.parametrize(
    ("options", "message", "reads"),
    [
        (["--class-weights", "1", "2"], "class-weights must be 4 numbers, one per class", False),
        (["--loss", "of_mine:summed"], "loss must return a tensor of shape ()", False),
        (["--model", "of_mine:Flat"], "model Flat must have model(images), logits of shape", True),
        (
            ["--model", "of_mine:Vit", "--observation", "none", "--layer-decay", "0.5"],
            "layer-decay 0.5 needs a --model with layer_of",
            True,
        ),
    ],
)
def test_what_does_not_fit_the_classes_leaves_no_run(
    options, message, reads, tmp_path, monkeypatch, capsys
):
    """Where the images' channels do not matter, before images are read."""
    (tmp_path / "of_mine.py").write_text(MODULE_OF_MINE)
    monkeypatch.chdir(tmp_path)
    read = []
    monkeypatch.setattr(
        "vit_patch_env.data.splits.read_splits",
        lambda *args, **kwargs: read.append(1) or read_splits(*args, **kwargs),
    )
    out = tmp_path / "run"
    assert message in refused(capsys, "train", *TINY_OPTIONS, "--out", str(out), *options)
    assert not out.exists()
    assert bool(read) == reads


@pytest.mark.parametrize("argument", ["layer_decay", "freeze"])
def test_a_model_without_layers_is_named(argument):
    class Plain(nn.Module):
        n_patches = 16

        def forward(self, images, keep=None):
            return images.flatten(1)[:, :4]

        def first_attention(self, images):
            return images.flatten(2).transpose(1, 2)[:, :16]

    value = {"layer_decay": 0.5, "freeze": ("embedding",)}[argument]
    env = ViTPatchSelectEnv(**TINY, model=lambda n_classes, channels: Plain(), **{argument: value})
    with pytest.raises(ArgumentError, match=f"{argument} .* model with layer_of and .* got Plain"):
        env.reset()


def test_losses_of_the_current_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "losses_of_mine.py").write_text("def sums(logits, labels): return logits.sum()\n")
    monkeypatch.chdir(tmp_path)
    env = ViTPatchSelectEnv(**TINY, loss="losses_of_mine:sums")
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[4]["loss"] < 1e6


@pytest.mark.parametrize(
    "name", ["simple_vit", "vit", "evit", "tome", "token_expansion", "ats_vit"]
)
def test_models_know_the_layer_of_every_parameter(name):
    model = make_model(name, n_classes=3, image_size=8, dim=8, depth=3, heads=1, dim_head=8)
    layers = {one: model.layer_of(one) for one, _ in model.named_parameters()}
    assert set(layers.values()) == set(range(model.n_layers + 2))
    assert layers["blocks.2.mlp.1.weight"] == 3
    assert layers["head.bias"] == layers["norm.weight"] == 4
    assert layers["embedding.1.weight"] == layers.get("positions", 0) == 0
