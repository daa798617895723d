"""The video of a run: pictures drawn while it trains, which become a video at its end."""

import math
import re
import subprocess
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vit_patch_env import Episode
from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.pictures import draw_episode
from vit_patch_env.pictures.canvas import Picture
from vit_patch_env.system.files import replacing

FPS = 10
MAX_FRAMES = 270
"""Of a video, without the end, so that it is 29 s long at most."""

_END_SECONDS = 2
"""How long the last picture stays."""

_NAME = re.compile(r"step-(\d{1,18})\.jpg")


_CODEC = "libx264"
_QUALITY = ("-crf", "20", "-preset", "veryfast")


def check_can_be_written() -> None:
    """Refuse to make a video without what encodes it, which is tried on a few pixels.

    Raises:
        ArgumentError: naming the extra that has it, or the encoder that its ffmpeg lacks.
    """
    reason = "got none"
    if find_spec("imageio_ffmpeg") is not None:
        from imageio_ffmpeg import get_ffmpeg_exe

        try:
            _try_encoder(get_ffmpeg_exe())
            return
        except RuntimeError as error:
            reason = f"got: {str(error).splitlines()[0]}"
    raise ArgumentError(
        "video", f"needs imageio-ffmpeg: pip install 'vit-patch-env[video]', {reason}"
    )


def _try_encoder(ffmpeg: str) -> None:
    """Encode a picture of 16 by 16 pixels, and drop the result.

    Raises:
        ArgumentError: if that fails, with ffmpeg's reason.
    """
    tried = subprocess.run(
        [
            ffmpeg, "-hide_banner", "-loglevel", "error",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "16x16", "-r", str(FPS), "-i", "-",
            "-vcodec", _CODEC, "-pix_fmt", "yuv420p", *_QUALITY, "-f", "null", "-",
        ],
        input=bytes(16 * 16 * 3), capture_output=True, check=False,
    )  # fmt: skip
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip().splitlines()
        reason = said[0] if said else f"exit status {tried.returncode}"
        raise ArgumentError(
            "video", f"needs an ffmpeg with the encoder {_CODEC}, got {ffmpeg}: {reason}"
        )


class RunVideo:
    """Pictures of a run's steps, in files, so that an interrupted run goes on with them.

    Args:
        folder: of the run.
        n_epochs: of the run, at whose ends there are pictures; None if its budget is not epochs.
        grid: rows and columns of patches.
        observation: the argument of the environment.
        steps_done: of the run that is resumed, whose later pictures are removed; 0 of a new one.
    """

    def __init__(
        self,
        folder: RunFolder,
        n_epochs: int | None,
        *,
        grid: tuple[int, int],
        observation: str,
        steps_done: int = 0,
    ) -> None:
        self._folder = folder
        self._n_frames = frames_of(n_epochs)
        self._grid = grid
        self._observation = observation
        self._last = None if steps_done else -1
        self._warned = False
        for step, file in _files(folder):
            if step > steps_done:
                file.unlink()

    def add(self, episode: Episode, progress: float, *, ended: bool) -> None:
        """Draw the last step of an episode, if there has been no picture for long enough.

        Args:
            episode: that has made a step.
            progress: share of the budget used.
            ended: whether it was the last one, which is always drawn.
        """
        place, n_steps = self._place(progress), episode.run.steps_done
        if self._last is None:  # resumed; exact where the budget is epochs
            self._last = self._place(progress * (n_steps - 1) / n_steps)
        if place <= self._last and not ended:
            return
        self._last = place
        picture = draw_episode(episode, self._grid, self._observation)
        started = time.perf_counter()
        try:
            self._save(picture, n_steps)
        except OSError as error:
            if not self._warned:
                warnings.warn(
                    f"the video's picture of step {n_steps} cannot be written: "
                    f"{error.strerror}; the run continues, and the video goes without it",
                    stacklevel=2,
                )
            self._warned = True
        episode.exclude_evaluation(time.perf_counter() - started)

    def write(self) -> str:
        """Make the video of the pictures and remove them; what it holds, in words.

        Raises:
            OSError: if it cannot be written.
        """
        files = _files(self._folder)
        if not files:  # another process ended between the video and the result, or a full disk
            video = self._folder.video
            return f"{video} is complete." if video.exists() else "No picture could be written."
        shown = thinned(files)
        self._folder.write(self._folder.video, lambda path: _encode(path, [f for _, f in shown]))
        remove_frames(self._folder)
        first, last = shown[0][0], shown[-1][0]
        without = "" if first == 1 else f", as {self._before(first)}"
        return (
            f"{self._folder.video} shows steps {first:,} to {last:,} in {len(shown)} "
            f"pictures{without}."
        )

    def _place(self, progress: float) -> int:
        """The last picture that is due at this progress, by its number."""
        return math.floor(progress * self._n_frames + 1e-9)

    def _save(self, picture: Picture, step: int) -> None:
        from PIL import Image

        self._folder.frames.mkdir(exist_ok=True)
        with replacing(self._folder.frames / f"step-{step:09d}.jpg") as partial:
            Image.fromarray(picture).save(partial, "JPEG", quality=92)

    def _before(self, first: int) -> str:
        """Why the video begins with another step than the first, in words."""
        former = self._folder.former_videos
        if not former:
            return "there are no pictures of the steps before"
        return f"those before are in {' and '.join(map(str, former))}"


def remove_frames(folder: RunFolder) -> None:
    """Remove the pictures of a run that needs them no longer."""
    for _, file in _files(folder):
        file.unlink()
    with suppress(OSError):  # there is none, or a file of somebody else is in it
        folder.frames.rmdir()


def _files(folder: RunFolder) -> list[tuple[int, Path]]:
    """A run's pictures so far, and their steps, in order."""
    if not folder.frames.is_dir():
        return []
    names = ((_NAME.fullmatch(one.name), one) for one in folder.frames.iterdir())
    return sorted((int(match[1]), file) for match, file in names if match is not None)


def frames_of(n_epochs: int | None) -> int:
    """How many pictures a run has: a multiple of its epochs, if they are not too many."""
    if n_epochs is None or n_epochs > MAX_FRAMES:
        return MAX_FRAMES
    return MAX_FRAMES // n_epochs * n_epochs


def thinned(files: Sequence[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """As many pictures as a video may have, the first and the last one included.

    A run that was extended may have more.
    """
    if len(files) <= MAX_FRAMES:
        return list(files)
    places = np.linspace(0, len(files) - 1, MAX_FRAMES).round().astype(int)
    return [files[place] for place in places]


def _encode(path: Path, files: Sequence[Path]) -> None:
    """Write a video of pictures of the same size, of which the last one stays for a while."""
    from imageio_ffmpeg import write_frames
    from PIL import Image

    with Image.open(files[0]) as first:
        size = first.size
    writer = write_frames(
        str(path.absolute()), size, fps=FPS, codec=_CODEC, quality=None,
        output_params=[*_QUALITY, "-f", "mp4", "-movflags", "+faststart"],
    )  # fmt: skip
    writer.send(None)
    try:
        for file in files:
            with Image.open(file) as picture:
                pixels = picture.convert("RGB").tobytes()
            writer.send(pixels)
        for _ in range(FPS * _END_SECONDS):
            writer.send(pixels)
    finally:
        writer.close()
