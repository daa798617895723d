"""Folders of images: decoded once by several threads, then read from a cache."""

import hashlib
import json
import os
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

from vit_patch_env.checks import ArgumentError
from vit_patch_env.data.resize import resize_square
from vit_patch_env.system.files import replacing
from vit_patch_env.system.memory import check_fits

_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


class FolderSplits(NamedTuple):
    """Folders that hold one folder per class; `test` is None if there is only one."""

    train: Path
    test: Path | None


def find_folder_splits(root: Path) -> FolderSplits:
    """The training and test folder in `root`.

    These are `root/train` and `root/test`, only one of them, or `root` itself if it has neither.

    Raises:
        ValueError: if `root` is missing, empty, or a split has fewer than two classes.
    """
    try:
        if not root.is_dir():
            problem = "a file" if root.exists() else "no such folder"
            raise ArgumentError(
                "data_dir", f"must be a folder of images, got {str(root)!r}: {problem}"
            )
        return _find_splits(root)
    except OSError as error:
        raise ArgumentError(
            "data_dir", f"must be a folder that can be read, got {str(root)!r}: {error.strerror}"
        ) from error


def _find_splits(root: Path) -> FolderSplits:
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
    """Names of the class folders, sorted, without hidden folders."""
    return sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
    )


class _Folder(ImageFolder):  # type: ignore[misc]
    """torchvision's ImageFolder without hidden folders."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        classes = _class_names(Path(directory))
        return classes, {name: index for index, name in enumerate(classes)}


def load_image_folder(
    root: Path, image_size: int, cache: Path, *, skip_corrupt: bool = False
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (n, 3, image_size, image_size) uint8, labels (n,) int64 and class names.

    Decoded images are cached, and decoded again when a file of `root` is added, removed or changed.

    Args:
        root: one folder per class.
        image_size: height and width, in pixels: the shorter side is resized, the centre kept.
        cache: folder for decoded images.
        skip_corrupt: skip files that cannot be decoded, with a warning that lists them.

    Raises:
        ValueError: for a class without images, or a file that cannot be decoded.
    """
    try:
        folder = _Folder(str(root))
        fingerprint = _fingerprint(folder.samples)
    except OSError as error:
        raise ValueError(
            f"expected images in every class folder of {str(root)!r}: {error}"
        ) from error
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    path = cache / f"{root.resolve().name}-{name}-{image_size}.safetensors"
    paths = [Path(sample) for sample, _ in folder.samples]
    decoded = _read_cache(path, fingerprint)
    if decoded is None or (decoded.corrupt and not skip_corrupt):
        decoded = _decode(paths, image_size, skip_corrupt)
        try:
            _write_cache(path, fingerprint, decoded)
        except OSError as error:
            warnings.warn(f"decoded images cannot be cached in {cache}: {error}", stacklevel=2)
    if decoded.corrupt:
        warnings.warn(
            f"{len(decoded.corrupt)} of {len(paths)} images cannot be read and are skipped: "
            + ", ".join(str(paths[index]) for index in decoded.corrupt),
            stacklevel=2,
        )
    readable = torch.ones(len(paths), dtype=torch.bool)
    readable[list(decoded.corrupt)] = False
    labels = torch.tensor(folder.targets)[readable]
    for label, class_name in enumerate(folder.classes):
        if label not in labels:
            raise ValueError(
                f"expected images in every class folder of {str(root)!r}, "
                f"got none that can be read in {class_name}"
            )
    return decoded.images, labels, tuple(folder.classes)


class _Decoded(NamedTuple):
    """Images (n, 3, image_size, image_size) uint8, and the indices of the skipped files."""

    images: Tensor
    corrupt: tuple[int, ...]


def _read_cache(path: Path, fingerprint: str) -> _Decoded | None:
    """The cached images of these files; None if they are not cached or have changed."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata["fingerprint"] == fingerprint:
                images = cast("Tensor", file.get_tensor("images"))
                return _Decoded(images, tuple(json.loads(metadata.get("corrupt", "[]"))))
    except (
        OSError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
    ):  # missing or damaged: it will be rewritten
        pass
    return None


def _write_cache(path: Path, fingerprint: str, decoded: _Decoded) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"fingerprint": fingerprint, "corrupt": json.dumps(decoded.corrupt)}
    try:
        with replacing(path) as partial:
            save_file({"images": decoded.images}, partial, metadata)
    except SafetensorError as error:  # safetensors raises it for any error in writing
        raise OSError(str(error)) from error


def _fingerprint(samples: list[tuple[str, int]]) -> str:
    """Hash of every file's path, size and modification time."""
    digest = hashlib.sha256()
    for sample, _ in samples:
        stat = os.stat(sample)  # noqa: PTH116  (half the time of Path.stat, over 60,000 files)
        digest.update(f"{sample}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(paths: list[Path], image_size: int, skip_corrupt: bool) -> _Decoded:
    """Decoded images in the order of `paths`, without the skipped ones."""
    check_fits(3 * image_size**2 * len(paths), f"{len(paths)} images of image_size {image_size}")
    images = torch.empty(len(paths), 3, image_size, image_size, dtype=torch.uint8)

    def decode(index: int) -> bool:
        try:
            images[index] = resize_square(_read_image(paths[index]), image_size)
        except ValueError:
            if not skip_corrupt:
                raise
            return False
        return True

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as threads:
        # Up to twice its limit Pillow only warns: here that is an error, too.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        done = threads.map(decode, range(len(paths)))
        shown = tqdm(done, "decoding images", total=len(paths), unit=" images", disable=None)
        readable = torch.tensor(list(shown), dtype=torch.bool)
    if not readable.all():
        images = images[readable]
    return _Decoded(images, tuple((~readable).nonzero()[:, 0].tolist()))


def _read_image(path: Path) -> Tensor:
    """A file's image (3, height, width) uint8.

    Raises:
        ValueError: if it cannot be decoded, has more than 8 bits, or is larger than Pillow's limit.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"8 bits per channel are needed, not mode {file.mode}")
            # Palettes with transparency must be converted to RGBA first.
            image = (file.convert("RGBA") if file.mode == "P" else file).convert("RGB")
            return transforms.pil_to_tensor(image)  # type: ignore[no-any-return]
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise ValueError(f"expected a readable image, got {path}: {error}") from error
