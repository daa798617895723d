"""The `vit-patch` commands of pages, run one after the other on tiny runs and pictures."""

import shlex

import pytest
from PIL import Image

from tests.conftest import TINY_OPTIONS
from tests.test_documents import ROOT, run_blocks, shell_lines
from vit_patch_env.experiments.cli import main

RUN = {
    "using.md": pytest.param("using.md", marks=pytest.mark.long),
    "distil.md": pytest.param("distil.md"),
}
"""Pages whose commands are run here, the quick one in every `make test`."""

NOT_RUN = {
    "README.md": "it trains for minutes, and downloads weights",
    "agents.md": "tests of agents and of the zoo run these with tiny sizes",
    "clusters.md": "test_ray.py compares on a cluster with tiny sizes",
    "comparing.md": "test_compare.py runs the presets with tiny sizes",
    "environment.md": "test_video.py and test_show.py run these with tiny sizes",
    "fine-tuning.md": "it downloads weights",
    "gallery.md": "it draws the committed pictures, which take minutes",
    "gpu.md": "test_measure.py measures at the smallest sizes",
    "models.md": "test_library_runs.py trains models of libraries that are small",
    "own-data.md": "test_folder.py trains on a folder of tiny images",
    "planning.md": "test_plan.py plans tiny trainings",
    "runs-and-resuming.md": "test_resume.py and test_pretrain.py run these with tiny sizes",
    "start-images.md": "it downloads weights",
    "start-rl.md": "it trains and compares for minutes",
    "tasks.md": "test_task_set.py compares and learns on tiny tasks",
    "tuning.md": "test_tune.py runs searches with tiny sizes",
}
"""Other pages with such commands, which are only parsed (`test_documents.py`), and why."""


def commands(name):
    """The words after `vit-patch` in the commands of a page."""
    path = ROOT / name if name == "README.md" else ROOT / "docs" / name
    lines = map(shlex.split, shell_lines(*run_blocks(path, "sh")))
    return [words[1:] for words in lines if words[0] == "vit-patch"]


def shrunk(words):
    """The same command, of which a run takes a second."""
    if words[0] != "train":
        return words
    tiny = dict(zip(TINY_OPTIONS[::2], TINY_OPTIONS[1::2], strict=True))
    tiny |= {"--epochs": "1", "--train-fraction": "0.5"}
    added = [(name, value) for name, value in tiny.items() if name not in words]
    return [words[0], *(one for pair in added for one in pair), *words[1:]]


def test_every_page_with_commands_is_run_or_says_why_not():
    names = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {name for name in names if commands(name)} == RUN.keys() | NOT_RUN.keys()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of short runs
@pytest.mark.parametrize("name", RUN.values())
def test_the_commands_of_a_page_run_one_after_the_other(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "using.md":
        pytest.importorskip("onnxscript")
        make_hugging_face_vit(tmp_path / "vit")
        prepared = ["train", "--agent", "bandit", "--out", "runs/cats", "--model", "hf:./vit"]
        main([*prepared, *small_of_library()])
        (tmp_path / "holiday").mkdir()
        for path in ("cat.jpg", "holiday/a.jpg", "holiday/b.jpg"):
            Image.new("RGB", (40, 32)).save(path)
    for words in commands(name):
        main(shrunk(words))


def make_hugging_face_vit(folder):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)


def small_of_library():
    """Options of a short run of a model with sizes of its own."""
    kept = {"--dataset", "--image-size", "--patch-size", "--batch-size", "--device", "--precision"}
    pairs = zip(TINY_OPTIONS[::2], TINY_OPTIONS[1::2], strict=True)
    return ["--epochs", "1", *(one for pair in pairs if pair[0] in kept for one in pair)]
