import shutil
import subprocess
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_patch_env.models.kernels import build
from vit_patch_env.models.kernels.build import library
from vit_patch_env.models.kernels.cpu_attention import MAX_TOKENS, fits, fused_attention
from vit_patch_env.models.layers import attention
from vit_patch_env.models.layers.attention import (
    attend,
    attend_scalars,
    attention_weights,
    split_heads,
)
from vit_patch_env.system.memory import keep_freed_memory

needs_kernel = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None, reason="needs a C compiler"
)
DTYPES = torch.float32, torch.bfloat16
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.01}
in_both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])


def reference(qkv, heads, scale):
    query, key, value = split_heads(qkv, 3, heads)
    weights = (query @ key.transpose(-1, -2) * scale).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def relative_error(ours, exact):
    return ((ours - exact).norm() / exact.norm().clamp(min=1e-6)).item()


@needs_kernel
@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(DTYPES), st.integers(1, 3), st.integers(1, MAX_TOKENS), st.integers(1, 5),
    st.sampled_from([32, 64, 96, 128]), st.integers(0, 2**31),
)  # fmt: skip
def test_the_kernel_equals_exact_attention_to_its_precision(
    dtype, batch, n_tokens, heads, dim_head, seed
):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, n_tokens, 3 * heads * dim_head
    qkv = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    gradient = torch.randn(batch, n_tokens, heads * dim_head, generator=generator).to(dtype)
    exact = qkv.detach().double().requires_grad_()
    assert fits(qkv, dtype, dim_head)
    out, expected = (
        fused_attention(qkv, heads, dim_head**-0.5),
        reference(exact, heads, dim_head**-0.5),
    )
    out.backward(gradient)
    expected.backward(gradient.double())
    assert out.dtype == qkv.grad.dtype == dtype
    assert relative_error(out, expected) < TOLERANCE[dtype]
    assert relative_error(qkv.grad, exact.grad) < TOLERANCE[dtype]


@needs_kernel
@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(DTYPES), st.integers(1, 9), st.integers(1, MAX_TOKENS), st.integers(1, 5),
    st.sampled_from([32, 64, 128]), st.sampled_from([32, 96, 128]), st.integers(0, 2**31),
)  # fmt: skip
def test_attention_of_scalars_equals_the_general_path(
    dtype, batch, n_tokens, heads, dim_head, dim, seed
):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, n_tokens, dim, generator=generator).to(dtype)
    weight = (torch.randn(2 * heads * dim_head, dim, generator=generator) * dim**-0.5).to(dtype)
    values = torch.randn(batch, n_tokens, heads, generator=generator)
    query, key = split_heads(tokens.double() @ weight.double().t(), 2, heads)
    weights = attention_weights(query, key, dim_head**-0.5)
    expected = torch.einsum("bhqk,bkh->bq", weights, values.double())
    assert fits(tokens, dtype, dim_head, dim)
    out = attend_scalars(tokens, weight, values, dim_head**-0.5)
    assert out.dtype == torch.float32
    # Relative to the sum of magnitudes, as a sum of a few heads may be near 0.
    scale = torch.einsum("bhqk,bkh->bq", weights, values.double().abs())
    assert ((out - expected).norm() / scale.norm()).item() < TOLERANCE[dtype]


@needs_kernel
@in_both_types
def test_the_kernel_is_stable_where_scores_are_large(dtype):
    qkv = (100 * torch.randn(2, 20, 3 * 64)).to(dtype)
    out = fused_attention(qkv, 1, 1.0)
    assert relative_error(out, reference(qkv.double(), 1, 1.0)) < 0.01


@needs_kernel
def test_denormal_weights_do_not_slow_the_kernel():
    usual = torch.randn(64, 64, 3 * 4 * 64)
    saturated = usual.clone()
    saturated[..., : 4 * 64] *= 30  # most weights are exp(-80) and less
    seconds = {}
    for name, qkv in (("usual", usual), ("saturated", saturated)) * 4:
        started = time.perf_counter()
        fused_attention(qkv, 4, 1.0)
        seconds[name] = min(seconds.get(name, 1.0), time.perf_counter() - started)
    assert seconds["saturated"] < 2.5 * seconds["usual"]


@needs_kernel
@in_both_types
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -1])  # the CPU's NaN, CUDA's, a negative
def test_the_kernel_keeps_nan(dtype, bits):
    nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    assert nan.isnan()
    for place in (5, 32 + 5, 2 * 32 + 5):  # in query, key and value
        qkv = torch.randn(1, 20, 3 * 32).to(dtype)
        qkv[0, 3, place] = nan
        assert fused_attention(qkv, 1, 1.0).isnan().any()


@needs_kernel
@in_both_types
def test_the_kernel_accepts_tensors_that_are_not_contiguous(dtype):
    wide = torch.randn(2, 8, 2 * 3 * 32).to(dtype)
    part = wide[..., : 3 * 32]
    assert torch.equal(fused_attention(part, 1, 0.1), fused_attention(part.contiguous(), 1, 0.1))


@pytest.mark.parametrize(
    ("shape", "heads", "dtype"),
    [
        ((2, 8, 96), 1, torch.float64),
        ((2, MAX_TOKENS + 1, 96), 1, torch.bfloat16),
        ((2, 8, 3 * 24), 1, torch.float32),
        ((2, 8, 3 * 16), 1, torch.bfloat16),
        ((2, 8, 3 * 160), 1, torch.float32),
    ],
)
def test_what_the_kernel_does_not_support_takes_the_general_path(shape, heads, dtype):
    qkv = torch.randn(shape).to(dtype)
    assert not fits(qkv, dtype, shape[2] // (3 * heads))
    out = attend(qkv, heads, 0.1)
    assert relative_error(out, reference(qkv.double(), heads, 0.1)) < 0.02


@needs_kernel
@pytest.mark.parametrize("n_tokens", [3, 32, 33])
def test_small_heads_in_bf16_use_the_fp32_kernel_for_few_tokens(n_tokens, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, n_tokens, 3 * 2 * 16, generator=generator).bfloat16().requires_grad_()
    exact = qkv.detach().double().requires_grad_()
    fused = []
    original = attention.fused_attention
    monkeypatch.setattr(
        attention, "fused_attention", lambda *given: fused.append(given) or original(*given)
    )
    out, expected = attend(qkv, 2, 0.25), reference(exact, 2, 0.25)
    out.sum().backward()
    expected.sum().backward()
    assert len(fused) == (n_tokens <= 32)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, expected) < 0.02
    assert relative_error(qkv.grad, exact.grad) < 0.02


def test_attention_weights_sum_to_one():
    query, key = torch.randn(2, 2, 2, 8, 16)
    weights = attention_weights(query, key, 0.1)
    assert weights.shape == (2, 2, 8, 8)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 8))


@pytest.fixture
def fresh_library(own_cache):
    shutil.rmtree(own_cache / "kernels", ignore_errors=True)
    build._built.cache_clear()
    yield
    build._built.cache_clear()


@pytest.mark.long
@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("fresh_library")
def test_the_kernel_is_compiled_once_and_then_read_from_the_cache(own_cache, monkeypatch, dtype):
    assert library(dtype) is not None
    assert len(list(own_cache.glob("kernels/cpu_attention-*.so"))) == 1
    build._built.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert library(dtype) is not None


@pytest.mark.usefixtures("fresh_library")
@pytest.mark.parametrize("compiler", ["false", "no-such-compiler", "false --option"])
def test_without_a_working_compiler_there_is_a_warning(compiler, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    with pytest.warns(UserWarning, match="attention takes the slower, general path: .*compile"):
        assert library(torch.float32) is None
    assert not fits(torch.zeros(1, 8, 96), torch.float32, 32)


@pytest.mark.usefixtures("fresh_library")
def test_without_any_compiler_there_is_a_warning(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="no C compiler was found"):
        assert library(torch.float32) is None


@needs_kernel
@pytest.mark.usefixtures("fresh_library")
def test_a_cache_that_is_not_writable_gives_a_warning(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build, "cache_dir", lambda: tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="could not be built in"):
        assert library(torch.float32) is None


@pytest.mark.long
@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("fresh_library")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx2"), reason="needs AVX2")
def test_the_kernel_is_correct_on_processors_without_avx512(dtype, processor, monkeypatch):
    flags = [f"-march={processor}" if flag == "-march=native" else flag for flag in build._FLAGS]
    monkeypatch.setattr(build, "_FLAGS", flags)
    torch.manual_seed(0)
    for n_tokens in (1, 19, 64):
        qkv = torch.randn(2, n_tokens, 3 * 2 * 32).to(dtype).requires_grad_()
        exact = qkv.detach().double().requires_grad_()
        out, expected = fused_attention(qkv, 2, 0.2), reference(exact, 2, 0.2)
        out.sum().backward()
        expected.sum().backward()
        assert relative_error(out, expected) < TOLERANCE[dtype]
        assert (qkv.grad - exact.grad).norm() < 2 * TOLERANCE[dtype] * exact.grad.norm() + 1e-4
        tokens = torch.randn(2, n_tokens, 32).to(dtype)
        weight = (torch.randn(2 * 64, 32) / 32**0.5).to(dtype)
        values = torch.randn(2, n_tokens, 2)
        query, key = split_heads(tokens.double() @ weight.double().t(), 2, 2)
        weights = attention_weights(query, key, 0.2)
        expected = torch.einsum("bhqk,bkh->bq", weights, values.double())
        scale = torch.einsum("bhqk,bkh->bq", weights, values.double().abs())
        out = attend_scalars(tokens, weight, values, 0.2)
        assert ((out - expected).norm() / scale.norm()).item() < TOLERANCE[dtype]


def test_keep_freed_memory_returns_whether_it_took_effect():
    assert keep_freed_memory() in (True, False)
