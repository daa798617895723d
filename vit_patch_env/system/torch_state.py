"""torch's settings of a thread and of the process: kept from the environment, or lent by turns."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICE_TYPES: Final = ("cpu", "cuda")
"""Types of devices that a ViT trains on, each with an autocast of its own."""


_lending = threading.RLock()


@contextmanager
def own_torch_state(*, gradients: bool = True) -> Iterator[None]:
    """Within the block, torch computes as in a new process, whatever the caller has set.

    Neither `no_grad`, `inference_mode`, `autocast` nor the default type of numbers of the caller
    apply; afterwards they do again. The default type is one of the process: other threads see
    float32 during the block as well.

    Args:
        gradients: whether the block computes gradients.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        for kind in _DEVICE_TYPES:
            if torch.is_autocast_enabled(kind):
                torch.set_autocast_enabled(kind, False)
                stack.callback(torch.set_autocast_enabled, kind, True)
        stack.enter_context(_float32)
        yield


class _Float32:
    """float32 as the default type of numbers, for as long as any thread needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_threads = 0
        self._before = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._n_threads == 0:
                self._before = torch.get_default_dtype()
                if self._before != torch.float32:
                    torch.set_default_dtype(torch.float32)
            self._n_threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_threads -= 1
            if self._n_threads == 0 and self._before != torch.float32:
                torch.set_default_dtype(self._before)


_float32 = _Float32()


@contextmanager
def on_cpu() -> Iterator[None]:
    """Within the block, new tensors are on the CPU, whatever the caller's default device is."""
    if torch.get_default_device().type == "cpu":
        yield  # without a context, which would make every operation slower
    else:
        with torch.device("cpu"):
            yield


class DrawingFrom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which this thread's random numbers come from a generator.

    For code that takes no generator, such as torch's layers, which initialise themselves. The
    numbers are those of the global generator with the same state, which is neither used nor
    changed. Random numbers on other devices than the generator's are not affected.

    Args:
        generator: advanced by what is drawn.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """The result of an operation."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and self._is_on_device(args, kwargs):
            if all(argument.name != "generator" for argument in func._schema.arguments):
                # Functions that create tensors have an overload of their own with a generator.
                name = func._overloadname
                prefix = "" if name == "default" else f"{name}_"
                func = getattr(func.overloadpacket, f"{prefix}generator")
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)

    def _is_on_device(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        device = args[0].device if isinstance(args[0], Tensor) else kwargs.get("device")
        return torch.device(device or "cpu").type == self._generator.device.type


@contextmanager
def lending_global_state() -> Iterator[None]:
    """Within the block, one thread at a time changes the process's state, to restore it later.

    Threads that use that state without this context may still see it changed.
    """
    with _lending:
        yield


def _renew_locks() -> None:
    """In a forked process no other thread will release what it held."""
    global _lending, _float32
    _lending, _float32 = threading.RLock(), _Float32()


os.register_at_fork(after_in_child=_renew_locks)
