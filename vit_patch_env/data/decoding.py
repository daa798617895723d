"""Decoding many pictures, in processes of their own: threads with small ones wait for each other.

`python -m vit_patch_env.data.decoding` is such a process. It imports neither torch nor the caller's
program, so that starting it takes a fraction of a second and no `if __name__ == "__main__"`.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.data.pictures import read_picture
from vit_patch_env.names import ResizeName

Decoded = NDArray[np.uint8] | str
"""An image (3, image_size, image_size), or why the file has none."""

Decode = Callable[[Sequence[str]], list[Decoded]]

_MANY = 1000
"""Files for which processes are started."""


def decode_files(paths: Sequence[str], image_size: int, resize: ResizeName) -> list[Decoded]:
    """Each file's image, or the message of the ValueError that `read_picture` raises."""
    decoded: list[Decoded] = []
    for path in paths:
        try:
            decoded.append(read_picture(path, image_size, resize))
        except ValueError as error:
            decoded.append(str(error))
    return decoded


@contextmanager
def decoder(n_files: int, n_workers: int, image_size: int, resize: ResizeName) -> Iterator[Decode]:
    """What decodes files, and may be called by `n_workers` threads at once.

    Args:
        n_files: in all: for many, each thread has a process.
        n_workers: threads.
        image_size: as of `read_picture`.
        resize: as of `read_picture`.
    """
    if n_files < _MANY:
        yield lambda paths: decode_files(paths, image_size, resize)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    processes = [_Process(image_size, resize) for _ in range(n_workers)]
    for process in processes:
        idle.put(process)

    def decode(paths: Sequence[str]) -> list[Decoded]:
        process = idle.get()
        try:
            return process.decode(paths)
        finally:
            idle.put(process)

    try:
        yield decode
    finally:
        for process in processes:
            process.close()


class _Process:
    """A process that decodes files.

    Args:
        image_size: as of `read_picture`.
        resize: as of `read_picture`.
    """

    def __init__(self, image_size: int, resize: ResizeName) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(image_size), resize],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def decode(self, paths: Sequence[str]) -> list[Decoded]:
        """As `decode_files`.

        Raises:
            ValueError: if the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(list(paths), self._process.stdin)
            self._process.stdin.flush()
            decoded: list[Decoded] = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                "expected a process that decodes images to go on, got its end with status "
                f"{self._process.wait()} at {paths[0]!r}: it may have run out of memory"
            ) from error
        return decoded

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._process.communicate()


def _serve(requests: IO[bytes], replies: IO[bytes], *form: Any) -> None:
    """Decode the files of each request until there are no more."""
    while True:
        try:
            paths = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(decode_files(paths, *form), replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with os.fdopen(os.dup(1), "wb") as answers, suppress(BrokenPipeError):
        os.dup2(2, 1)  # whatever a library prints is no answer
        _serve(sys.stdin.buffer, answers, int(sys.argv[1]), sys.argv[2])
