"""Figures of the test images: files of runs, TensorBoard, and what evaluate shows."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY, TINY_OPTIONS
from tests.test_cli import refused, train
from vit_patch_env import ViTPatchSelectEnv, evaluate_agent
from vit_patch_env.agent_evaluation import predict_with_agent
from vit_patch_env.agents import FixedRule
from vit_patch_env.data.splits import ImageData, Split
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.figures.confusion import draw_confusion
from vit_patch_env.experiments.figures.display import show_figures
from vit_patch_env.experiments.figures.mistakes import draw_mistakes
from vit_patch_env.experiments.figures.numbers import Evaluations, figures
from vit_patch_env.experiments.figures.table import write_predictions
from vit_patch_env.experiments.run_folder.folder import FIGURE_FILES, checksum
from vit_patch_env.experiments.runs.train import Run
from vit_patch_env.training.evaluation import Evaluated, Metrics
from vit_patch_env.training.predictions import predictions
from vit_patch_env.training.schedule import learning_rate_factor

pytestmark = pytest.mark.draws_pictures

FOREIGN = "$x^2$ [red]\x1b[31m蚂蚁\n|"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def made_up(n, n_classes):
    """Made-up scores on images of all classes but the last."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, max(n_classes - 1, 1), n))
    scores = torch.from_numpy(rng.normal(size=(n, n_classes)))
    one = Evaluated(Metrics(1.0, 0.5, 0.5, 0.5, 0.5), predictions(scores, labels))
    return Evaluations(one, one, 4.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures") / "run"
    options = ("--agent", "random", "--schedule", "cosine", "--log-interval", "5", "--keep-best")
    return out, train(out, *options)


def test_result_json_has_the_figures_of_the_metrics(run):
    _, result = run
    for patches, found in result["figures"].items():
        metrics = result["test"][patches]
        n_images = np.array(found["n_images"])
        matrix = np.array(found["confusion"])
        assert (matrix.sum(axis=1) == n_images).all()
        assert np.trace(matrix) / n_images.sum() == pytest.approx(metrics["accuracy"])
        for name in ("precision", "recall", "f1"):
            assert np.mean(found[name]) == pytest.approx(metrics[name])
        assert 0 <= found["calibration_error"] <= 1
        assert found["top_5_accuracy"] is None


def test_lists_of_numbers_take_one_line(run):
    out, result = run
    lines = (out / "result.json").read_text().splitlines()
    row = ", ".join(map(str, result["figures"]["all_patches"]["confusion"][0]))
    assert any(line.strip().rstrip(",") == f"[{row}]" for line in lines)


def test_predictions_are_written_for_each_test_image(run):
    out, result = run
    rows = table(out / "predictions.csv")
    assert len(rows) == sum(result["figures"]["all_patches"]["n_images"])
    assert len({row["image"] for row in rows}) == len(rows)
    for column, patches in (("predicted", "all_patches"), ("agent_predicted", "agent_patches")):
        right = np.mean([row["class"] == row[column] for row in rows])
        assert right == pytest.approx(result["test"][patches]["accuracy"])
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


def test_figures_have_checksums_and_pictures_open(run):
    out, result = run
    for name in FIGURE_FILES:
        assert result["files"][name] == checksum(out / name)
    for name in ("confusion.png", "mistakes.png"):
        with Image.open(out / name) as picture:
            assert picture.format == "PNG"
            assert max(picture.size) <= 1500


def test_tensorboard_has_the_learning_rate_and_the_figures(run):
    out, result = run
    events = EventAccumulator(str(out))
    events.Reload()
    rates = {one.step: one.value for one in events.Scalars("vit/learning_rate")}
    expected = {
        step: 1e-3 * learning_rate_factor((step - 1) / 14, 1 / 14, 0.0, "cosine")
        for step in (5, 10, 14)
    }
    assert rates == pytest.approx(expected)
    (accuracy,) = events.Scalars("test/accuracy")
    assert accuracy.step == 14
    assert accuracy.value == pytest.approx(result["test"]["all_patches"]["accuracy"])
    for tag in ("test/confusion", "test/mistakes"):
        (picture,) = events.Images(tag)
        name = tag.removeprefix("test/") + ".png"
        logged = io.BytesIO(picture.encoded_image_string)
        with Image.open(logged) as shown, Image.open(out / name) as written:
            assert np.array_equal(np.asarray(shown), np.asarray(written))
    (classes,) = events.Tensors("test/classes/text_summary")
    text = classes.tensor_proto.string_val[0].decode()
    assert text.startswith("| class | images | precision | recall | F1 |\n")
    assert len(text.splitlines()) == 2 + len(result["classes"])


@pytest.mark.long
@pytest.mark.parametrize("missing", [FIGURE_FILES, ("mistakes.png",)])
def test_evaluate_writes_the_files_that_are_missing(run, missing, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    before = {name: (out / name).read_bytes() for name in FIGURE_FILES}
    for name in missing:
        (out / name).unlink()
    for name in set(FIGURE_FILES) - set(missing):
        (out / name).write_text("kept")
    main(["evaluate", str(out), "--weights", "best"])
    assert not (out / "mistakes.png").exists()  # they are figures of the weights at the end
    main(["evaluate", str(out)])
    assert f"Wrote {', '.join(missing)} to {out}" in capsys.readouterr().out
    for name in FIGURE_FILES:
        assert (out / name).read_bytes() == (before[name] if name in missing else b"kept")


@pytest.mark.long
def test_evaluate_writes_to_another_folder_only_with_consent(run, tmp_path, capsys):
    out, elsewhere = run[0], tmp_path / "new" / "figures"
    words = ["evaluate", str(out), "--out", str(elsewhere)]
    main(words)
    for name in FIGURE_FILES:
        assert (elsewhere / name).read_bytes() == (out / name).read_bytes()
    (elsewhere / "confusion.png").write_text("old")
    capsys.readouterr()
    line = refused(capsys, *words)
    assert f"--out must be a folder without predictions.csv, got {elsewhere}: choose" in line
    assert line.endswith("or add --overwrite")
    main([*words, "--overwrite"])
    assert (elsewhere / "confusion.png").read_bytes() == (out / "confusion.png").read_bytes()
    (tmp_path / "file").touch()
    line = refused(capsys, "evaluate", str(out), "--out", str(tmp_path / "file"))
    assert "--out must be a folder, got" in line


def test_evaluate_shows_metrics_of_a_folder_that_it_cannot_write_to(
    run, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    (out / "mistakes.png").unlink()

    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vit_patch_env.experiments.run_folder.folder.FileLock.acquire", fail)
    main(["evaluate", str(out)])
    shown = capsys.readouterr().out
    assert "mistakes.png not written: " in shown
    assert "Permission denied; --out names another folder" in shown
    assert "Test images" in shown
    assert not (out / "mistakes.png").exists()


@pytest.mark.long
def test_an_extended_run_keeps_the_figures_of_the_shorter_one(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    main(["train", "--resume", str(out), "--epochs", "3", "--extend"])
    for name in FIGURE_FILES:
        assert (out / "2_epochs" / name).read_bytes() == (run[0] / name).read_bytes()
        assert (out / name).read_bytes() != (run[0] / name).read_bytes()


def test_runs_of_comparisons_have_no_pictures(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    words = ["train", *TINY_OPTIONS, "--agent", "all", "--out", str(out), "--overwrite"]
    again = Run(parse(words), Console(quiet=True), pictures=False)
    again.prepare()
    assert not any((out / name).exists() for name in FIGURE_FILES)  # of the run before
    result = again.run()
    assert (out / "predictions.csv").is_file()
    assert not list(out.glob("*.png"))
    files = json.loads((out / "result.json").read_text())["files"]
    assert "predictions.csv" in files
    assert "confusion.png" not in files
    assert set(result["figures"]) == {"all_patches", "agent_patches"}


@pytest.mark.long
def test_a_diverged_run_has_figures_without_probabilities(tmp_path, capsys):
    out = tmp_path / "run"
    result = train(out, "--agent", "all", "--learning-rate", "1e30")
    assert result["diverged"]
    assert result["figures"]["all_patches"]["calibration_error"] is None
    assert {row["probability"] for row in table(out / "predictions.csv")} == {""}
    assert (out / "mistakes.png").is_file()
    assert "Calibration error (15 bins): - on all patches" in capsys.readouterr().out
    main(["evaluate", str(out)])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:1 of 42 images cannot be read and are skipped")
def test_one_test_image_and_a_class_without(make_folder, tmp_path, capsys):
    folder = make_folder()
    image, *others = sorted((folder / "test").rglob("*.png"))
    for path in others[:-1]:
        path.unlink()
    others[-1].write_bytes(b"no picture")  # the only dog
    out = tmp_path / "run"
    words = [*TINY_OPTIONS, "--dataset", "folder", "--image-size", "32", "--batch-size", "16"]
    words += ["--data-dir", str(folder), "--skip-corrupt"]
    main(["train", *words, "--agent", "all", "--out", str(out)])
    found = json.loads((out / "result.json").read_text())["figures"]["all_patches"]
    assert found["n_images"] == [1, 0]
    for name in ("precision", "recall", "f1"):
        assert found[name][0] in (0, 1)
        assert found[name][1] is None
    (row,) = table(out / "predictions.csv")
    assert row["image"] == str(image)
    assert row["class"] == "cat"
    main(["evaluate", str(out)])
    assert "│ dog   │      0 │         - │" in capsys.readouterr().out


def test_an_agents_predictions_are_those_of_its_metrics(tiny_env):
    tiny_env.reset(seed=0)
    agent = FixedRule("random", tiny_env, n_keep=4, seed=0)
    found = predict_with_agent(agent, tiny_env, "test").evaluated
    assert found.metrics == evaluate_agent(agent, tiny_env, "test")
    right = found.predictions.labels == found.predictions.predicted
    assert right.mean() == pytest.approx(found.metrics.accuracy)
    assert (found.predictions.labels == tiny_env.data.test.labels.numpy()).all()


@pytest.mark.parametrize(("n_classes", "all_classes"), [(2, False), (100, False), (100, True)])
def test_figures_fit_80_columns(n_classes, all_classes):
    names = [FOREIGN, *(f"a class with a long name, number {n}" for n in range(1, n_classes))]
    console = Console(file=io.StringIO(), width=80, record=True)
    show_figures(made_up(500, n_classes), names, console, all_classes=all_classes)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith("│")]
    n_shown = n_classes if n_classes == 2 or all_classes else 10
    n_pairs = 1 if n_classes == 2 else 5  # the other class has no images
    assert len(rows) == n_shown + n_pairs
    text = "\n".join(lines)
    assert ("The 5 worst and the 5 best of 100 classes by F1" in text) == (
        n_classes == 100 and not all_classes
    )
    assert ("Top-5 accuracy: " in text) == (n_classes > 10)
    assert "\x1b" not in text


@pytest.mark.long
@pytest.mark.parametrize("n_classes", [2, 10, 250])
def test_the_confusion_matrix_is_drawn_for_any_number_of_classes(n_classes):
    names = [f"{FOREIGN}{n}" for n in range(n_classes)]
    found = made_up(300, n_classes).all_patches.predictions
    picture = draw_confusion(found, names)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert max(picture.shape) < 2000
    assert (figures(found)["confusion"] is None) == (n_classes > 200)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 16), (2, 8, 8)])
def test_mistakes_are_drawn_with_their_pixels(shape):
    found = made_up(40, 4).all_patches.predictions
    colour = torch.tensor([200, 40, 120][: shape[0]], dtype=torch.uint8)
    split = Split(colour[None, :, None, None].expand(40, *shape), torch.from_numpy(found.labels))
    picture = draw_mistakes(split, found, [FOREIGN, "b", "c", "d"])
    expected = colour.tolist() if shape[0] == 3 else [int(colour.float().mean())] * 3
    near = (np.abs(picture.astype(int) - expected) <= 2).all(axis=2)
    assert near.mean() > 0.2


def test_no_mistakes_are_a_picture_that_says_so():
    labels = torch.arange(4)
    found = predictions(torch.eye(4), labels)
    picture = draw_mistakes(Split(torch.zeros(4, 1, 8, 8), labels), found, list("abcd"))
    assert picture.min() < 100  # the title
    console = Console(file=io.StringIO(), width=80)
    one = Evaluated(Metrics(0.0, 1.0, 1.0, 1.0, 1.0), found)
    show_figures(Evaluations(one, one, 4.0), list("abcd"), console)
    assert "No mistakes on all patches" in console.file.getvalue()


def test_names_are_escaped_in_predictions(tmp_path):
    path = tmp_path / "predictions.csv"
    name = "folder\udcff/a,b\x1b[31m\n.png"
    write_predictions(path, made_up(1, 2), [name], [FOREIGN, "b"])
    (row,) = table(path)
    assert row["image"] == r"folder\xff/a,b\x1b[31m\n.png"
    assert row["class"] == r"$x^2$ [red]\x1b[31m蚂蚁\n|"
    write_predictions(path, made_up(3, 2), [], ["a", "b"])
    assert [row["image"] for row in table(path)] == ["0", "1", "2"]


def test_numbers_of_test_images_are_those_of_the_data_set():
    from sklearn.datasets import load_digits

    env = ViTPatchSelectEnv(**TINY | {"dataset": "digits"})
    assert isinstance(env.data, ImageData)
    digits = load_digits()
    numbers = [int(name) for name in env.data.test_names]
    assert (digits.target[numbers] == env.data.test.labels.numpy()).all()
