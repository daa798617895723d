"""`vit-patch export`: what is written runs in other programs as the ViT does here."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused
from tests.test_load_run import assert_same_metrics, trained
from tests.weighted_vits import Library
from vit_patch_env import load_run
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.use import export, formats
from vit_patch_env.models.weights.card import KEY, parse_card, read_card

TOLERANCE = 1e-4

SUFFIXES = {"timm": ".safetensors", "torchvision": ".pth", "hf": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose images are not square."""
    folder = tmp_path_factory.mktemp("runs")
    return trained(folder, "--image-size", "32", "48", "--agent", "random")[0]


def images_of(loaded, n_images=3):
    return loaded.normalize(torch.randint(0, 256, (n_images, 3, *loaded.card.image_size)))


def logits_of(loaded, images):
    with torch.no_grad():
        return loaded.model(images)


def safetensors_logits(path):
    return load_run(path, device="cpu").model, read_card(path)


def torch_export_logits(path):
    files = {formats.CARD_FILE: ""}
    program = torch.export.load(path, extra_files=files)
    return program.module(), parse_card(files[formats.CARD_FILE])


def onnx_logits(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path))
    card = parse_card(session.get_modelmeta().custom_metadata_map[KEY])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), card


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("name", "suffix", "read"),
    [
        ("safetensors", "safetensors", safetensors_logits),
        ("torch-export", "pt2", torch_export_logits),
        ("onnx", "onnx", onnx_logits),
    ],
)
def test_what_is_exported_gives_the_vits_logits_and_its_card(
    name, suffix, read, run, tmp_path, capsys
):
    if name == "onnx":
        pytest.importorskip("onnxscript")
    out = tmp_path / "new" / f"vit.{suffix}"
    main(["export", str(run), "--format", name, "--out", str(out)])
    assert capsys.readouterr().out.startswith(f"Wrote {out}; its logits of 3 images differ")
    assert list(out.parent.iterdir()) == [out]
    loaded = load_run(run, device="cpu")
    compute, card = read(out)
    assert card == loaded.card
    for n_images in (1, 5):
        images = images_of(loaded, n_images)
        with torch.no_grad():
            assert (compute(images) - logits_of(loaded, images)).abs().max() < TOLERANCE


@pytest.fixture(scope="module", params=["hf", "torchvision", "timm"])
def of_library(request, tmp_path_factory):
    """A run of a library's model, of which nothing else is left."""
    with pytest.MonkeyPatch.context() as patch:
        yield library_run(request.param, tmp_path_factory.mktemp("library"), patch)


def library_run(family, tmp_path, patch):
    library = Library(family, tmp_path, patch)
    options = ["--model", library.name, "--image-size", "64", "--agent", "attended"]
    sizes = {"--dim", "--depth", "--heads", "--dim-head", "--mlp-dim", "--patch-size"}
    tiny = [
        word for name, value in zip(TINY_OPTIONS[::2], TINY_OPTIONS[1::2], strict=True)
        if name not in sizes for word in (name, value)
    ]  # fmt: skip
    out = tmp_path / "run"
    main(["train", *tiny, *options, "--observation", "class_attention", "--epochs", "1",
          "--out", str(out)])  # fmt: skip
    library.file.unlink()
    shutil.rmtree(tmp_path / "deit", ignore_errors=True)
    return family, out, library


@pytest.mark.one_in(4)
def test_a_library_s_run_is_exported_to_files_that_it_loads(of_library, tmp_path, capsys):
    family, out, library = of_library
    loaded = load_run(out, device="cpu")
    images = images_of(loaded)
    path = tmp_path / f"exported{SUFFIXES[family]}"
    main(["export", str(out), "--format", "library", "--out", str(path)])
    if family == "timm":
        import timm

        model = timm.create_model(library.name.removeprefix("timm:"), num_classes=4, img_size=64)
        timm.models.load_checkpoint(model, str(path))
    elif family == "torchvision":
        from torchvision.models import get_model

        model = get_model("vit_tiny_test", image_size=64)
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        from transformers import AutoModelForImageClassification

        plain = AutoModelForImageClassification.from_pretrained(path)
        model = plain
        assert plain.config.id2label == dict(enumerate(loaded.classes))
    with torch.no_grad():
        made = model.eval()(images)
    made = made if isinstance(made, torch.Tensor) else made.logits
    assert (made - logits_of(loaded, images)).abs().max() < TOLERANCE
    if family == "hf":
        assert_pipeline_predicts_the_same(path, loaded, tmp_path)
        capsys.readouterr()
        assert "must be new, got" in refused(
            capsys, "export", str(out), "--format", "library", "--out", str(path)
        )
        main(["export", str(out), "--format", "library", "--out", str(path), "--overwrite"])


def assert_pipeline_predicts_the_same(path, loaded, tmp_path):
    from transformers import AutoImageProcessor, pipeline

    picture = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    values = AutoImageProcessor.from_pretrained(path)(Image.open(picture), return_tensors="pt")
    assert torch.allclose(values["pixel_values"][0], loaded.preprocess(picture), atol=1e-5)
    found = pipeline("image-classification", model=str(path))(str(picture), top_k=1)
    made = loaded.predict(picture)
    assert found[0]["label"] == made.classes[0]
    assert found[0]["score"] == pytest.approx(float(made.probabilities.max()), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--out must be given, the path to write to, got None"),
        (["--out", "vit.onnx"], "--out must end in .safetensors for this format, got vit.onnx"),
        (["--out", "old.safetensors"], "--out must be new, got old.safetensors: add --overwrite"),
        (["--out", "dir.safetensors", "--overwrite"], "--out must be what can be replaced, got di"),
        (["--out", "text/vit.safetensors"], "--out must be a folder, got text: text is not a fo"),
        (["--format", "library", "--out", "a"], "--format library is for models of hf, timm,"),
        (["--format", "onnx", "--out", "a.onnx"], "the extra onnx, pip install 'vit-patch-env[on"),
        (["--model", "vit", "--out", "a.safetensors"], "--model must be that of the run, simple"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line(words, said, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    (tmp_path / "dir.safetensors").mkdir()
    for name in ("old.safetensors", "text"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.iterdir())
    assert said in refused(capsys, "export", str(run), *words)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.safetensors").read_text() == "mine"


@pytest.mark.long
def test_a_model_that_cannot_be_exported_is_one_line(tmp_path, capsys):
    out, _ = trained(tmp_path, "--model", "ats_vit", "--agent", "random")
    capsys.readouterr()
    words = ["--format", "torch-export", "--out", str(tmp_path / "a.pt2")]
    line = refused(capsys, "export", str(out), *words)
    assert "--format must be one that ats_vit can be exported to, got torch-export: Could" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_file_that_computes_something_else_is_not_kept(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    line = refused(capsys, "export", str(run), "--out", str(tmp_path / "a.safetensors"))
    assert "expected logits as the ViT's from safetensors, got a difference of" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.one_in(3)
def test_a_library_s_run_is_used_without_anything_else(of_library, tmp_path):
    _, out, library = of_library
    result = json.loads((out / "result.json").read_text())
    from vit_patch_env.data.datasets import load_dataset

    test = load_dataset("synthetic", image_size=64).test
    assert_same_metrics(load_run(shutil.copytree(out, tmp_path / "moved")), test, result)
    main(["evaluate", str(tmp_path / "moved")])
    alone = load_run(tmp_path / "moved" / "vit.safetensors")
    assert alone.card.model == library.name
    assert len(alone.predict(test.images[:3]).classes) == 3
