"""The attention kernel as torch operators: compiled, exported, traced and counted."""

import copy
from typing import get_args

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from tests.test_cpu_attention import in_both_types, needs_kernel, relative_error
from vit_patch_env.models import make_model
from vit_patch_env.models.kernels.cpu_attention import (
    attention,
    attention_backward,
    fused_attention,
    fused_scalar_attention,
    scalar_attention,
)
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.names import ModelName

SIZES = {
    "image_size": 16, "dim": 32, "depth": 1, "heads": 2, "dim_head": 32, "mlp_dim": 32,
    "n_classes": 4,
}  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimpleViT(**SIZES)


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def autocast(dtype):
    # Tracing cannot record weights from the cache.
    enabled = dtype == torch.bfloat16
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def tolerance(dtype):
    return 1e-5 if dtype == torch.float32 else 0.02


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.long
@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck's own access
def test_the_operators_are_correctly_registered(dtype):
    n_tokens = 5
    qkv = torch.randn(2, n_tokens, 3 * 64, dtype=dtype)
    opcheck(attention, (qkv.clone().requires_grad_(), 2, 0.1))
    opcheck(attention, (qkv.mT.contiguous().mT, 2, 0.1))  # not contiguous
    weights = attention(qkv, 2, 0.1)[1]
    opcheck(attention_backward, (torch.randn(2, n_tokens, 64, dtype=dtype), qkv, weights, 0.1))
    tokens, weight = torch.randn(2, n_tokens, 32, dtype=dtype), torch.randn(64, 32, dtype=dtype)
    opcheck(scalar_attention, (tokens, weight, torch.randn(2, n_tokens, 1), 0.1))


@needs_kernel
@in_both_types
def test_the_operator_and_the_direct_call_are_equal(dtype):
    results = []
    for function in (fused_attention, lambda *given: attention(*given)[0]):
        qkv = torch.randn(2, 9, 3 * 64, generator=torch.Generator().manual_seed(0)).to(dtype)
        out = function(qkv.requires_grad_(), 2, 0.1)
        out.square().sum().backward()
        results.append((out, qkv.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@needs_kernel
def test_attention_of_scalars_has_no_gradient():
    tokens, weight = torch.randn(2, 8, 32, requires_grad=True), torch.randn(64, 32)
    assert not fused_scalar_attention(tokens, weight, torch.randn(2, 8, 1), 0.1).requires_grad


@needs_kernel
def test_missing_memory_is_reported(monkeypatch):
    class Failing:
        def attention_forward(self, *_):
            return 1

    monkeypatch.setattr(
        "vit_patch_env.models.kernels.cpu_attention.library", lambda dtype: Failing()
    )
    for function in (fused_attention, attention):
        with pytest.raises(MemoryError, match="no memory for the attention kernel"):
            function(torch.randn(2, 8, 96), 1, 0.1)


@needs_kernel
@pytest.mark.parametrize("name", get_args(ModelName))
def test_flops_on_the_kernels_path_are_those_on_the_general_path(name, images):
    torch.manual_seed(0)
    model = make_model(name, **SIZES)

    def count(model, images):
        with FlopCounterMode(display=False) as counter:
            model(images).sum().backward()
            with torch.no_grad():
                model.mean_first_attention(images)
        return counter.get_total_flops()

    # In float64 the kernel does not fit.
    expected = count(copy.deepcopy(model).double(), images.double())
    assert count(model, images) == expected
    if not model.data_dependent:
        assert count(copy.deepcopy(model).to("meta"), images.to("meta")) == expected


@needs_kernel
def test_fake_tensors_pass_through_the_kernel(model, images):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        out = model(mode.from_tensor(images))
        out.sum().backward()
        assert out.shape == (3, 4)
        assert out.device.type == "cpu"


@pytest.mark.long
@needs_kernel
@in_both_types
def test_a_compiled_model_uses_the_kernel_and_equals_the_model(model, images, dtype):
    graphs = []

    def record(graph, _):
        graphs.append(graph.code)
        return graph.forward

    torch.compiler.reset()
    results = []
    # The default backend takes tens of seconds, and starts from the same graph as "aot_eager".
    for forward in (
        model,
        torch.compile(model, fullgraph=True, backend=record),
        torch.compile(model, fullgraph=True, backend="aot_eager"),
    ):
        model.zero_grad()
        with autocast(dtype):
            logits = forward(images)
        logits.float().square().sum().backward()
        results.append((logits, gradients(model)))
    assert len(graphs) == 1
    assert "vit_patch_env.attention" in graphs[0]
    for logits, gradient in results[1:]:
        assert relative_error(logits, results[0][0]) < tolerance(dtype)
        assert relative_error(gradient, results[0][1]) < tolerance(dtype)


@pytest.mark.long
@needs_kernel
def test_a_compiled_observation_equals_the_observation(model, images):
    torch.compiler.reset()
    compiled = torch.compile(model.mean_first_attention, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(images), model.mean_first_attention(images)) < 1e-5


@pytest.mark.one_in(2)
@in_both_types
def test_an_exported_model_needs_only_torch_and_equals_the_model(model, images, dtype, tmp_path):
    batch = torch.export.Dim("batch", min=2)
    with autocast(dtype):
        program = torch.export.export(model.eval(), (images,), dynamic_shapes=({0: batch},))
        expected = model(images)
    assert "vit_patch_env" not in str(program.graph)
    torch.export.save(program, tmp_path / "vit.pt2")
    exported = torch.export.load(tmp_path / "vit.pt2").module()
    for n_images in (3, 2):
        logits = exported(images[:n_images])
        assert relative_error(logits, expected[:n_images]) < tolerance(dtype)


@needs_kernel
def test_the_operator_can_be_exported_by_itself():
    class Fused(nn.Module):
        def forward(self, qkv):
            return fused_attention(qkv, 2, 0.1)

    qkv = torch.randn(4, 8, 3 * 64)
    program = torch.export.export(Fused(), (qkv,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "vit_patch_env.attention" in str(program.graph)
    assert torch.equal(program.module()(qkv[:2]), fused_attention(qkv[:2], 2, 0.1))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still in use
@in_both_types
def test_a_traced_model_equals_the_model(model, images, dtype, tmp_path):
    with torch.no_grad(), autocast(dtype):
        traced = torch.jit.trace(model.eval(), (images,), check_trace=False)  # checked below
        expected = model(images)
        torch.jit.save(traced, tmp_path / "vit.pt")
        loaded = torch.jit.load(tmp_path / "vit.pt")
        for n_images in (3, 2):
            logits = loaded(images[:n_images])
            assert relative_error(logits, expected[:n_images]) < tolerance(dtype)
