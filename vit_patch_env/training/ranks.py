"""The processes of one training, each of which computes a part of every batch.

The first one, rank 0, has the environment and its agent. It says what is to be done, and all do it:
see `Ranks.doing` and `Ranks.hear`.
"""

import atexit
import inspect
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vit_patch_env.checks import InputError

END = "end"
"""The command that ends the others."""

_SHORT = 4096
"""Bytes of a command that is sent at once; longer ones follow in a second message."""

_LENGTH = 8
"""Bytes of a command's length."""

_LONGEST_WAIT = timedelta(days=30)
"""For what rank 0 says next, or until all have read their images: that may take any time."""

_LONGEST_END = timedelta(seconds=20)


class LostRankError(RuntimeError):
    """Another process of the training has ended, so that this one cannot continue."""


class Command(NamedTuple):
    """What rank 0 says: a name, and what belongs to it."""

    name: str
    arguments: tuple[Any, ...] = ()


class Ranks:
    """The processes that torchrun, or another launcher, has started for one training.

    They communicate by gloo on a CPU and by NCCL on CUDA; what rank 0 says is sent by gloo, which
    does not wait for the GPU.

    Args:
        device: of this process; on CUDA another one in each process of a machine.

    Attributes:
        rank: of this process, 0 for that of the environment.
        size: number of processes.
        n_episodes: that have been made; only the newest one is of all processes.
    """

    n_episodes = 0
    _of_process: "Ranks | None" = None

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=_LONGEST_WAIT)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        assert isinstance(group, dist.ProcessGroup)  # as this process is in it
        self._commands = group
        self._is_busy = False
        self._device = device
        self._taken = False
        if self.leads:
            atexit.register(self._end)

    @classmethod
    def of_process(cls, device: torch.device) -> "Ranks":
        """Those of this process, which are connected at the first call."""
        if cls._of_process is None:
            cls._of_process = cls(device)
        return cls._of_process

    def take(self) -> None:
        """Use them for an environment.

        Raises:
            InputError: if another one of this process does so.
        """
        if self._taken:
            raise InputError("expected one environment with distributed in a process, got another")
        self._taken = True

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def part(self, n_images: int) -> slice:
        """The images that this process computes of a batch whose size is divisible by `size`."""
        n_own = n_images // self.size
        return slice(self.rank * n_own, (self.rank + 1) * n_own)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Names the loss of a process as such.

        Raises:
            LostRankError: where a library raises that it cannot reach another process.
        """
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise LostRankError(
                f"expected {self.size} processes that train together, but one of them has ended"
            ) from error

    def averaging(self, model: nn.Module, *, unused: bool) -> nn.Module:
        """The model, whose gradients are averaged over the processes.

        Args:
            model: with the same weights in all of them afterwards: those of rank 0.
            unused: whether some of its parameters may get no gradient.
        """
        known = inspect.signature(DistributedDataParallel).parameters
        # Buffers are constants, such as positions. The first name is that of newer versions.
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {sync: False, "gradient_as_bucket_view": True}
        if self._device.type == "cuda":
            options["device_ids"] = [self._device]
        with self.watched():
            return DistributedDataParallel(model, find_unused_parameters=unused, **options)

    @contextmanager
    def doing(self, name: str, *arguments: Any) -> Iterator[None]:
        """Tell the others, from rank 0, what all do within the block."""
        self._is_busy = True
        command = pickle.dumps(Command(name, arguments), protocol=pickle.HIGHEST_PROTOCOL)
        self._exchange(command)
        yield
        self._is_busy = False  # unless there was an error, after which the others wait for this one

    def hear(self) -> Command:
        """What rank 0 says next."""
        command: Command = pickle.loads(self._exchange(b""))
        return command

    def meet(self) -> None:
        """Wait until all are here."""
        with self.watched():
            dist.barrier(group=self._commands)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values, float32 of the same shape, on the device."""
        total = value / self.size
        with self.watched():
            dist.all_reduce(total)
        return total

    def sum(self, value: float) -> float:
        """The sum of all processes' values."""
        total = torch.tensor(value, dtype=torch.float64, device="cpu")
        with self.watched():
            dist.all_reduce(total, group=self._commands)
        return float(total)

    def gathered(self, value: Any) -> list[Any] | None:
        """The values of all processes, by rank, in rank 0; None in the others."""
        values: list[Any] | None = [None] * self.size if self.leads else None
        with self.watched():
            dist.gather_object(value, values, group=self._commands)
        return values

    def leave(self) -> None:
        """Close the connection, when rank 0 has said `END`."""
        dist.monitored_barrier(self._commands, timeout=_LONGEST_END)
        dist.destroy_process_group()

    def _end(self) -> None:
        """Tell the others that this process ends, unless they wait for what it has begun."""
        if self._is_busy:
            return
        with suppress(RuntimeError), self.doing(END):
            self.leave()

    def _exchange(self, sent: bytes) -> bytes:
        """Bytes that rank 0 sends, in every process."""
        with self.watched():
            return self._broadcast(sent)

    def _broadcast(self, sent: bytes) -> bytes:
        first = torch.zeros(_LENGTH + _SHORT, dtype=torch.uint8, device="cpu")
        if self.leads:
            head = len(sent).to_bytes(_LENGTH, "little") + sent[:_SHORT]
            first[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        dist.broadcast(first, 0, group=self._commands)
        head = first.numpy().tobytes()
        length = int.from_bytes(head[:_LENGTH], "little")
        body = head[_LENGTH : _LENGTH + min(length, _SHORT)]
        if length <= _SHORT:
            return body
        rest = torch.empty(length - _SHORT, dtype=torch.uint8, device="cpu")
        if self.leads:
            rest[:] = torch.frombuffer(bytearray(sent[_SHORT:]), dtype=torch.uint8)
        dist.broadcast(rest, 0, group=self._commands)
        return body + rest.numpy().tobytes()

    def __reduce__(self) -> NoReturn:
        """Refuse a copy.

        Raises:
            InputError: always.
        """
        raise InputError("an environment with distributed cannot be copied or pickled after reset")
