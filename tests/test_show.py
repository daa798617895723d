"""`vit-patch show`: pictures of the patches that a run's agent keeps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import refused
from tests.test_load_run import trained
from vit_patch_env import load_run
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.use.show import kept_patches
from vit_patch_env.pictures.frame import WIDTH
from vit_patch_env.pictures.kept import KeptPatches, draw_kept


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), "--agent", "random")[0]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two pictures of the same name in folders, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    for index, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / "cat.jpg")
    return ["one/cat.jpg", "two/cat.jpg"]


def read(file):
    with Image.open(file) as picture:
        return np.array(picture)


@pytest.mark.long
def test_each_image_gets_a_picture_with_a_name_of_its_own(run, pictures, tmp_path, capsys):
    main(["show", str(run), *pictures, "--out", "drawn"])
    assert capsys.readouterr().out.endswith("Wrote 2 pictures to drawn.\n")
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == ["cat-2.png", "cat.png"]
    for file in files:
        assert read(file).shape[1] == WIDTH


def test_a_picture_has_the_agents_patches_and_both_predictions(run, pictures):
    loaded = load_run(run)
    shown = kept_patches(loaded, pictures[0], top=2)
    assert 0 < shown.patch_mask.sum() < loaded.n_patches
    assert shown.patch_mask.sum() == 8  # as n_patches_desired of the run
    batch = loaded.preprocess.batch([pictures[0]])
    keep = np.flatnonzero(shown.patch_mask)
    for chances, logits in (
        (shown.with_all, loaded.logits(batch)),
        (shown.with_kept, loaded.logits(batch, loaded.logits(batch).new_tensor(keep).long())),
    ):
        values, labels = logits[0].softmax(dim=0).topk(2)
        assert [name for name, _ in chances] == [loaded.classes[one] for one in labels.tolist()]
        assert [value for _, value in chances] == pytest.approx(values.tolist())


@pytest.mark.parametrize(
    ("shape", "grid"), [((3, 224, 224), (14, 14)), ((1, 8, 64), (1, 8)), ((3, 512, 16), (32, 1))]
)
def test_pictures_of_any_shape_are_as_wide(shape, grid):
    n_patches = grid[0] * grid[1]
    picture = draw_kept(
        KeptPatches(
            "a cat", np.full(shape, 90, dtype=np.uint8), np.arange(n_patches) < 3, grid,
            [("cat", 0.75), ("dog", float("nan"))], [("dog", 1.0)], None, "Nothing is observed",
        )
    )  # fmt: skip
    assert picture.shape[1:] == (WIDTH, 3)
    assert (picture[-8:] == 255).all()


def labels(kept):
    """The pixels below the titles and pictures, where the classes are: dark in each column."""
    picture = draw_kept(kept)
    return (picture[-40:].min(axis=2) < 128).any(axis=0)


def test_names_of_classes_are_beside_their_probabilities_below_a_narrow_picture():
    wide, narrow = (
        KeptPatches(
            "a cat", np.full((3, 64, width), 90, dtype=np.uint8), np.ones(8, dtype=bool),
            (8, 1), [("a long-haired cat", 0.75)], [("a long-haired cat", 0.5)], None, "none",
        )
        for width in (64, 8)
    )  # fmt: skip
    assert labels(narrow).tolist() == labels(wide).tolist()


def test_names_as_long_as_a_file_may_have_are_shown_or_refused_before_anything_is_written(
    run, pictures, tmp_path, capsys
):
    long = Path(pictures[0]).rename(tmp_path / ("é" * 125 + ".jpg"))
    main(["show", str(run), long.name, "--out", "drawn"])
    assert [file.name for file in (tmp_path / "drawn").iterdir()] == ["é" * 125 + ".png"]
    longer = long.rename(tmp_path / (255 * "b"))
    line = refused(capsys, "show", str(run), pictures[1], longer.name, "--out", "new")
    assert "IMAGE must have a name that leaves room for a picture's, of at most 255 bytes" in line
    assert "got bbb" in line
    assert line.strip().endswith(": 259 bytes")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_shown_is_refused_in_one_line(run, pictures, tmp_path, capsys):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "cat.png").write_text("mine")
    shown = ["show", str(run), pictures[0], "--out", "drawn"]
    assert "--out must be without cat.png, got drawn: add --overwrite" in refused(capsys, *shown)
    assert (tmp_path / "drawn" / "cat.png").read_text() == "mine"
    weights = str(run / "vit.safetensors")
    line = refused(capsys, "show", weights, pictures[0])
    assert "must be the folder of a run, which has an agent" in line
    (tmp_path / "no.png").write_text("no picture")
    assert "no.png" in refused(capsys, "show", str(run), "no.png")
    named_as_one = refused(capsys, "show", str(run), pictures[0], "--out", "cat.PNG")
    assert "--out must be a folder, which gets a picture of each image, got cat.PNG" in named_as_one
    assert not (tmp_path / "cat.PNG").exists()
    main([*shown, "--overwrite"])
    assert read(tmp_path / "drawn" / "cat.png").shape[1] == WIDTH
