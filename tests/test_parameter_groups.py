"""Groups of parameters, frozen parts and learning rates by layer; the compiled forward pass."""

import copy
import pickle

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import TINY
from tests.test_recipe import trained
from tests.test_training import make_run
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError
from vit_patch_env.models import make_model
from vit_patch_env.training import compiled
from vit_patch_env.training.freezing import freeze
from vit_patch_env.training.parameter_groups import parameter_groups
from vit_patch_env.training.schedule import learning_rate_factor

SIZES = {"image_size": 8, "dim": 8, "depth": 3, "heads": 1, "dim_head": 8, "n_classes": 3}


def groups_of(model, **options):
    """Learning rate and weight decay of each parameter, by name."""
    groups = parameter_groups(model, learning_rate=1.0, **options)
    values = {
        one: (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]
    }
    return {name: values[one] for name, one in model.named_parameters() if one in values}


@pytest.mark.parametrize("name", ["simple_vit", "vit"])
def test_weight_decay_is_of_all_or_of_matrices_alone(name):
    model = make_model(name, **SIZES)
    everything = groups_of(model, weight_decay=0.1)
    assert set(everything.values()) == {(1.0, 0.1)}
    matrices = {
        one
        for one, (_, decay) in groups_of(model, weight_decay=0.1, decay_norms=False).items()
        if decay
    }
    assert matrices == {
        "embedding.1.weight", "head.weight",
        *(f"blocks.{block}.{part}.weight" for block in range(3)
          for part in ("attention.to_qkv", "attention.to_out", "mlp.1", "mlp.3")),
    }  # fmt: skip


def test_one_group_in_the_models_order_without_options():
    model = make_model("vit", **SIZES)
    (group,) = parameter_groups(model, learning_rate=0.1, weight_decay=0.2)
    assert all(map(lambda one, other: one is other, group["params"], model.parameters()))


def test_learning_rates_fall_by_layer_from_the_head_down():
    rates = {
        name: rate
        for name, (rate, _) in groups_of(make_model("vit", **SIZES), layer_decay=0.5).items()
    }
    assert rates["head.weight"] == rates["norm.bias"] == 1
    assert rates["blocks.2.mlp.1.bias"] == 0.5
    assert rates["blocks.0.attention.norm.weight"] == 0.125
    assert rates["embedding.1.weight"] == rates["positions"] == rates["class_token"] == 0.0625


def test_the_schedule_scales_the_rate_of_each_layer():
    run = make_run(
        layer_decay=0.5,
        learning_rate=0.1,
        schedule=lambda progress: learning_rate_factor(progress, 1 / 20, 0.25, "cosine"),
    )
    for _ in range(11):
        run.step()
    rates = [group["lr"] for group in run.trainer.optimizer.param_groups]
    share = learning_rate_factor(0.5, 1 / 20, 0.25, "cosine")
    assert rates == pytest.approx([0.1 * share * 0.5**power for power in (3, 2, 1, 0)])


@pytest.mark.parametrize(
    ("parts", "trained_ones"),
    [
        (["embedding"], {"blocks", "norm", "head"}),
        (
            ["blocks:0-2"],
            {"embedding", "norm", "head", "positions", "class_position", "class_token"},
        ),
        (["all-but-head"], {"norm", "head"}),
        (["all-but-head", "norm"], {"head"}),
        (["blocks", "*position*"], {"embedding", "norm", "head", "class_token"}),
    ],
)
def test_frozen_parts_are_not_trained(parts, trained_ones):
    model = make_model("vit", **SIZES)
    freeze(model, parts)
    free = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name.partition(".")[0] for name in free} == trained_ones
    assert set(groups_of(model)) == free


def test_some_blocks_are_frozen():
    model = make_model("simple_vit", **SIZES)
    freeze(model, ["blocks:1-2", "blocks.0.mlp"])
    free = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name for name in free if name.startswith("blocks")} == {
        f"blocks.0.attention.{name}" for name in
        ("norm.weight", "norm.bias", "to_qkv.weight", "to_out.weight")
    }  # fmt: skip


@pytest.mark.parametrize("part", ["blocks:3", "blocks:2-1", "blocks:0-3", "heads", ""])
def test_parts_that_a_model_does_not_have_are_named(part):
    with pytest.raises(ArgumentError, match=f"^freeze must be .*, got '{part}'"):
        freeze(make_model("simple_vit", **SIZES), [part])


def test_frozen_parts_cost_no_backward_pass_and_have_no_state():
    env, plain = (
        ViTPatchSelectEnv(**TINY | {"depth": 3, "freeze": parts})
        for parts in (("all-but-head",), ())
    )
    for one in (env, plain):
        one.reset(seed=0)
        start = {name: value.clone() for name, value in one.episode.model.state_dict().items()}
        trained(one, 3)
    model = env.episode.model
    assert env.episode.run.step_flops() < 0.4 * plain.episode.run.step_flops()
    with FlopCounterMode(display=False) as counter:
        model(env.episode.run.batch.images).sum().backward()
    assert counter.get_total_flops() == env.episode.run.step_flops()
    optimizer = env.episode.run.trainer.optimizer
    assert len(optimizer.state) == sum(one.requires_grad for one in model.parameters()) == 4
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(start[name], value)
    }
    assert changed == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert env.max_steps == plain.max_steps


def test_a_budget_of_flops_pays_for_more_steps_with_frozen_parts():
    frozen, plain = (
        ViTPatchSelectEnv(**TINY | {"budget": "flops", "freeze": parts})
        for parts in (("all-but-head",), ())
    )
    assert frozen.expected_steps > 1.5 * plain.expected_steps
    frozen.reset(seed=0)
    assert len(trained(frozen, 200)) <= frozen.max_steps


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled from here on, without a compiler that takes seconds for each."""
    found = []

    def backend(graph, _):
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_backend", backend)
    compiled._compiled.cache_clear()
    yield found
    compiled._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.mark.long
def test_compiled_steps_are_equal_and_compiled_once_for_any_number_of_patches(graphs):
    run, plain = make_run(compiled=True), make_run()
    counts = []
    for n_keep in (5, None, 12, 3, 15):
        keep = None if n_keep is None else torch.arange(n_keep)
        one, other = run.step(keep), plain.step(keep)
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        counts.append(len(graphs))
    assert counts == [1] + [2] * 4  # some patches, and all of them
    names = run.trainer.model.state_dict().keys()
    assert names == plain.trainer.model.state_dict().keys()
    another = make_run(compiled=True, seed=1)
    another.step(torch.arange(4))
    assert len(graphs) == 2  # a new model of the same kind


@pytest.mark.long
def test_compiled_runs_are_copied_counted_and_resumed(graphs):
    env = ViTPatchSelectEnv(**TINY | {"compile": True, "ema": 0.9, "accumulate": 2})
    env.reset(seed=0)
    trained(env, 3)
    other = ViTPatchSelectEnv(**TINY | {"compile": True, "ema": 0.9, "accumulate": 2})
    other.reset(seed=1)
    other.load_state_dict(env.state_dict())
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env)), other]
    assert env.episode.flops() > 0
    expected = trained(env, 100)
    for one in copies:
        assert trained(one, 100) == expected


@pytest.mark.long
@pytest.mark.parametrize(("name", "dim_head"), [("simple_vit", 32), ("vit", 8)])
def test_the_compiler_of_torch_gives_equal_losses(name, dim_head):
    sizes = {"image_size": 16, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "n_classes": 4}
    losses = []
    for is_compiled in (True, False):
        torch.manual_seed(0)
        model = make_model(name, **sizes, dim_head=dim_head)  # with the kernel of 32, without of 8
        run = make_run(model=model, compiled=is_compiled, learning_rate=1e-3)
        losses.append([run.step(torch.arange(n_keep)).loss for n_keep in (5, 9, 12, 3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
