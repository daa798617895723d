"""Items of people's data sets: an image and its label, in the forms that are common for them."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from vit_patch_env.checks import InputError, shown
from vit_patch_env.data.pictures import LARGEST_ASPECT
from vit_patch_env.data.rgb import to_rgb
from vit_patch_env.system.shown import escaped


class ItemError(ValueError):
    """An item that cannot be used, and why, in one line."""


Label = int | str
"""A class by its number, from 0, or by its name."""

IMAGE_KEYS = ("image", "img", "pixel_values")
"""Names of the image in items that are dictionaries or named tuples; the first one present."""

LABEL_KEYS = ("label", "labels", "class", "target")
"""Names of the label in items that are dictionaries or named tuples; the first one present."""

_GREY_MODES = ("1", "L", "LA", "La", "I")
"""Modes of Pillow with grey pixels; others begin with `I;16`."""


def n_items(dataset: Any, where: str) -> int:
    """The length of a data set that has one, and items at 0, 1, ...

    Args:
        dataset: a map-style data set: any object with `__len__` and `__getitem__`.
        where: the data set in messages, such as "the training set".

    Raises:
        ValueError: for an iterable-style data set, a dictionary of splits, or an empty data set.
    """
    kind = type(dataset).__name__
    if isinstance(dataset, Mapping):
        names = ", ".join(escaped(str(name)) for name in dataset)
        raise InputError(f"expected a data set as {where}, got a {kind} of {names}")
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if isinstance(dataset, IterableDataset) or not indexed:
        raise InputError(
            f"expected a data set with a length and an index as {where}, got {kind}, which has not "
            "both; list(dataset) makes one of an iterable"
        )
    n = len(dataset)
    if not n:
        raise InputError(
            f"expected a data set of (image, label) pairs as {where}, got an empty one"
        )
    return n


def read_item(dataset: Any, index: int, where: str) -> tuple[Tensor, Label]:
    """The image (channels, height, width) uint8, and the label, at an index of a data set.

    Args:
        dataset: a map-style data set; its own augmentation is applied.
        index: from 0.
        where: the data set in messages, such as "the training set".

    Raises:
        ItemError: as `split_item`, `image_tensor` and `label_of`, or if it cannot be read.
    """
    image, label = read_pair(dataset, index, where)
    item = f"item {index} of {where}"
    return image_tensor(image, item), label_of(label, item)


def read_pair(dataset: Any, index: int, where: str) -> tuple[Any, Any]:
    """The image and the label at an index of a data set, as they are.

    Raises:
        ItemError: as `split_item`, or if the item cannot be read.
    """
    item = f"item {index} of {where}"
    try:
        value = dataset[index]
    except (OSError, SyntaxError, IndexError, Image.DecompressionBombError) as error:
        # What files that are missing or damaged, and a wrong length, lead to. Other errors are
        # mistakes in the data set's code, which need their traceback.
        raise ItemError(unreadable(index, where, error)) from error
    return split_item(value, item)


def unreadable(index: int, where: str, error: BaseException) -> str:
    """What is wrong with an item that cannot be read."""
    return (
        f"expected a readable item {index} of {where}, "
        f"got {type(error).__name__}: {one_line(error)}"
    )


def close_file(image: Any) -> None:
    """Close the file of a PIL image that is not used, which may still be open, by reading it.

    The image itself is not closed: a data set may hold it.
    """
    if isinstance(image, Image.Image):
        with suppress(OSError, SyntaxError):  # damaged files matter where they are used
            image.load()


def split_item(item: Any, where: str) -> tuple[Any, Any]:
    """The image and the label of an item.

    Args:
        item: a pair, a longer tuple or list that begins with them, or a dictionary or named tuple
            with a name of `IMAGE_KEYS` and one of `LABEL_KEYS`.
        where: the item in messages, such as "item 7 of the training set".

    Raises:
        ItemError: for anything else.
    """
    named = item._asdict() if hasattr(item, "_asdict") else item
    if isinstance(named, Mapping):
        image_key = next((key for key in IMAGE_KEYS if key in named), None)
        label_key = next((key for key in LABEL_KEYS if key in named), None)
        if image_key is not None and label_key is not None:
            return named[image_key], named[label_key]
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        got = f"the keys {', '.join(escaped(str(key)) for key in item) or 'of an empty one'}"
        raise ItemError(
            f"expected one of the keys {', '.join(IMAGE_KEYS)} and one of {', '.join(LABEL_KEYS)} "
            f"in {where}, got {got}"
        )
    kind = type(item).__name__
    got = f"a {kind} of length {len(item)}" if isinstance(item, tuple | list) else kind
    raise ItemError(f"expected a pair (image, label), or a dictionary, in {where}, got {got}")


def image_tensor(image: Any, where: str) -> Tensor:
    """An image as a tensor (channels, height, width) uint8 of one channel if it is grey, or three.

    Args:
        image: a PIL image, which is made upright and opaque; a uint8 or bool NumPy array (height,
            width) or (height, width, channels); or a tensor (height, width) or (channels, height,
            width): uint8, bool, or floating point in [0, 1]. Pixels of uint8 tensors are shared.
        where: the item in messages, such as "item 7 of the training set".

    Raises:
        ItemError: for other types, shapes, numbers of channels or values.
    """
    if isinstance(image, Image.Image):
        pixels = _from_pil(image, where)
    elif isinstance(image, np.ndarray):
        pixels = _from_array(image, where)
    elif isinstance(image, Tensor):
        pixels = _from_tensor(image, where)
    else:
        raise ItemError(
            "expected PIL images, NumPy arrays (height, width, channels), or tensors (channels, "
            f"height, width), got {type(image).__name__} in {where}"
        )
    longer, shorter = max(pixels.shape[1:]), min(pixels.shape[1:])
    if longer > LARGEST_ASPECT * shorter:
        raise ItemError(
            f"expected sides in a ratio of at most {LARGEST_ASPECT} in {where}, "
            f"got {longer} by {shorter} pixels"
        )
    return pixels


def label_of(value: Any, where: str) -> Label:
    """A label as Python's integer, from 0, or text.

    Args:
        value: an integer, a bool or text: Python's, NumPy's, or the only one in a tensor or array.
        where: the item in messages, such as "item 7 of the training set".

    Raises:
        ItemError: for anything else, such as a float, a negative integer, None or a one-hot array.
    """
    size = value.numel() if isinstance(value, Tensor) else getattr(value, "size", None)
    is_array = isinstance(value, Tensor | np.ndarray | np.generic)
    single = value.item() if is_array and size == 1 else value
    if isinstance(single, str) and single:
        return str(single)
    if isinstance(single, int) and single >= 0:
        return int(single)
    raise ItemError(f"expected an integer label from 0, or text, got {shown(value)} in {where}")


def one_line(error: BaseException) -> str:
    """An error's message in one line."""
    return escaped(" ".join(str(error).split()))


def _from_pil(image: Image.Image, where: str) -> Tensor:
    from torchvision.transforms.v2 import functional as transforms  # takes a second to import

    _check_sides((image.height, image.width), where)
    try:
        rgb = to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # its file may be damaged, and Pillow then raises anything
        raise ItemError(
            f"expected a readable PIL image, got one of mode {image.mode} in {where}: "
            f"{one_line(error)}"
        ) from error
    grey = image.mode in _GREY_MODES or image.mode.startswith("I;16")
    pixels: Tensor = transforms.pil_to_tensor(rgb.getchannel(0) if grey else rgb)
    return pixels


def _from_array(image: np.ndarray[Any, Any], where: str) -> Tensor:
    shape = image.shape
    if image.dtype not in (np.uint8, np.bool_) or image.ndim not in (2, 3):
        raise ItemError(
            "expected uint8 arrays (height, width) or (height, width, channels), "
            f"got ndarray {shape} of {image.dtype} in {where}"
        )
    channels_last = image[..., None] if image.ndim == 2 else image
    _check_sides(channels_last.shape[:2], where)
    _check_channels(channels_last.shape[2], f"an array {shape}", where)
    # Copied, as torch takes neither negative strides nor arrays that are read-only.
    return _as_uint8(torch.from_numpy(np.array(channels_last.transpose(2, 0, 1), order="C")))


def _from_tensor(image: Tensor, where: str) -> Tensor:
    shape, dtype = tuple(image.shape), image.dtype
    if image.ndim not in (2, 3) or image.layout != torch.strided:
        raise ItemError(
            f"expected tensors (height, width) or (channels, height, width), got {shape} in {where}"
        )
    if not (image.is_floating_point() or dtype in (torch.uint8, torch.bool)):
        raise ItemError(
            f"expected tensors of uint8, or of floating-point values in [0, 1], got {dtype} "
            f"in {where}"
        )
    image = image.detach().as_subclass(Tensor).cpu()
    channels_first = image[None] if image.ndim == 2 else image
    _check_sides(channels_first.shape[1:], where)
    last = channels_first.shape[2] in (1, 3, 4)
    hint = ": channels come first, as image.permute(2, 0, 1) puts them" if last else ""
    _check_channels(len(channels_first), f"a tensor {shape}", where + hint)
    if image.is_floating_point() and not 0 <= image.min() <= image.max() <= 1:
        raise ItemError(
            "expected floating-point images in [0, 1], not normalised, "
            f"got values in [{image.min():.3g}, {image.max():.3g}] in {where}"
        )
    return _as_uint8(channels_first)


def _as_uint8(image: Tensor) -> Tensor:
    """The same image as uint8; floating-point values in [0, 1] and bools are scaled to 255."""
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    from torchvision.transforms.v2 import functional as transforms  # takes a second to import

    converted: Tensor = transforms.to_dtype(image, torch.uint8, scale=True)
    return converted


def _check_sides(sides: tuple[int, ...], where: str) -> None:
    if 0 in sides:
        raise ItemError(
            f"expected an image with pixels, got a height of {sides[0]} and a width of {sides[1]} "
            f"in {where}"
        )


def _check_channels(n_channels: int, got: str, where: str) -> None:
    if n_channels not in (1, 3):
        raise ItemError(
            f"expected 1 channel (grey) or 3 (RGB), got {got}, which has {n_channels}, in {where}"
        )
