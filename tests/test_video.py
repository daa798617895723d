import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused
from tests.test_resume import stopped
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.experiments import cli
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.video import (
    FPS,
    MAX_FRAMES,
    RunVideo,
    check_can_be_written,
    frames_of,
    thinned,
)
from vit_patch_env.pictures.frame import HEIGHT, WIDTH


def a_video(tmp_path, n_epochs=2, steps_done=0):
    tmp_path.mkdir(exist_ok=True)
    return RunVideo(
        RunFolder(tmp_path), n_epochs, grid=(4, 4), observation="none", steps_done=steps_done
    )


def steps_of(tmp_path):
    files = sorted((tmp_path / "frames").iterdir())
    return [int(file.stem.removeprefix("step-")) for file in files]


@pytest.mark.parametrize(
    ("n_epochs", "expected"), [(1, 270), (4, 268), (100, 200), (270, 270), (900, 270), (None, 270)]
)
def test_pictures_are_at_the_ends_of_epochs_if_they_are_not_too_many(n_epochs, expected):
    assert frames_of(n_epochs) == expected
    assert expected / FPS + 2 <= 30


def test_a_longer_run_is_thinned_and_keeps_its_ends():
    files = [(step, Path(str(step))) for step in range(1, 1001)]
    kept = thinned(files)
    assert len(kept) == MAX_FRAMES
    assert (kept[0], kept[-1]) == (files[0], files[-1])
    assert thinned(files[:5]) == files[:5]


class Drawn:
    """An episode of so many steps, which is not drawn."""

    def __init__(self, n_steps):
        self.run = type("Run", (), {"steps_done": n_steps})
        self.excluded = 0.0

    def exclude_evaluation(self, seconds):
        self.excluded += seconds


def add(video, steps, n_steps):
    for step in steps:
        video.add(Drawn(step), step / n_steps, ended=step == n_steps)


@pytest.fixture
def undrawn(monkeypatch):
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    monkeypatch.setattr("vit_patch_env.experiments.runs.video.draw_episode", lambda *args: picture)


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_a_resumed_run_has_the_pictures_of_one_that_was_not_interrupted(tmp_path):
    n_steps = 1000
    add(a_video(tmp_path / "whole"), range(1, n_steps + 1), n_steps)
    add(a_video(tmp_path / "parts"), range(1, 512), n_steps)
    assert steps_of(tmp_path / "parts")[-1] > 500
    add(a_video(tmp_path / "parts", steps_done=500), range(501, n_steps + 1), n_steps)
    whole = steps_of(tmp_path / "whole")
    assert steps_of(tmp_path / "parts") == whole
    assert len(whole) <= MAX_FRAMES + 1
    assert {1, 500, 1000} <= set(whole)


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_is_warned_of_once_and_the_run_continues(tmp_path, monkeypatch):
    video = a_video(tmp_path)
    monkeypatch.setattr(RunVideo, "_save", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.warns(UserWarning, match="picture of step 1 cannot be written: full") as warned:
        add(video, range(1, 11), 10)
    assert len(warned) == 1
    assert video.write() == "No picture could be written."


def test_without_ffmpeg_the_extra_is_named_before_anything_is_loaded(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "vit_patch_env.experiments.runs.video.find_spec",
        lambda name: None if name == "imageio_ffmpeg" else find(name),
    )
    with pytest.raises(ValueError, match=r"pip install 'vit-patch-env\[video\]', got none$"):
        check_can_be_written()
    monkeypatch.setattr(ViTPatchSelectEnv, "data", property(lambda self: pytest.fail("loaded")))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["train", "--video", "--out", str(tmp_path / "run")])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--video needs imageio-ffmpeg: pip install 'vit-patch-env[video]', got none" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo Unknown encoder >&2; echo more >&2; exit 8", "Unknown encoder"),
        ("exit 3", "status 3"),
    ],
)
def test_an_ffmpeg_without_the_encoder_is_refused_before_training(
    script, reason, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("imageio_ffmpeg")
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit 0\n{script}\n')
    ffmpeg.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(ffmpeg))
    line = refused(capsys, "train", *TINY_OPTIONS, "--video", "--out", str(tmp_path / "run"))
    assert f"--video needs an ffmpeg with the encoder libx264, got {ffmpeg}: " in line
    assert line.strip().endswith(reason)
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_does_not_exist_is_found_out(monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    check_can_be_written()
    monkeypatch.setattr("vit_patch_env.experiments.runs.video._CODEC", "libx999")
    with pytest.raises(ValueError, match=r"libx999, got .*: .*Unknown encoder 'libx999'$"):
        check_can_be_written()


@pytest.mark.long
@pytest.mark.usefixtures("undrawn", "flops_counted_once")
def test_a_run_that_is_resumed_without_a_video_keeps_no_pictures(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    out = stopped(tmp_path / "run", "--agent", "random", "--video")
    assert steps_of(out)
    (out / "frames" / "mine.txt").write_text("mine")
    cli.main(["train", "--resume", str(out), "--no-video"])
    assert [file.name for file in (out / "frames").iterdir()] == ["mine.txt"]
    assert not (out / "video.mp4").exists()


@pytest.mark.long
@pytest.mark.usefixtures("undrawn", "flops_counted_once")
def test_the_video_of_an_extended_run_is_kept_and_named_by_the_longer_runs(tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "run"
    words = ["--agent", "random", "--video", "--checkpoint-every", "5"]
    cli.main(["train", "--out", str(out), *TINY_OPTIONS, "--epochs", "1", *words])
    first = (out / "video.mp4").read_bytes()
    capsys.readouterr()
    cli.main(["train", "--resume", str(out), "--epochs", "2"])
    former = out / "1_epochs" / "video.mp4"
    assert former.read_bytes() == first
    assert (out / "video.mp4").exists()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"shows steps 6 to 14 in 9 pictures, as those before are in {former}." in shown
    cli.main(["train", "--resume", str(out), "--epochs", "3", "--no-video"])
    assert not (out / "video.mp4").exists()
    assert (out / "2_epochs" / "video.mp4").exists()


# Its reader leaves the pipes of the process that decodes to the garbage collector.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_train_writes_a_video_that_shows_every_epochs_end(tmp_path, capsys):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "run"
    cli.main(["train", "--agent", "random", "--video", "--out", str(out), *TINY_OPTIONS])
    assert not (out / "frames").exists()
    n_steps = len((out / "steps.csv").read_text().splitlines()) - 1
    assert f"video.mp4 shows steps 1 to {n_steps} in {n_steps} pictures." in " ".join(
        capsys.readouterr().out.split()
    )
    frames = imageio_ffmpeg.read_frames(str(out / "video.mp4"))
    assert next(frames)["size"] == (WIDTH, HEIGHT)
    pictures = [np.frombuffer(one, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3) for one in frames]
    assert len(pictures) == n_steps + 2 * FPS
    # The bar of the budget used, which is full at the end.
    blue = [(picture[46, 16:-16, 0] < 100).mean() for picture in pictures]
    assert blue == sorted(blue)
    assert blue[-1] > 0.98


def test_overwriting_a_run_removes_its_video_and_pictures(tmp_path):
    folder = RunFolder(tmp_path)
    folder.frames.mkdir()
    (folder.frames / "step-000000001.jpg").write_bytes(b"x")
    folder.video.write_bytes(b"x")
    folder.create(TrainOptions(), None)
    assert not folder.frames.exists()
    assert not folder.video.exists()
