"""The memory of what a training step saves for its backward pass, counted without computing it.

Forward passes run on fake tensors, which have a shape, a type and a device, but no values: neither
the device nor the memory needs to be there.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn import functional as F

from vit_patch_env.system.torch_state import lending_global_state, own_torch_state
from vit_patch_env.training.loss import CrossEntropy
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.trainer import rate_option


class SavedBytes:
    """Adds up the memory of tensors that autograd saves, each once, besides those it is given.

    Args:
        known: tensors whose memory is counted elsewhere, such as weights.
    """

    def __init__(self, *known: Tensor) -> None:
        self._known = {_memory(one) for one in known}
        # Kept, as the memory of one that is freed would be given to another.
        self._saved: dict[int, Tensor] = {}

    def counting(self) -> saved_tensors_hooks:
        """A context in which what is saved is counted."""
        return saved_tensors_hooks(self._add, lambda saved: saved)

    def _add(self, tensor: Tensor) -> Tensor:
        if _memory(tensor) not in self._known:
            self._saved[_memory(tensor)] = tensor
        return tensor

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(one.untyped_storage().nbytes() for one in self._saved.values())


def activation_bytes(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    n_images: int,
    n_keep: int | None,
    precision: Precision,
    *,
    rate: float | None = None,
) -> int:
    """Bytes that a training step saves for its backward pass, besides weights and images.

    Copies of the weights in a narrower type, which autocast saves, are part of it.

    Args:
        model: on torch's meta device.
        image_shape: channels, height and width.
        n_images: of the batch on one device.
        n_keep: patches kept; None for all.
        precision: device, whose kernels save what is counted, and type of the matrix products.
        rate: share of tokens of a model whose `train_rate` changes it.
    """
    device = precision.device.type
    model = copy.deepcopy(model).train()
    with own_torch_state(model=model), FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _fake(one, device) for name, one in _tensors(model).items()}
        images = torch.empty(n_images, *image_shape, dtype=torch.float32, device=device)
        labels = torch.zeros(n_images, dtype=torch.int64, device=device)
        keep = None if n_keep is None else torch.arange(n_keep, device=device)
        saved = SavedBytes(images, labels, *state.values())
        with saved.counting(), _autocast(precision), _kernels(device):
            options = rate_option(rate)
            logits = functional_call(model, state, (images, keep), options)
            loss = CrossEntropy()(logits.float(), labels)
        assert loss.grad_fn is not None
        return saved.total


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _fake(tensor: Tensor, device: str) -> Tensor:
    """A tensor without values on a device, otherwise like another one."""
    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return fake.requires_grad_(tensor.requires_grad)


def _memory(tensor: Tensor) -> int:
    """What tells apart the memory of tensors."""
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _autocast(precision: Precision) -> Iterator[None]:
    """`Precision.autocast` for a device that need not be there, as `torch.autocast` asks of it."""
    if precision.dtype == torch.float32:
        yield
        return
    device = precision.device.type
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_dtype(device, precision.dtype)
    torch.set_autocast_enabled(device, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
        torch.clear_autocast_cache()


@contextmanager
def _kernels(device: str) -> Iterator[None]:
    """Attention by the kernels of CUDA, which torch otherwise only chooses if there is a GPU."""
    if device != "cuda":
        yield
        return
    found = F.scaled_dot_product_attention
    with lending_global_state():
        setattr(F, "scaled_dot_product_attention", _cuda_attention)  # noqa: B010
        try:
            yield
        finally:
            setattr(F, "scaled_dot_product_attention", found)  # noqa: B010


def _cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by flash attention, or in fp32 by the memory-efficient one.

    What either saves is the same: its input, its output and a number for each row of the scores.
    """
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = (one.to(dtype) for one in (query, key, value))
        attn_mask = attn_mask.to(dtype) if attn_mask is not None else None
    aten: Any = torch.ops.aten
    if attn_mask is None and query.dtype != torch.float32:
        out = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )
    else:
        if attn_mask is not None:  # the kernel takes one for each head
            attn_mask = attn_mask.expand(*query.shape[:2], query.shape[2], key.shape[2])
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
        )
    attended: Tensor = out[0]
    return attended
