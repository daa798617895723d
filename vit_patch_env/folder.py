"""Folders of images: decoded once by several threads, then read from a cache."""

import hashlib
import os
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


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
        problem = "a file" if root.exists() else "no such folder"
        raise ValueError(f"data_dir must be a folder of images, got {str(root)!r}: {problem}")
    train, test = root / "train", root / "test"
    if train.is_dir() and test.is_dir():
        splits = FolderSplits(train, test)
    else:
        splits = FolderSplits(next((path for path in (train, test) if path.is_dir()), root), None)
    for split in splits:
        if split is not None:
            classes = _class_names(split)
            if len(classes) < 2:
                raise ValueError(
                    f"expected at least two class folders in {str(split)!r}, "
                    f"got {', '.join(classes) or 'none'}"
                )
            misplaced = [name for name in classes if name.casefold() in _SPLIT_NAMES]
            if misplaced:
                raise ValueError(
                    f"expected <data_dir>/train/<class>/* and <data_dir>/test/<class>/*, "
                    f"got {', '.join(misplaced)} among the classes of {str(split)!r}"
                )
    return splits


def _class_names(root: Path) -> list[str]:
    """Names of the class folders, sorted; hidden folders are none."""
    return sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
    )


class _Folder(ImageFolder):  # type: ignore[misc]
    """torchvision's, without hidden folders."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = _class_names(Path(directory))
        return classes, {name: index for index, name in enumerate(classes)}


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
        folder = _Folder(str(root))
    except FileNotFoundError as error:
        raise ValueError(
            f"expected images in every class folder of {str(root)!r}: {error}"
        ) from error
    fingerprint = _fingerprint(folder.samples)
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    path = cache / f"{root.resolve().name}-{name}-{image_size}.safetensors"
    labels, classes = torch.tensor(folder.targets), tuple(folder.classes)
    images = _read_cache(path, fingerprint)
    if images is None:
        images = _decode([Path(sample) for sample, _ in folder.samples], image_size)
        try:
            _write_cache(path, fingerprint, images)
        except OSError as error:
            warnings.warn(f"decoded images cannot be kept in {cache}: {error}", stacklevel=2)
    return images, labels, classes


def _read_cache(path: Path, fingerprint: str) -> Tensor | None:
    """The images that were kept for these files; None if there are none, or of other files."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata()["fingerprint"] == fingerprint:
                return cast("Tensor", file.get_tensor("images"))
    except (OSError, SafetensorError):  # not there, or broken: it will be written anew
        pass
    return None


def _write_cache(path: Path, fingerprint: str, images: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and moved there, so that a broken-off run leaves no torn cache.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        partial = Path(file.name)
    try:
        save_file({"images": images}, partial, {"fingerprint": fingerprint})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
            with Image.open(paths[index]) as file:
                if file.mode.startswith(("I", "F")):
                    raise ValueError(f"8 bits per channel are needed, not mode {file.mode}")
                # Transparent palettes only become RGB by way of RGBA.
                image = (file.convert("RGBA") if file.mode == "P" else file).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
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
