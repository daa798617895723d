"""Folders of images: decoded once by several threads, then read from a cache."""

import hashlib
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.datasets.folder import ImageFolder, default_loader
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm


class FolderSplits(NamedTuple):
    """Folders that hold one folder per class; `test` is None where there is only one."""

    train: Path
    test: Path | None


def find_folder_splits(root: Path) -> FolderSplits:
    """The training and test folder below `root`.

    `root/train` and `root/test`, only one of them, or `root` itself where it has neither.

    Raises:
        ValueError: if `root` is missing, empty, or a split has fewer than two classes.
    """
    if not root.is_dir():
        raise ValueError(f"data_dir must be a folder of images, got {str(root)!r}: no such folder")
    train, test = root / "train", root / "test"
    if train.is_dir() and test.is_dir():
        splits = FolderSplits(train, test)
    else:
        splits = FolderSplits(next((path for path in (train, test) if path.is_dir()), root), None)
    for split in splits:
        if split is not None:
            classes = [entry.name for entry in os.scandir(split) if entry.is_dir()]
            if len(classes) < 2:
                raise ValueError(
                    f"expected at least two class folders in {str(split)!r}, "
                    f"got {', '.join(classes) or 'none'}"
                )
    return splits


def load_image_folder(
    root: Path, image_size: int, cache: Path
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (n, 3, image_size, image_size) uint8, labels (n,) int64 and class names.

    Decoded images are kept in the folder `cache`, and decoded anew when a file of `root` is
    added, removed or changed.

    Args:
        root: one folder per class.
        image_size: height and width, in pixels: the shorter side is resized, the centre kept.
        cache: where decoded images are kept.

    Raises:
        ValueError: for a class without images, or a file that cannot be decoded.
    """
    try:
        folder = ImageFolder(str(root))
    except FileNotFoundError as error:
        raise ValueError(
            f"expected images in every class folder of {str(root)!r}: {error}"
        ) from error
    fingerprint = _fingerprint(folder.samples)
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    path = cache / f"{root.resolve().name}-{name}-{image_size}.safetensors"
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata()["fingerprint"] == fingerprint:
                images, labels = file.get_tensor("images"), file.get_tensor("labels")
                return images, labels, tuple(json.loads(file.metadata()["classes"]))
    labels = torch.tensor(folder.targets)
    images = _decode([Path(sample) for sample, _ in folder.samples], image_size)
    metadata = {"fingerprint": fingerprint, "classes": json.dumps(folder.classes)}
    cache.mkdir(parents=True, exist_ok=True)
    # Written beside its place and moved there, so that a broken-off run leaves no torn cache.
    with tempfile.NamedTemporaryFile(dir=cache, suffix=".tmp", delete=False) as file:
        partial = Path(file.name)
    try:
        save_file({"images": images, "labels": labels}, partial, metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return images, labels, tuple(folder.classes)


def _fingerprint(samples: list[tuple[str, int]]) -> str:
    """Hash of every file's path, size and time of change."""
    digest = hashlib.sha256()
    for sample, _ in samples:
        stat = os.stat(sample)  # noqa: PTH116  (half the time of Path.stat, over 60,000 files)
        digest.update(f"{sample}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(paths: list[Path], image_size: int) -> Tensor:
    """Decoded images (n, 3, image_size, image_size) uint8, in the order of `paths`."""
    images = torch.empty(len(paths), 3, image_size, image_size, dtype=torch.uint8)

    def decode(index: int) -> None:
        try:
            image = default_loader(str(paths[index]))
        except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files
            raise ValueError(f"expected a readable image, got {paths[index]}: {error}") from error
        images[index] = resize_square(transforms.pil_to_tensor(image), image_size)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = threads.map(decode, range(len(paths)))
        for _ in tqdm(done, "decoding images", total=len(paths), unit=" images", disable=None):
            pass
    return images


def resize_square(images: Tensor, image_size: int) -> Tensor:
    """Square images (..., channels, image_size, image_size): shorter side resized, centre kept."""
    if images.shape[-2:] == (image_size, image_size):
        return images
    resized: Tensor = transforms.resize(images, [image_size], antialias=True)
    square: Tensor = transforms.center_crop(resized, [image_size, image_size])
    return square
