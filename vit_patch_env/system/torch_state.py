"""torch's settings of a thread and of the process: kept from the environment, or lent by turns.

torch has some settings of the process only, such as the default type of numbers. The package's own
code gives the type of every tensor, so that its steps neither depend on that setting nor change it;
for code of others it is lent.
"""

import copy
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Final, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Value = TypeVar("Value")

_OWN_MODULES: Final = __name__.partition(".")[0] + "."

_DEVICE_TYPES: Final = ("cpu", "cuda")
"""Types of devices that a ViT trains on, each with an autocast of its own."""


_lending = threading.RLock()


class _OfThread(threading.local):
    """How many of a setting's contexts a thread is in."""

    depth = 0


class _Lent(Generic[Value]):
    """A context in which a setting of the process has our value, as long as any thread needs it.

    The last thread to leave restores the value that was found, unless another one was set
    meanwhile: a choice that a thread of the caller makes during a step is kept.

    Args:
        own: the value in the context.
        read: the current value.
        write: sets it.
    """

    def __init__(
        self, own: Value, read: Callable[[], Value], write: Callable[[Value], None]
    ) -> None:
        self._own = self._found = own
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._n_threads = 0
        self._of_thread = _OfThread()

    def __enter__(self) -> None:
        of_thread = self._of_thread
        of_thread.depth += 1
        if of_thread.depth > 1:
            return
        with self._lock:
            self._n_threads += 1
            found = self._read()
            if found != self._own:
                self._found = found  # first, as a fork may come in between
                self._write(self._own)

    def __exit__(self, *_: object) -> None:
        of_thread = self._of_thread
        of_thread.depth -= 1
        if of_thread.depth:
            return
        with self._lock:
            if self._n_threads == 1:
                self._restore()
            self._n_threads -= 1

    def _restore(self) -> None:
        if self._found != self._own and self._read() == self._own:
            self._write(self._found)
        self._found = self._own

    def after_fork(self) -> None:
        """In a forked process: the other threads, which would have restored the value, are gone."""
        self._lock = threading.Lock()
        inside = self._of_thread.depth > 0
        if self._n_threads and not inside:
            self._restore()
        self._n_threads = int(inside)


float32_by_default: Final = _Lent(torch.float32, torch.get_default_dtype, torch.set_default_dtype)
"""A context for code of others, which may create tensors of the default type.

Other threads see float32 as well meanwhile.
"""

_no_anomaly_mode: Final = _Lent(
    False,
    torch.is_anomaly_enabled,
    lambda enabled: torch.set_anomaly_enabled(enabled, torch.is_anomaly_check_nan_enabled()),
)


_NOTHING: Final = nullcontext()


@contextmanager
def own_torch_state(*, gradients: bool = True, model: object = None) -> Iterator[None]:
    """Within the block, torch computes as in a new process, whatever the caller has set.

    Neither `no_grad`, `inference_mode`, `autocast` nor `set_detect_anomaly` of the caller apply, as
    a step that diverges ends the run, without an error; afterwards they do again. Nor does the
    default type of numbers, for a model that is not of this package. That and the detection of
    anomalies are settings of the process: other threads see ours meanwhile.

    Args:
        gradients: whether the block computes gradients.
        model: what computes in the block, unless it is code of this package, which gives the type
            of every tensor.
    """
    with ExitStack() as stack:  # empty most of the time, as a step should not wait for it
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in _DEVICE_TYPES:
            if torch.is_autocast_enabled(kind):
                torch.set_autocast_enabled(kind, False)
                stack.callback(torch.set_autocast_enabled, kind, True)
        if model is not None and not _is_own(model):
            stack.enter_context(float32_by_default)
        with torch.set_grad_enabled(gradients), _no_anomaly_mode if gradients else _NOTHING:
            yield


def _is_own(model: object) -> bool:
    """Whether the model's class is one of this package, and no adapter of a library's model."""
    plain = getattr(model, "plain_model", model)
    return type(plain).__module__.startswith(_OWN_MODULES)


def copied_for_training(value: Value, *shared: object) -> Value:
    """A deep copy without inference tensors, which cannot be trained.

    Args:
        value: what is copied.
        shared: what is part of it and is not copied.
    """
    with own_torch_state():
        return copy.deepcopy(value, {id(one): one for one in shared})


@contextmanager
def on_cpu() -> Iterator[None]:
    """Within the block, new tensors are on the CPU, whatever the caller's default device is."""
    if torch.get_default_device().type == "cpu":
        yield  # without a context, which would make every operation slower
    else:
        with torch.device("cpu"):
            yield


_OF_DEFAULT_TYPE: Final = {
    getattr(torch.ops.aten, name)
    for name in ("empty", "zeros", "ones", "rand", "randn", "linspace", "eye")
}
"""Operations that create tensors of the default type, unless they are given one."""


class DrawingFrom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which this thread's random numbers come from a generator, in float32.

    For code that takes no generator and no type, such as torch's layers, which initialise
    themselves. The numbers are those of the global generator with the same state, which is neither
    used nor changed. Random numbers on other devices than the generator's are not affected. The
    default type of numbers is not used: another thread may change it.

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
        if func.overloadpacket in _OF_DEFAULT_TYPE and kwargs.get("dtype") is None:
            kwargs = {**kwargs, "dtype": torch.float32}
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


def _leave_other_threads() -> None:
    """In a forked process no other thread will release what it held."""
    global _lending
    _lending = threading.RLock()
    float32_by_default.after_fork()
    _no_anomaly_mode.after_fork()


os.register_at_fork(after_in_child=_leave_other_threads)
