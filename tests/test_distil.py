"""Smaller data sets of a run's images: what is kept, how it is written, and what is refused."""

import io
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.conftest import TINY_OPTIONS
from tests.wide_pictures import wide_pictures
from vit_patch_env import load_run
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.data.datasets import load_dataset
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.options.commands import DistilOptions
from vit_patch_env.experiments.use.distil import out_folder, writing
from vit_patch_env.experiments.use.distil.choosing import errors, highest, selector_of
from vit_patch_env.experiments.use.distil.class_folders import folder_names
from vit_patch_env.experiments.use.distil.distillation import Distillation
from vit_patch_env.experiments.use.distil.writing import blanked
from vit_patch_env.observation import make_observation

SHAPE = (16, 32)
GRID = (2, 4)


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory):
    """A run of a rule that keeps 3 of 8 patches, on pictures that are not square."""
    root = tmp_path_factory.mktemp("pictures")
    options = wide_pictures(root / "images", ("a cat", "dog.s"))
    options += ["--val-fraction", "0.3", "--batch-size", "20", "--agent", "attended"]
    out = root / "run"
    options += ["--n-patches-desired", "3", "--epochs", "1", "--out", str(out)]
    main(["train", *TINY_OPTIONS, *options])
    return out


def distilled(run, out, **options):
    """A finished distillation, whose images are still there."""
    command = Distillation(
        DistilOptions(run=str(run), folder=str(out), **options), Console(quiet=True)
    )
    command.prepare()
    command.run()
    return command


def read(folder, split="train", size=SHAPE):
    """Images of a split of what was written, and their places in the run's split."""
    paths = sorted((Path(folder) / split).rglob("*.png"), key=lambda path: path.name)
    pixels = [np.asarray(Image.open(path)) for path in paths]
    assert all(one.shape[:2] == size for one in pixels)
    images = torch.from_numpy(np.stack(pixels))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images, [int(path.stem) for path in paths]


def test_of_each_image_the_patches_that_the_agent_drops_have_the_mean_colour(of_pictures, tmp_path):
    command = distilled(of_pictures, tmp_path / "out")
    run, train = load_run(of_pictures), command.data.train
    images, places = read(tmp_path / "out")
    assert places == [*range(28)]
    colour = torch.tensor(command.colour).view(3, 1, 1)
    expected_colour = train.images[:].double().mean(dim=(0, 2, 3))
    assert torch.allclose(colour.flatten().double(), expected_colour, atol=0.5)
    kinds = set()
    for before, after in zip(train.images[:], images, strict=True):
        keep = run.select(run.normalize(before[None]))
        kinds.add(tuple(keep.tolist()))
        for patch in range(8):
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            there = (slice(None), slice(top, top + 8), slice(left, left + 8))
            expected = before[there] if patch in keep else colour.expand(3, 8, 8)
            assert torch.equal(after[there], expected.to(torch.uint8))
        logits = [run.logits(run.normalize(one[None]), keep) for one in (before, after)]
        assert torch.equal(*logits)
    assert len(kinds) > 1  # by its own observation


def test_the_folder_is_read_as_it_was_written(of_pictures, tmp_path, capsys):
    out = tmp_path / "out"
    main(["distil", str(of_pictures), str(out)])
    said = " ".join(capsys.readouterr().out.split())
    assert "28 training images, with 37.5% of the patches, 100.0% of the images and" in said
    assert said.endswith(f"--data-dir {out} --image-size 16 32 --patch-size 8")
    content = json.loads((out / "distil.json").read_text())
    assert content["by"] == "patches"
    assert content["kept"]["patches"] == {"share": 0.375, "of": 8}
    assert content["kept"]["images"] == {"share": 1.0, "of": 28}
    assert 0 < content["kept"]["bytes"]["share"] < 1
    assert content["classes"] == {"a cat": "a cat", "dog.s": "dog.s"}
    assert content["command"] == f"vit-patch distil {of_pictures} {out}"
    assert content["versions"]["vit-patch-env"]
    data = load_dataset("folder", data_dir=out, image_size=SHAPE)
    assert data.classes == ("a cat", "dog.s")
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [28, 12, 40]
    before = load_dataset(
        "folder", data_dir=of_pictures.parent / "images", image_size=SHAPE, val_fraction=0.3
    )
    for name in ("val", "test"):
        old, new = getattr(before, name), getattr(data, name)
        assert contents(old) == contents(new)


def contents(split):
    return {(*image.flatten().tolist(), int(label)) for image, label in zip(*split, strict=True)}


def test_of_each_class_the_images_with_the_largest_errors_are_kept(of_pictures, tmp_path):
    command = distilled(of_pictures, tmp_path / "out", by="images", share=0.3)
    train = command.data.train
    chosen = highest(command.scores(command.masks()), train.labels.numpy(), 0.3)
    images, places = read(tmp_path / "out")
    assert places == np.flatnonzero(chosen).tolist()
    assert torch.equal(images, train.images[torch.from_numpy(chosen)])
    assert np.bincount(train.labels[places]).tolist() == [4, 4]  # of 14 each
    kept = json.loads((tmp_path / "out" / "distil.json").read_text())["kept"]
    assert kept["images"]["share"] == pytest.approx(8 / 28)
    assert kept["patches"]["share"] == 1


def test_errors_are_distances_from_the_label_on_the_given_patches(of_pictures):
    run = load_run(of_pictures)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    masks = [np.ones(8, np.bool_)] * 3 + [np.arange(8) < 2]
    found = errors(run, images, labels, masks)
    expected = run.predict(images).probabilities - torch.eye(2)[labels]
    assert np.allclose(found[:3], expected[:3].norm(dim=1), atol=1e-5)
    logits = run.logits(run.normalize(images[3:]), torch.arange(2))
    assert found[3] == pytest.approx(2**0.5 * float(logits.softmax(dim=1)[0, 0]), abs=1e-5)


def test_images_are_measured_together_where_their_patches_are_alike(of_pictures, monkeypatch):
    run, calls = load_run(of_pictures), []
    original = run.logits
    monkeypatch.setattr(
        run, "logits", lambda *given: calls.append(len(given[0])) or original(*given)
    )
    images = torch.zeros(18, 3, *SHAPE, dtype=torch.uint8)
    masks = [np.arange(8) < 3, np.arange(8) > 3, np.ones(8, np.bool_)] * 6
    errors(run, images, torch.zeros(18, dtype=torch.int64), masks)
    assert calls == [6, 6, 6]


@pytest.mark.long
@pytest.mark.parametrize(
    "observation",
    [
        "attention_output", "attention_output:0", "attention_output:mean",
        "attention_standardized", "attention_received", "none",
    ],
)  # fmt: skip
def test_images_are_observed_together_as_one_by_one(of_pictures, observation):
    run = load_run(of_pictures)
    chosen = make_observation(observation)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((5, 3, *SHAPE), generator=generator)
    with torch.no_grad():
        together = chosen.each(run.model, images)
        one_by_one = torch.stack([chosen.function(run.model, one[None]) for one in images])
        assert torch.allclose(together, one_by_one, atol=1e-5)
        assert torch.equal(chosen._replace(of_each=None).each(run.model, images), one_by_one)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.long
def test_progress_is_shown_on_a_terminal_and_elsewhere_a_line_per_minute(
    of_pictures, tmp_path, monkeypatch
):
    said = {}
    for name, file in (("terminal", Terminal()), ("file", io.StringIO())):
        monkeypatch.setattr("vit_patch_env.experiments.runs.display.LINE_SECONDS", 0)
        console = Console(file=file, width=120, force_terminal=name == "terminal")
        command = Distillation(
            DistilOptions(run=str(of_pictures), folder=str(tmp_path / name), by="images"), console
        )
        command.prepare()
        command.run()
        said[name] = file.getvalue()
    assert "Writing test images" in said["terminal"]
    for phase in ("Observing images", "Picking patches of images", "Measuring errors"):
        assert f"{phase}: 28 of 28 images\n" in said["file"]
    assert "Wrote" in said["file"].splitlines()[-2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_one_line_and_leaves_nothing(
    of_pictures, tmp_path, capsys, monkeypatch, number
):
    original, calls = writing.png, []

    def png(image):
        calls.append(image)
        if len(calls) == 10:
            os.kill(os.getpid(), number)
        return original(image)

    monkeypatch.setattr(writing, "png", png)
    with pytest.raises(SystemExit) as stop:
        main(["distil", str(of_pictures), str(tmp_path / "out")])
    assert stop.value.code == 128 + number
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vit-patch: "), line
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1, [1, 1, 1, 1, 1]), (0.5, [0, 1, 0, 1, 1]), (0.01, [0, 1, 0, 0, 1])],
)
def test_the_highest_of_each_class_at_least_one(share, expected):
    scores, labels = np.array([0.1, 0.9, 0.3, 0.5, 0.0]), np.array([0, 0, 0, 0, 1])
    assert highest(scores, labels, share).astype(int).tolist() == expected


def test_blanked_patches_follow_the_grid():
    images = torch.zeros(1, 1, 4, 6, dtype=torch.uint8)
    masks = np.array([[True, False, True, False, True, True]])
    done = blanked(images, masks, (2, 3), torch.tensor([7], dtype=torch.uint8))
    assert done[0, 0].tolist() == [[0, 0, 7, 7, 0, 0]] * 2 + [[7, 7, 0, 0, 0, 0]] * 2


AGENTS = {
    "branching": ["branching"],
    "sac": ["sac", "--actions", "top_k", "--sb3", "buffer_size=64"],
    "paper": ["paper"],
    "bandit": ["bandit"],
    "pretrained": ["pretrained"],
    "counting": ["counting", "--observation", "none+run"],
    "schedule": ["quadratic"],
    "random": ["random"],
}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")  # of short runs
@pytest.mark.parametrize("agent", AGENTS)
def test_agents_that_rank_or_sample_keep_another_number(agent, tmp_path):
    out = tmp_path / "run"
    options = ["--agent", *AGENTS[agent], "--train-fraction", "0.3", "--epochs", "1"]
    main(["train", *TINY_OPTIONS, "--out", str(out), *options])
    command = distilled(out, tmp_path / "out", keep=5)
    masks = command.masks()
    assert {int(mask.sum()) for mask in masks} == {5}
    assert len({mask.tobytes() for mask in masks}) > 1 or agent in {"branching", "paper", "sac"}
    if agent in {"branching", "paper"}:
        policy = command.loaded.agent.policy
        q_values = torch.randn(3, 16 * policy.values_per_action)
        preferred = policy.preferences(q_values)
        limit = preferred.mean(dim=1, keepdim=True) if agent == "paper" else 0
        assert torch.equal(policy.greedy(q_values), preferred > limit)


def test_an_agent_that_keeps_everything_needs_a_number(of_pictures, tmp_path):
    run = load_run(of_pictures)
    with pytest.raises(ArgumentError, match=r"keep must be in \[1, 8\], got 9"):
        selector_of(run, "attended", "mask", 9)
    command = Distillation(
        DistilOptions(run=str(of_pictures), folder=str(tmp_path / "out"), keep=8),
        Console(quiet=True),
    )
    command.prepare()
    with pytest.raises(ArgumentError, match="keep must be given, or by images, for an agent that"):
        command.run()
    assert not [*tmp_path.iterdir()]


def test_an_agent_that_ranks_nothing_is_refused(of_pictures):
    run = load_run(of_pictures)
    run.agent.policy = object()
    with pytest.raises(ArgumentError, match=r"keep is for agents that rank or sample .* got ppo$"):
        selector_of(run, "ppo", "mask", 3)


@pytest.mark.long
@pytest.mark.parametrize("images", ["memory", "stream"])
def test_grey_images_stay_grey(images, tmp_path):
    out = tmp_path / "run"
    options = ["--dataset", "digits", "--images", images, "--image-size", "16", "--epochs", "1"]
    options += ["--patch-size", "4", "--agent", "random", "--train-fraction", "0.2"]
    main(["train", *TINY_OPTIONS, *options, "--out", str(out)])
    command = distilled(out, tmp_path / "out")
    assert isinstance(command.data.train.images, torch.Tensor) == (images == "memory")
    read_images, _ = read(tmp_path / "out", "test", (16, 16))
    assert torch.equal(read_images, command.data.test.images[:])
    changed, _ = read(tmp_path / "out", "train", (16, 16))
    kept = (changed == command.data.train.images[:]).float().mean()
    assert 0.5 < kept < 1  # 8 of 16 patches, and pixels that have the colour anyway


def test_class_names_become_names_of_folders():
    names = ["cat", "a/b", "..", ".x", "", "Cat", "a%2Fb", "\udcff", "\ud800", "x\n", "é" * 300]
    names += ["é" * 301, "__MACOSX", "end.", "日本"]
    found = folder_names(names)
    assert found[:6] == ["cat", "a%2Fb", "%2E%2E", "%2Ex", "%", "Cat%2"]
    assert found[6:10] == ["a%252Fb", "%FF", "%ED%A0%80", "x%0A"]
    assert found[12:] == ["%5F_MACOSX", "end%2E", "日本"]
    assert len({name.casefold() for name in found}) == len(names)
    assert all(0 < len(name.encode()) < 250 for name in found)


def test_a_data_set_with_such_classes_is_read_again(tmp_path):
    names = folder_names(["a/b", "..", "\udcff"])
    folders = writing.ClassFolders(tmp_path, names, 2)
    images = torch.arange(3 * 3 * 64).view(3, 3, 8, 8).to(torch.uint8)
    for split in ("train", "val", "test"):
        folders.write(split, images, torch.arange(3))
    data = load_dataset("folder", data_dir=tmp_path, image_size=8)
    assert set(data.classes) == set(names)
    assert [data.classes[label] for label in data.train.labels] != []


class Stop(KeyboardInterrupt):
    pass


@pytest.fixture
def stopping(monkeypatch):
    """Writing stops at the tenth image."""
    original, calls = writing.png, []

    def png(image):
        calls.append(image)
        if len(calls) == 10:
            raise Stop
        return original(image)

    monkeypatch.setattr(writing, "png", png)


@pytest.mark.long
@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_what_was_there(of_pictures, tmp_path, existing, request):
    out = tmp_path / "out"
    if existing:
        distilled(of_pictures, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    request.getfixturevalue("stopping")
    with pytest.raises(Stop):
        distilled(of_pictures, out, overwrite=True, by="images")
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before
    assert {*tmp_path.iterdir()} == ({out} if existing else set())


@pytest.mark.long
@pytest.mark.parametrize("moved", [False, True])
def test_what_a_killed_process_left_is_cleared(of_pictures, tmp_path, moved):
    out, beside = tmp_path / "out", tmp_path / ".out.distil"
    distilled(of_pictures, out)
    (beside / "new" / "train").mkdir(parents=True)
    if moved:  # killed between the two names
        out.rename(beside / "old")
    distilled(of_pictures, out, overwrite=True, by="images")
    assert json.loads((out / "distil.json").read_text())["by"] == "images"
    assert {*tmp_path.iterdir()} == {out}


def add_file(out):
    (out / "train" / "a cat" / "mine.png").touch()


def add_link(out):
    shutil.rmtree(out / "val")
    (out / "val").symlink_to(out / "test")


def damage(out):
    (out / "distil.json").write_text("{}")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("change", "overwrite", "said"),
    [
        (lambda out: None, False, r"FOLDER must be new, got .*/out: add --overwrite"),
        (add_file, True, r"got .*/out: it also holds train/a cat/mine.png"),
        (add_link, True, r"got .*/out: it also holds val"),
        (damage, True, r"out: damaged: expected by, run, kept in distil.json"),
        (shutil.rmtree, True, None),
        (lambda out: (out / "distil.json").unlink(), True, r"there is no distil.json in it"),
    ],
)
def test_only_what_was_distilled_is_replaced(
    of_pictures, tmp_path, capsys, change, overwrite, said
):
    out = tmp_path / "out"
    distilled(of_pictures, out)
    change(out)
    words = ["distil", str(of_pictures), str(out), "--by", "images"]
    words += ["--overwrite"] if overwrite else []
    if said is None:
        main(words)
        assert (out / "distil.json").exists()
        return
    left = {*out.rglob("*")}
    assert_refused(capsys, words, said)
    assert {*out.rglob("*")} == left


def assert_refused(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{root}/nothing", "{out}"], r"RUN must be the folder of a finished run, got .*nothing"),
        (["{run}/vit.safetensors", "{out}"], r"RUN must be the folder of a finished run, .*not a"),
        (["{run}"], r"vit-patch distil needs FOLDER: folder that the images are written to"),
        (["{run}", "{run}/config.json"], r"got .*config.json: it is no folder"),
        (["{run}", "{run}/config.json/x"], r"must be a folder, got .*config.json is not a folder"),
        (["{run}", "{out}", "--share", "0.5"], r"--share is for --by images, got 0.5 with patches"),
        (
            ["{run}", "{out}", "--by", "images", "--share", "0"],
            r"--share must be a number in \(0, 1\] or None, got 0",
        ),
        (["{run}", "{out}", "--by", "pixels"], r"--by must be one of patches, images, got"),
        (["{run}", "{out}", "--keep", "9"], r"--keep must be in \[1, 8\], got 9"),
        (["{run}", "{out}", "--data-dir", "{root}/none"], r"--data-dir must be a folder of images"),
        (
            ["{run}", "{out}", "--data-dir", "{root}/other"],
            r"expected the run's classes \['a cat',",
        ),
    ],
)
def test_bad_input_is_one_line(of_pictures, tmp_path, capsys, make_folder, words, said):
    make_folder(name="other")
    places = {"root": tmp_path, "out": tmp_path / "out", "run": of_pictures}
    assert_refused(capsys, ["distil", *(word.format(**places) for word in words)], said)
    assert not (tmp_path / "out").exists()


def test_a_split_without_a_class_is_one_line(of_pictures, tmp_path, monkeypatch):
    command = Distillation(
        DistilOptions(run=str(of_pictures), folder=str(tmp_path / "out")), Console(quiet=True)
    )
    command.prepare()
    data = command.data
    one_class = data.val._replace(labels=torch.zeros_like(data.val.labels))
    changed = type(data)(data.train, one_class, data.test, data.classes, flip=True)
    monkeypatch.setattr(
        "vit_patch_env.experiments.use.distil.distillation.load_dataset", lambda *_, **__: changed
    )
    with pytest.raises(InputError, match=r"expected validation images of every class.*of dog.s$"):
        command.prepare()


def test_a_folder_of_others_where_it_is_written_is_left_alone(tmp_path):
    (tmp_path / ".out.distil").mkdir()
    (tmp_path / ".out.distil" / "mine").touch()
    out = out_folder.OutFolder(str(tmp_path / "out"), overwrite=False)
    for _ in range(2):  # the lock is given back
        with pytest.raises(ArgumentError, match=r"is written in .*\.out\.distil, which holds mine"):
            out.writing().__enter__()
    assert (tmp_path / ".out.distil" / "mine").exists()


def test_two_processes_do_not_write_the_same_folder(of_pictures, tmp_path):
    out = out_folder.OutFolder(str(tmp_path / "out"), overwrite=False)
    other = out_folder.OutFolder(str(tmp_path / "out"), overwrite=False)
    with out.writing() as folder:
        (folder / "train").mkdir()
        with pytest.raises(ArgumentError, match="that no other process is using"):
            other.writing().__enter__()
    assert (tmp_path / "out" / "train").is_dir()
