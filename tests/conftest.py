import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vit_patch_env import ViTPatchSelectEnv

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

TINY_OPTIONS = [
    text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels, which take seconds each, for all tests."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kernels: Path
) -> Iterator[Path]:
    """Nothing is read from or written to the user's cache."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    cache = root / "vit-patch-env"
    cache.mkdir()
    for kernel in kernels.iterdir():
        os.link(kernel, cache / kernel.name)
    yield cache
    for kernel in cache.glob("cpu_attention-*.so"):
        if not (kernels / kernel.name).exists():
            os.link(kernel, kernels / kernel.name)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from more threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
