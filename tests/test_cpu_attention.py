import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_patch_env import cpu_attention
from vit_patch_env.attention import attend, attention_weights, split_heads
from vit_patch_env.cpu_attention import MAX_TOKENS, fits, fused_attention, library
from vit_patch_env.memory import keep_freed_memory

needs_kernel = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="needs AVX-512 bf16 instructions"
)


def reference(qkv, heads, scale):
    query, key, value = split_heads(qkv, heads)
    weights = (query @ key.transpose(-1, -2) * scale).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def relative_error(ours, exact):
    return ((ours.float() - exact).norm() / exact.norm().clamp(min=1e-6)).item()


@needs_kernel
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(1, MAX_TOKENS), st.integers(1, 5),
    st.sampled_from([32, 64, 96, 128]), st.integers(0, 2**31),
)  # fmt: skip
def test_the_kernel_equals_fp32_attention_to_bf16_accuracy(batch, n_tokens, heads, dim_head, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, n_tokens, 3 * heads * dim_head
    qkv = torch.randn(shape, generator=generator).bfloat16().requires_grad_()
    gradient = torch.randn(batch, n_tokens, heads * dim_head, generator=generator).bfloat16()
    exact = qkv.detach().float().requires_grad_()
    assert fits(qkv, heads)
    out, expected = (
        fused_attention(qkv, heads, dim_head**-0.5),
        reference(exact, heads, dim_head**-0.5),
    )
    out.backward(gradient)
    expected.backward(gradient.float())
    assert relative_error(out, expected) < 0.01
    assert relative_error(qkv.grad, exact.grad) < 0.01


@needs_kernel
def test_the_kernel_is_stable_where_scores_are_large():
    qkv = (100 * torch.randn(2, 20, 3 * 64)).bfloat16()
    out = fused_attention(qkv, 1, 1.0)
    assert relative_error(out, reference(qkv.float(), 1, 1.0)) < 0.01


@needs_kernel
def test_the_kernel_keeps_nan():
    qkv = torch.randn(1, 8, 3 * 32).bfloat16()
    qkv[0, 3, 5] = float("nan")
    assert fused_attention(qkv, 1, 1.0).isnan().any()


@needs_kernel
def test_the_kernel_takes_tensors_that_are_not_contiguous():
    wide = torch.randn(2, 8, 2 * 3 * 32).bfloat16()
    part = wide[..., : 3 * 32]
    assert torch.equal(fused_attention(part, 1, 0.1), fused_attention(part.contiguous(), 1, 0.1))


@pytest.mark.parametrize(
    ("shape", "heads", "dtype"),
    [
        ((2, 8, 96), 1, torch.float32),
        ((2, MAX_TOKENS + 1, 96), 1, torch.bfloat16),
        ((2, 8, 3 * 24), 1, torch.bfloat16),
        ((2, 8, 3 * 160), 1, torch.bfloat16),
    ],
)
def test_what_the_kernel_cannot_take_goes_the_general_way(shape, heads, dtype):
    qkv = torch.randn(shape).to(dtype)
    assert not fits(qkv, heads)
    out = attend(qkv, heads, 0.1)
    assert relative_error(out, reference(qkv.float(), heads, 0.1)) < 0.02


def test_attention_weights_sum_to_one():
    weights = attention_weights(torch.randn(2, 8, 3 * 32), 2, 0.1)
    assert weights.shape == (2, 2, 8, 8)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 8))


@pytest.fixture
def fresh_library():
    library.cache_clear()
    yield
    library.cache_clear()


@needs_kernel
@pytest.mark.usefixtures("fresh_library")
def test_the_kernel_is_compiled_once_and_then_read_from_the_cache(own_cache, monkeypatch):
    assert library() is not None
    assert len(list(own_cache.glob("cpu_attention-*.so"))) == 1
    library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert library() is not None


@needs_kernel
@pytest.mark.usefixtures("fresh_library")
def test_without_a_working_compiler_there_is_a_warning(monkeypatch):
    monkeypatch.setenv("CC", "false")
    with pytest.warns(UserWarning, match="could not compile the attention kernel"):
        assert library() is None
    library.cache_clear()
    monkeypatch.delenv("CC")
    monkeypatch.setattr(cpu_attention.shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match="no C compiler found"):
        assert library() is None


@pytest.mark.usefixtures("fresh_library")
def test_other_processors_go_the_general_way(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert library() is None


def test_keep_freed_memory_says_whether_it_could():
    assert keep_freed_memory() in (True, False)
