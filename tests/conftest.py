import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vit_patch_env import ViTPatchSelectEnv, episode_factory
from vit_patch_env.config import EnvConfig
from vit_patch_env.data import datasets, decoding
from vit_patch_env.data.splits import ImageData
from vit_patch_env.episode_factory import EpisodeFactory
from vit_patch_env.experiments.figures import files as figure_files
from vit_patch_env.experiments.process.forkserver import preloading_context
from vit_patch_env.experiments.runs import monitor
from vit_patch_env.names import DatasetName
from vit_patch_env.training import flops, stopwatch
from vit_patch_env.training import run as training_run
from vit_patch_env.training.flop_meter import Work
from vit_patch_env.training.flops import ReferenceCost

TINY: dict[str, Any] = {
    "dataset": "synthetic",
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "dim_head": 8,
    "mlp_dim": 16,
    "patch_size": 8,
    "n_patches_desired": 8,
    "batch_size": 64,
    "epochs": 2,
    "device": "cpu",
    "precision": "fp32",
}
"""A ViT of 16 patches that trains in milliseconds: 7 steps per epoch."""

OBSERVED = [
    f"{name}{run}"
    for run in ("", "+run")
    for name in (
        "attention_output", "attention_standardized", "attention_received", "none",
        "attention_output:mean",
    )
]  # fmt: skip
"""Observations of all kinds that models without a class token have."""

TINY_OPTIONS = [
    text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", str(value))
]


SIZES = (
    "dataset", "data_dir", "image_size", "patch_size", "dim", "depth", "heads", "dim_head",
    "mlp_dim", "model", "keep_rate", "batch_size", "observation", "observe_images", "freeze",
)  # fmt: skip
"""What the FLOPs of an environment's steps depend on."""

COUNTED: dict[tuple[Any, ...], dict[Work, int]] = {}

COUNTED_REFERENCES: dict[tuple[Any, ...], dict[int | None, int]] = {}


def pytest_configure() -> None:
    """One thread: tiny networks gain nothing from more, which wait for each other.

    Processes that tests start import compiled code where it can be saved, and those that are forked
    have imported it before: a server that another test has started without it would remain.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    torch.set_num_threads(1)
    preloading_context()


def pytest_collection_finish() -> None:
    """Garbage collection leaves aside what was imported, which takes 0.4 s each time."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before those that are left out are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that are marked `one_in(n)`, the first and each nth case after it is not long."""
    n_before: Counter[str] = Counter()
    for item in items:
        marker, name = item.get_closest_marker("one_in"), item.nodeid.partition("[")[0]
        if marker is not None and item.get_closest_marker("long") is None:
            if n_before[name] % marker.args[0]:
                item.add_marker(pytest.mark.long)
            n_before[name] += 1


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs CUDA where there is none."""
    if item.get_closest_marker("cuda") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """For what can go wrong only with several threads, which are running from here on."""
    torch.set_num_threads(2)
    torch.ones(10**6).sum()
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def images_made_once() -> Iterator[None]:
    """Environments get copies of images that take longer to prepare than tiny runs."""
    load, load_once = episode_factory.load_dataset, cache(episode_factory.load_dataset)

    def copied(name: DatasetName, **options: Any) -> ImageData:
        if name in ("synthetic", "digits"):
            return deepcopy(load_once(name, **options))
        return load(name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episode_factory, "load_dataset", copied)
        patch.setitem(datasets._LOADERS, "synthetic", cache(datasets._LOADERS["synthetic"]))
        yield


@pytest.fixture(autouse=True)
def pictures_left_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write a pixel for each of their pictures, which take longer to draw than tiny runs.

    Those of tests that are marked `draws_pictures` are drawn.
    """
    if request.node.get_closest_marker("draws_pictures") is None:
        pixel = np.zeros((1, 1, 3), np.uint8)
        for module, name in (
            (figure_files, "draw_confusion"),
            (figure_files, "draw_mistakes"),
            (monitor, "draw_episode"),
        ):
            monkeypatch.setattr(module, name, lambda *args: pixel)


@pytest.fixture(autouse=True)
def flops_counted_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments of the same sizes share counts of FLOPs, as an environment's episodes do.

    Counting takes longer than tiny runs. It is done anew in tests that are marked `counts_flops`.
    """
    if request.node.get_closest_marker("counts_flops") is None:
        monkeypatch.setattr(EpisodeFactory, "__init__", _init)
        monkeypatch.setattr(EpisodeFactory, "_reference_cost", property(_reference_cost))


_init_factory = EpisodeFactory.__init__
_make_reference_cost: Callable[[EpisodeFactory], ReferenceCost] = vars(EpisodeFactory)[
    "_reference_cost"
].fget


def _init(self: EpisodeFactory, config: EnvConfig) -> None:
    _init_factory(self, config)
    if isinstance(config.dataset, str):
        key = tuple(getattr(config, name) for name in SIZES)
        self._known_flops = COUNTED.setdefault(key, {})
        self._known_references = COUNTED_REFERENCES.setdefault(key, {})


def _reference_cost(self: EpisodeFactory) -> ReferenceCost:
    cost = _make_reference_cost(self)
    cost._known = getattr(self, "_known_references", cost._known)
    return cost


@pytest.fixture(autouse=True)
def flops_counted_quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs of tiny models are counted on zeros, which takes a tenth of the time of shapes.

    On shapes each operation is one in Python. It is done so in tests marked `counts_on_shapes`.
    """
    if request.node.get_closest_marker("counts_on_shapes") is None:
        monkeypatch.setattr(flops, "_counted", _counted_on_zeros)


_counted = flops._counted


def _counted_on_zeros(
    function: Callable[[Any, Tensor], Any], model: nn.Module, images: Tensor
) -> int:
    if images.is_meta and images.numel() < 10**6:
        model = deepcopy(model).to_empty(device="cpu")
        for tensor in chain(model.parameters(), model.buffers()):
            tensor.data.zero_()
        images = torch.zeros_like(images, device="cpu")
    return _counted(function, model, images)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels, which take seconds each, for all tests and pytest-xdist's processes."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp("kernels")
    kernels = tmp_path_factory.getbasetemp().parent / "kernels"
    kernels.mkdir(exist_ok=True)
    return kernels


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kernels: Path
) -> Iterator[Path]:
    """Nothing is read from or written to the user's cache."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    own = root / "vit-patch-env"
    (own / "kernels").mkdir(mode=0o700, parents=True)
    for kernel in kernels.iterdir():
        os.link(kernel, own / "kernels" / kernel.name)
    yield own
    for kernel in own.glob("kernels/cpu_attention-*.so"):
        with suppress(FileExistsError):
            os.link(kernel, kernels / kernel.name)


@pytest.fixture
def tiny_env() -> ViTPatchSelectEnv:
    return ViTPatchSelectEnv(**TINY)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str = "images",
        splits: tuple[str, ...] = ("train", "test"),
        classes: tuple[str, ...] = ("cat", "dog"),
        n_images: int = 20,
        size: tuple[int, int] = (12, 12),
    ) -> Path:
        rng = np.random.default_rng(0)
        for split in splits:
            for label, class_name in enumerate(classes):
                folder = tmp_path / name / split / class_name
                folder.mkdir(parents=True)
                for index in range(n_images):
                    pixels = rng.integers(0, 56, (*size, 3), dtype=np.uint8) + np.uint8(100 * label)
                    Image.fromarray(pixels).save(folder / f"{index:03}.png")
        return tmp_path / name

    return make


class Clock:
    """A clock that is advanced explicitly, and by `tick` seconds whenever it is read."""

    now = 1000.0
    tick = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that runs measure their time by."""
    clock = Clock()
    for module in (training_run, stopwatch):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    return clock


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str | bytes]:
    """What is decoded from here on: the paths of files, or their contents."""
    pictures = []
    read = decoding.read_picture

    def record(content: str | bytes, *args: Any) -> Any:
        pictures.append(content)
        return read(content, *args)

    monkeypatch.setattr(decoding, "read_picture", record)
    return pictures
