"""The command line: its words, its output, and what it leaves of the process that calls it."""

import atexit
import gc
import io
import json
import random
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY_OPTIONS
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError, InputError, InputWarning, counted, named
from vit_patch_env.env import MANY_PATCHES
from vit_patch_env.experiments.cli import COMMANDS, main, parse
from vit_patch_env.experiments.options.names import on_command_line, option_name
from vit_patch_env.experiments.process.messages import error_message, show_warning
from vit_patch_env.experiments.process.streams import usable_streams
from vit_patch_env.experiments.run_folder.folder import write_json
from vit_patch_env.models.kernels import build
from vit_patch_env.reading import read_json
from vit_patch_env.system.starting import STOP_SIGNALS

FOREIGN = b"\xff".decode("utf-8", "surrogateescape")
"""A name of a file that is not UTF-8."""


def refused(capsys, *args):
    """The one line that bad words print, and nothing else."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    return line.removeprefix("vit-patch: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --lr 3", "--lr is not an option of vit-patch train; did you mean --learning-rate?"),
        ("train --epoch 3", "--epoch is not an option of vit-patch train; did you mean --epochs?"),
        ("train --bs=3", "--bs is not an option of vit-patch train; did you mean --batch-size?"),
        ("train --learning_rat 3", "did you mean --learning-rate?"),
        ("train --dqn.gama 3", "did you mean --dqn.gamma?"),
        ("train --xyzzy 3", "--xyzzy is not an option of vit-patch train"),
        ("train -e 3", "-e is not an option of vit-patch train; did you mean"),
        ("trian", "trian is not a command; did you mean train?"),
        ("fly", "fly is not a command: vit-patch must be followed by a command (train, evaluate,"),
        ("--epochs 3", "vit-patch must be followed by a command (train, evaluate,"),
        ("train --epochs", "--epochs needs a value, a number in (0, 10^9], got none"),
        (
            "train --epochs --dim 4",
            "--epochs needs a value, a number in (0, 10^9], got the option",
        ),
        ("evaluate", "vit-patch evaluate needs RUN: folder that `vit-patch train` wrote"),
        ("report --readme x", "vit-patch report needs FOLDER: folder that"),
        ("zoo", "vit-patch zoo needs SCRIPT: train, enjoy, record_video"),
        ("zoo fly", "SCRIPT must be one of train, enjoy, record_video, got 'fly'"),
        ("evaluate a b", "vit-patch evaluate does not take the word b"),
        ("train --agent-learns yes", "the word yes after --agent-learns, which takes no value"),
        ("train --agent-learns=yes", "--agent-learns takes no value, got --agent-learns=yes"),
        ("train --epochs 3 4", "vit-patch train does not take the word 4"),
    ],
)
def test_wrong_words_are_named_with_the_nearest_right_one(words, message, capsys):
    assert message in refused(capsys, *words.split())


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("train --learning_rate 3", "learning_rate", 3.0),
        ("train --alpha=0.5 --no-skip-corrupt", "alpha", 0.5),
        ("train --mean 0.5 0.25", "mean", (0.5, 0.25)),
        ("train --flip None", "flip", None),
        ("train --sb3 --alpha 1", "alpha", 1.0),
    ],
)
def test_right_words_are_parsed(words, name, value):
    assert getattr(parse(words.split()).env, name) == value


@pytest.mark.parametrize(
    ("args", "name"),
    [
        *((["train", option], option) for option in ("--out", "--resume", "--data-dir")),
        (["train", "--follow"], "--follow"),
        *(
            ([command, "--out"], "--out")
            for command in ("pretrain", "tune", "bench", "compare", "measure")
        ),
        (["report", "folder", "--readme"], "--readme"),
        (["report"], "FOLDER"),
        (["evaluate"], "RUN"),
    ],
)
def test_an_empty_path_is_refused(args, name, capsys):
    assert refused(capsys, *args, "").startswith(f"{name} must be a path")


def test_an_empty_data_dir_is_refused_in_python():
    with pytest.raises(ArgumentError, match="data_dir must be a path or None, got ''"):
        ViTPatchSelectEnv(data_dir="")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--resume", "/nope"], "--resume must be the folder of a run, got /nope: "
         "there is no such folder"),
        (["--resume", "{tmp}"], "there is no config.json in it"),
        (["--agent", "matched", "--follow", "/nope"], "--follow must be the folder of a finished "
         "run, got /nope: there is no such folder"),
        (["--agent", "ars"], "--agent must be an algorithm that gives callbacks the infos"),
        (["--agent", "ppo", "--sb3", "speed=1"], "--sb3 must be values of ppo"),
        (["--agent", "ppo", "--sb3", "batch_size=1"], "--sb3 values are refused by ppo"),
        (["--agent", "sac"], "--agent sac does not take MultiBinary"),
        (["--out", "{tmp}/file/run"], "--out must be a folder, got"),
        (["--out", "{tmp}/held"], "which holds config.json: choose another, resume it (--resume"),
        (["--dataset", "folder"], "--dataset 'folder' needs --data-dir, the folder of images"),
        (["--model", "evit", "--keep-rate", "2"], "--keep-rate must be in (0, 1], got 2"),
        (["--keep-rate", "0.5"], "got --model simple_vit"),
        (["--patch-size", "5"], "--image-size must be divisible by --patch-size, got --image-size "
         "32 and --patch-size 5"),
        (["--out", FOREIGN], r"--out must be text in UTF-8, got '\udcff'"),
    ],
)  # fmt: skip
def test_what_needs_no_images_is_refused_before_they_are_loaded(args, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "config.json").touch()
    line = refused(capsys, "train", *(word.format(tmp=tmp_path) for word in args))
    assert message in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", "/nope"], "RUN must be the folder of a finished run, got /nope: there is no "
         "such folder"),
        (["report", "/nope"], "FOLDER must be a folder that vit-patch compare wrote, got /nope: "
         "there is no such folder"),
        (["report", "{file}"], "it is not a folder"),
        (["pretrain", "--agent", "ppo", "--sb3", "speed=1"], "--sb3 must be values of ppo"),
        (["pretrain", "--out", "{file}/agent.zip"], "--out must be a folder, got"),
        (["bench", "--out", "{file}"], "--out must be a folder, got"),
        (["compare", "--out", "{file}"], "--out must be a folder, got"),
    ],
)  # fmt: skip
def test_all_commands_refuse_before_loading(args, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert message in refused(capsys, *(word.format(file=tmp_path / "file") for word in args))


def test_names_in_a_message_are_options_on_the_command_line_and_arguments_in_python():
    error = ArgumentError("image_size", f"must be divisible by {named('patch_size')}, got 5")
    assert str(error) == "image_size must be divisible by patch_size, got 5"
    assert error_message(error) == "--image-size must be divisible by --patch-size, got 5"
    of_group = ArgumentError("tau", f"must be {named('gamma')}").within("dqn")
    assert str(of_group) == "dqn.tau must be dqn.gamma"
    assert error_message(of_group) == "--dqn.tau must be --dqn.gamma"
    assert error_message(InputError(f"{named('reward')} x")) == "--reward x"


@pytest.mark.parametrize(
    ("argument", "typed"),
    [("run", "RUN"), ("n_keep", "n_keep"), ("env.mean", "--mean"), ("render_mode", "render_mode")],
)
def test_only_options_are_shown_as_options(argument, typed):
    assert option_name(argument) == typed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_known_by_the_name_of_its_argument(command):
    for typed, argument in on_command_line(COMMANDS[command][0]):
        name = typed.removeprefix("--").replace("-", "_")
        assert option_name(argument.name if typed.isupper() else name) == typed


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "epoch", "1 epoch"),
        (0, "epoch", "0 epochs"),
        (3136, "patch", "3,136 patches"),
        (2, "class", "2 classes"),
        (2, "file that is no image", "2 files that are no images"),
    ],
)
def test_counts_in_words(number, noun, words):
    assert counted(number, noun) == words


def test_pictures_of_many_patches_are_warned_of(capsys):
    with pytest.warns(InputWarning, match="images of 3,136 patches .* larger patch_size") as caught:
        ViTPatchSelectEnv(image_size=224, patch_size=4)
    show_warning(caught[0].message)
    assert "a larger --patch-size or a smaller --image-size" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ViTPatchSelectEnv(image_size=96, patch_size=4).n_patches == MANY_PATCHES


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_help_is_shown_in_every_encoding(command, encoding, monkeypatch):
    out = stream(encoding)
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert not stop.value.code
    assert "usage: vit-patch" in out.buffer.getvalue().decode(encoding)
    assert out.errors == "strict"  # as before


def test_a_character_that_an_encoding_lacks_is_escaped(monkeypatch):
    out = stream("ascii")
    monkeypatch.setattr("sys.stdout", out)
    with usable_streams():
        print("α", FOREIGN)
    assert out.buffer.getvalue() == rb"\u03b1 \udcff" + b"\n"


def test_closed_streams_are_no_error(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert not stop.value.code
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert (sys.stdout, sys.stderr) == (None, None)


class Closed(io.StringIO):
    """A pipe whose reader has ended, as `head` does."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        self.write("")


def test_help_to_a_reader_that_ends_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", Closed())
    main(["train", "--help"])
    assert capsys.readouterr().err == ""


def process():
    """What a command may change in its process."""
    return (
        warnings.showwarning, sys.argv, sys.stdout, sys.stderr, sys.unraisablehook,
        [signal.getsignal(number) for number in STOP_SIGNALS], random.getstate()[1][:9],
        np.random.get_state()[1][:9].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist()[:99], torch.get_num_threads(), build.is_enabled(),
    )  # fmt: skip


@pytest.mark.parametrize("args", [["train", "--agent", "random"], ["--help"], ["trian"]])
def test_main_leaves_the_process_as_it_was(args, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_enabled", False)
    monkeypatch.setattr("sys.argv", ["notebook"])
    torch.set_num_threads(1)
    before = process()
    more = [*TINY_OPTIONS, "--epochs", "1", "--out", str(tmp_path / "run")] if args[1:] else []
    with suppress(SystemExit):
        main([*args, *more])
    assert process() == before


def test_pretrain_gives_torchs_threads_back(tmp_path, two_threads):
    options = [*TINY_OPTIONS, "--epochs", "1", "--episodes", "1", "--observation", "none+run"]
    main(["pretrain", *options, "--out", str(tmp_path / "agent.zip")])
    assert torch.get_num_threads() == 2


def test_a_bug_is_not_shown_as_a_users_mistake(monkeypatch):
    def prepare(self):
        raise ValueError("zip() argument 2 is longer than argument 1")

    monkeypatch.setattr("vit_patch_env.experiments.runs.cache.CacheView.prepare", prepare)
    with pytest.raises(ValueError, match="zip"):
        main(["cache"])


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("lost", [False, True])
def test_a_signal_ends_a_command_in_one_line(number, lost, monkeypatch, capsys):
    """Also where a library turns the exception into another one."""

    def prepare(self):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            if lost:
                raise ImportError("numpy's C-extensions failed") from error
            raise

    handler = signal.signal(number, signal.default_int_handler)  # ignored in the background
    monkeypatch.setattr("vit_patch_env.experiments.runs.cache.CacheView.prepare", prepare)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["cache"])
    finally:
        signal.signal(number, handler)
    assert stop.value.code == 128 + number
    (line,) = capsys.readouterr().err.splitlines()
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert line == f"vit-patch: {said}"


def test_a_signal_whose_exception_is_lost_ends_a_command(monkeypatch, capsys):
    def prepare(self):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("vit_patch_env.experiments.runs.cache.CacheView.prepare", prepare)
    with pytest.raises(SystemExit) as stop:
        main(["cache"])
    assert stop.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr() == ("", "vit-patch: ended by SIGTERM\n")


def test_names_that_are_not_utf_8_are_kept_in_json(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"classes": [FOREIGN, "ä"]})
    assert read_json(path) == {"classes": [FOREIGN, "ä"]}
    assert json.loads(path.read_bytes().decode("utf-8"))["classes"][1] == "ä"


@pytest.mark.long
def test_classes_whose_names_are_not_utf_8_are_trained_and_evaluated(make_folder, tmp_path, capsys):
    root = make_folder(n_images=80)
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / FOREIGN)
    data = ["--dataset", "folder", "--data-dir", str(root), "--agent", "all", "--epochs", "1"]
    main(["train", *TINY_OPTIONS, *data, "--out", str(tmp_path / "run")])
    main(["evaluate", str(tmp_path / "run")])
    assert "2 classes" in capsys.readouterr().out


def test_a_foreign_folder_above_the_images_is_refused(make_folder, tmp_path, monkeypatch, capsys):
    make_folder(n_images=4).rename(tmp_path / FOREIGN)
    monkeypatch.chdir(tmp_path / FOREIGN)
    line = refused(capsys, "train", "--dataset", "folder", "--data-dir", ".", "--out", "run")
    assert line.startswith("--data-dir must be text in UTF-8, got ")
    assert not Path("run").exists()


def test_a_command_ends_without_a_last_garbage_collection(monkeypatch, capsys):
    """It takes more than two seconds with all that torch imports."""
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(sys, "argv", ["vit-patch", "--version"])
    main()
    assert at_exit == [gc.freeze]
    main(["--version"])  # within a process that goes on
    assert at_exit == [gc.freeze]
