"""A process that holds one contender and measures it on request."""

import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from vit_patch_env import load_dataset
from vit_patch_env.experiments.bench.measuring import seconds, step_shares
from vit_patch_env.experiments.bench.setups import Setup
from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.experiments.process.workers import become_worker
from vit_patch_env.system.memory import is_out_of_memory, peak_memory


class Worker:
    """A process with one contender; the constructor returns when it has been warmed up.

    Args:
        setup: which contender.
        data: keyword arguments of `load_dataset`.
        batch_size: images per step.
        device: to train on.
        precision: of this package's matrix products.

    Raises:
        MemoryError: if the contender does not fit into memory.
        RuntimeError: if it fails for another reason.
    """

    def __init__(
        self, setup: Setup, data: dict[str, Any], *, batch_size: int, device: str, precision: str
    ) -> None:
        context = fork_context()
        self.connection, other = context.Pipe()
        # Not a daemon: the baselines' data loaders start processes of their own.
        self.process = context.Process(
            target=_serve, args=(other, setup, data, batch_size, device, precision)
        )
        self.process.start()
        other.close()
        self._receive()

    def ask(self, request: str, n_steps: int = 0) -> Any:
        """Send a request and wait for the measured value.

        Args:
            request: "parts", "memory", "shares", or a training method of the contender.
            n_steps: training steps to measure.

        Raises:
            MemoryError: if the process ran out of memory.
            RuntimeError: if it failed for another reason.
        """
        with suppress(ConnectionError):  # the process ended: receiving raises the reason
            self.connection.send((request, n_steps))
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(timeout=10)
        self.process.terminate()

    def _receive(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            if self.process.exitcode == -signal.SIGKILL:  # Linux's out-of-memory killer
                raise MemoryError("a benchmark process was killed") from error
            raise RuntimeError(
                f"a benchmark process died with status {self.process.exitcode}"
            ) from error
        if isinstance(answer, _Failure):
            self.close()
            if answer.out_of_memory:
                raise MemoryError(answer.text)
            raise RuntimeError(f"a benchmark process failed:\n{answer.text}")
        return answer


class _Failure(NamedTuple):
    out_of_memory: bool
    text: str


def _serve(
    connection: Connection,
    setup: Setup,
    data: dict[str, Any],
    batch_size: int,
    device_type: str,
    precision: str,
) -> None:
    """Create a contender, warm it up, then answer requests until the connection is closed."""
    from vit_patch_env.experiments.bench import baselines, contenders

    become_worker()
    try:
        images, device = load_dataset(**data), torch.device(device_type)
        kinds: dict[str, Callable[..., contenders.Contender]] = {
            "vit_pytorch": baselines.VitPytorch,
            "paper": baselines.PaperLoop,
            "ours": contenders.OursWithAgent,
        }
        options = {} if setup.is_baseline else {"precision": precision}
        contender = kinds[setup.kind](images, batch_size, device, setup.n_patches, **options)
        contender.steps(2)
        contender.epoch(1)
        connection.send(0.0)
        while True:
            request, n_steps = connection.recv()
            if request == "parts":
                connection.send(contender.parts())
            elif request == "memory":
                connection.send(peak_memory(device))
            elif request == "shares":
                connection.send(step_shares(contender.steps, n_steps, device))
            else:
                connection.send(seconds(getattr(contender, request), n_steps, device))
    except (EOFError, ConnectionError):  # the other process has ended
        return
    except Exception as error:
        out_of_memory = is_out_of_memory(error)
        text = f"{setup.name}, {setup.n_patches} patches, batches of {batch_size}: {error}"
        with suppress(ConnectionError):
            connection.send(
                _Failure(out_of_memory, text if out_of_memory else traceback.format_exc())
            )
