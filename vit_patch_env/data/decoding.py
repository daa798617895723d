"""Decoding many pictures, in processes of their own: threads with small ones wait for each other.

`python -m vit_patch_env.data.decoding` is such a process. It imports neither torch nor the caller's
program, so that starting it takes a fraction of a second and no `if __name__ == "__main__"`.
"""

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from vit_patch_env.checks import InputError
from vit_patch_env.data.pictures import read_picture
from vit_patch_env.names import InterpolationName, ResizeName
from vit_patch_env.patches.grid import ImageSize, height_width


class Encoded(NamedTuple):
    """A picture that is not decoded yet.

    Attributes:
        content: the path of a file, or what such a file contains.
        name: in messages, safe to print.
    """

    content: str | bytes
    name: str


Decoded = NDArray[np.uint8] | str
"""An image (3, height, width), or why there is none."""

Decode = Callable[[Sequence[Encoded]], list[Decoded]]

_MANY = 1000
"""Pictures for which processes are started."""


def decode(
    pictures: Sequence[Encoded],
    image_size: ImageSize,
    resize: ResizeName,
    interpolation: InterpolationName = "bilinear",
) -> list[Decoded]:
    """Each picture's image, or the message of the ValueError that `read_picture` raises."""
    decoded: list[Decoded] = []
    for picture in pictures:
        try:
            decoded.append(
                read_picture(picture.content, image_size, resize, picture.name, interpolation)
            )
        except ValueError as error:
            decoded.append(str(error))
    return decoded


@contextmanager
def decoder(
    n_pictures: int,
    n_workers: int,
    image_size: ImageSize,
    resize: ResizeName,
    interpolation: InterpolationName = "bilinear",
) -> Iterator[Decode]:
    """What decodes pictures, and may be called by `n_workers` threads at once.

    Args:
        n_pictures: in all: for many, each thread has a process.
        n_workers: threads.
        image_size: as of `read_picture`.
        resize: as of `read_picture`.
        interpolation: as of `read_picture`.
    """
    if n_pictures < _MANY or _has_own_formats():
        yield lambda pictures: decode(pictures, image_size, resize, interpolation)
        return
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    processes = [_Process(image_size, resize, interpolation) for _ in range(n_workers)]
    for process in processes:
        idle.put(process)

    def decode_in_process(pictures: Sequence[Encoded]) -> list[Decoded]:
        process = idle.get()
        try:
            return process.decode(pictures)
        finally:
            idle.put(process)

    try:
        yield decode_in_process
    finally:
        for process in processes:
            process.close()


def _has_own_formats() -> bool:
    """Whether the program has taught Pillow formats, which other processes do not know."""
    openers = (opener for opener, _ in Image.OPEN.values())
    return any(not opener.__module__.startswith("PIL.") for opener in openers)


class _Process:
    """A process that decodes pictures.

    Args:
        image_size: as of `read_picture`.
        resize: as of `read_picture`.
        interpolation: as of `read_picture`.
    """

    def __init__(
        self, image_size: ImageSize, resize: ResizeName, interpolation: InterpolationName
    ) -> None:
        form = (*map(str, height_width(image_size)), resize, interpolation)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *form, *_settings()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def decode(self, pictures: Sequence[Encoded]) -> list[Decoded]:
        """As the function `decode`.

        Raises:
            ValueError: if the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            # Plain tuples, as this module has another name there.
            pickle.dump([tuple(picture) for picture in pictures], self._process.stdin)
            self._process.stdin.flush()
            decoded: list[Decoded] = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(
                "expected a process that decodes images to go on, got its end with status "
                f"{self._process.wait()} at {pictures[0].name}: it may have run out of memory"
            ) from error
        return decoded

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._process.communicate()


def _settings() -> list[str]:
    """Pillow's settings that a program may change, as texts."""
    return [json.dumps(Image.MAX_IMAGE_PIXELS), json.dumps(ImageFile.LOAD_TRUNCATED_IMAGES)]


def _serve(requests: IO[bytes], replies: IO[bytes], *form: Any) -> None:
    """Decode the pictures of each request until there are no more."""
    while True:
        try:
            pictures = [Encoded(*picture) for picture in pickle.load(requests)]
        except EOFError:
            return
        pickle.dump(decode(pictures, *form), replies, protocol=pickle.HIGHEST_PROTOCOL)
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with os.fdopen(os.dup(1), "wb") as answers, suppress(BrokenPipeError):
        os.dup2(2, 1)  # whatever a library prints is no answer
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = map(json.loads, sys.argv[5:])
        size = int(sys.argv[1]), int(sys.argv[2])
        _serve(sys.stdin.buffer, answers, size, *sys.argv[3:5])
