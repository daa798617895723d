"""`vit-patch predict`, and models whose code only a run's files name."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import TINY, TINY_OPTIONS
from tests.test_cli import refused
from tests.test_load_run import trained
from vit_patch_env import ViTPatchSelectEnv, load_run
from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.experiments.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return trained(folder, "--agent", "random", "--mean", "0.3", "0.3", "0.4", "--interpolation",
                   "bicubic")[0]  # fmt: skip


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Pictures in a folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "animals" / "more").mkdir(parents=True)
    for index, name in enumerate(("b.png", "a.jpg", "more/[red]c.png")):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "animals" / name)
    (tmp_path / "animals" / "notes.txt").write_text("no picture")
    return ["animals/a.jpg", "animals/b.png", "animals/more/[red]c.png"]


def test_classes_are_printed_as_json_alone(run, pictures, capsys):
    main(["predict", str(run), "animals", "animals/b.png", "--json", "--top", "3"])
    printed = capsys.readouterr()
    assert not printed.err
    found = json.loads(printed.out)
    assert (found["run"], found["patches"]) == (str(run), "all")
    assert [one["image"] for one in found["images"]] == [*pictures, "animals/b.png"]
    made = load_run(run).predict([*pictures, "animals/b.png"])
    for one, probabilities in zip(found["images"], made.probabilities, strict=True):
        assert len(one["classes"]) == 3
        values, labels = probabilities.topk(3)
        assert [each["probability"] for each in one["classes"]] == pytest.approx(values.tolist())
        names = [load_run(run).classes[label] for label in labels.tolist()]
        assert [each["class"] for each in one["classes"]] == names


@pytest.mark.parametrize("patches", ["all", "agent"])
def test_classes_are_printed_as_a_table(patches, run, pictures, capsys):
    main(["predict", str(run), *pictures, "--patches", patches, "--top", "9", "--batch-size", "2"])
    shown = capsys.readouterr().out
    whose = {"all": "all patches", "agent": "the agent's patches"}[patches]
    assert shown.startswith(f"3 images, predicted on {whose}")
    assert all(name in shown for name in pictures)
    assert shown.count("%") == 3 * 4  # there are four classes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "vit-patch predict needs IMAGE: pictures, or folders of them"),
        (["nothing.png"], "IMAGE must be a picture or a folder of them, got nothing.png: there is"),
        (["empty"], "IMAGE must be a folder of pictures, got empty without any"),
        (["animals/notes.txt"], "expected a readable image, got animals/notes.txt: not a picture"),
        (["animals", "--top", "0"], "--top must be in [1, 10^9], got 0"),
        (["animals", "--model", "vit"], "--model must be that of the run, simple_vit, got 'vit'"),
        (["animals", "--weights", "best"], "--weights must be newest for a run without vit_best."),
    ],
)
def test_bad_input_is_one_line(words, said, run, pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert said in refused(capsys, "predict", str(run), *words)
    assert not capsys.readouterr().out


def test_the_agent_of_a_file_of_weights_is_refused(run, pictures, capsys):
    words = [str(run / "vit.safetensors"), "animals", "--patches", "agent"]
    line = refused(capsys, "predict", *words)
    assert "the folder of a run, whose agent picks patches, got a file of weights" in line


def test_damaged_weights_are_refused(run, pictures, tmp_path, capsys):
    damaged = shutil.copytree(run, tmp_path / "damaged")
    content = bytearray((damaged / "vit.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "vit.safetensors").write_bytes(content)
    assert "vit.safetensors" in refused(capsys, "predict", str(damaged), "animals")
    (damaged / "result.json").unlink()
    line = refused(capsys, "predict", str(damaged), "animals")
    assert f"RUN must be the folder of a finished run, got {damaged}: there is no" in line


MODULE = """
import vit_patch_env
print("imported")
def make(n_classes, channels):
    return vit_patch_env.SimpleViT(
        image_size=32, patch_size=8, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=16,
        n_classes=n_classes, channels=channels,
    )
"""


@pytest.fixture
def of_module(tmp_path, monkeypatch, capsys):
    """A run of a model that is a function in a module, and the module's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_vits.py").write_text(MODULE)
    main(["train", *TINY_OPTIONS, "--model", "own_vits:make", "--agent", "random", "--epochs", "1",
          "--out", "run"])  # fmt: skip
    monkeypatch.delitem(sys.modules, "own_vits")
    capsys.readouterr()
    return "own_vits:make"


def test_code_that_only_a_file_names_is_not_imported(of_module, capsys):
    Image.new("RGB", (32, 32)).save("black.png")
    for words in (
        ["evaluate", "run"], ["predict", "run", "black.png"], ["export", "run", "--out", "a.onnx"],
        ["predict", "run/vit.safetensors", "black.png"],
    ):  # fmt: skip
        line = refused(capsys, *words)
        assert "--model must be given, as that of the run is 'own_vits:make', code that" in line
    assert "own_vits" not in sys.modules
    main(["evaluate", "run", "--model", of_module])
    shown = capsys.readouterr().out
    result = json.loads(Path("run/result.json").read_text())
    assert f"{result['test']['all_patches']['loss']:.4f}" in shown
    main(["predict", "run", "black.png", "--model", of_module])
    main(["export", "run", "--model", of_module, "--out", "a.safetensors"])
    made = load_run("run", model=sys.modules["own_vits"].make).predict("black.png")
    assert made.logits.equal(load_run("run", model=of_module).predict("black.png").logits)


def without_card(run, folder):
    """The run as a version without cards wrote it."""
    older = shutil.copytree(run, folder / "older")
    save_file(load_file(older / "vit.safetensors"), older / "vit.safetensors")
    result = json.loads((older / "result.json").read_text())
    del result["files"]["vit.safetensors"]
    (older / "result.json").write_text(json.dumps(result))
    return older, result


@pytest.mark.filterwarnings("ignore:.*is of an older version, without a checksum:UserWarning")
def test_an_older_run_is_used_by_its_other_files(run, tmp_path, capsys):
    older, result = without_card(run, tmp_path)
    image = np.zeros((32, 32, 3), np.uint8)
    made, expected = (load_run(one).predict(image).logits for one in (older, run))
    assert made.allclose(expected, atol=1e-4)
    main(["evaluate", str(older)])
    assert f"{result['test']['all_patches']['loss']:.4f}" in capsys.readouterr().out
    with pytest.raises(InputError, match="expected weights with a card, as train writes them"):
        load_run(older / "vit.safetensors")
    del result["normalize_mean"]
    (older / "result.json").write_text(json.dumps(result))
    with pytest.raises(
        InputError, match=r"expected a card in .* or normalize_mean in result\.json"
    ):
        load_run(older)


def test_training_from_a_run_s_file_prepares_images_as_its_card_says(run, tmp_path):
    moved = shutil.copy(run / "vit.safetensors", tmp_path / "elsewhere.safetensors")
    config = ViTPatchSelectEnv(**TINY, weights=moved).config
    card = load_run(moved).card
    assert (config.mean, config.std, config.interpolation) == (card.mean, card.std, "bicubic")
    assert card.mean == (0.3, 0.3, 0.4)


def test_a_run_of_another_device_than_there_is_needs_one(run):
    with pytest.raises(ArgumentError, match="device"):
        load_run(run, device="tpu")
