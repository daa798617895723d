"""Pure functions between the three forms of a patch selection.

- `patch_mask`: (n_patches,), 1 = kept. The action of an agent.
- `keep`: int64 indices of the kept patches, ascending, (n_keep,), or (batch, n_keep) for others in
  each image. The argument of a model.
- tokens: (batch, n_tokens, dim). The input of a transformer layer.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vit_patch_env.checks import InputError, check_integer, shown
from vit_patch_env.patches.sampling import Grid


def check_patch_mask(action: Any, n_patches: int) -> NDArray[np.bool_]:
    """Boolean patch mask (n_patches,) of an action of any numeric type.

    Args:
        action: anything array-like of shape (n_patches,) with values 0 and 1; algorithms
            send int8, int64 or float32.
        n_patches: number of patches.

    Raises:
        ValueError: for another shape or other values.
    """
    try:
        array = np.asarray(action)
    except Exception as error:  # a ragged list, or whatever an object's __array__ raises
        raise InputError(f"action must have shape ({n_patches},), got {shown(action)}") from error
    if array.dtype.kind not in "biufc":
        raise InputError(f"action values must be numbers, got {array.dtype}")
    if array.shape != (n_patches,):
        raise InputError(f"action must have shape ({n_patches},), got {array.shape}")
    mask: NDArray[np.bool_] = array == 1
    if not np.all(mask | (array == 0)):
        others = np.unique(array[~mask & (array != 0)])
        raise InputError(f"action values must be 0 or 1, got {others[0]}")
    return mask


def valid_actions(n_patches: int) -> NDArray[np.bool_]:
    """Whether each patch may be dropped, and kept: (2 * n_patches,).

    All may be, except that a single patch cannot be dropped, as at least one is kept.
    """
    valid = np.ones((n_patches, 2), dtype=np.bool_)
    valid[:, 0] = n_patches > 1
    return valid.ravel()


def top_k_mask(scores: NDArray[Any], n_keep: int) -> NDArray[np.int8]:
    """Patch mask (n_patches,) that keeps the `n_keep` patches with the highest scores.

    Args:
        scores: (n_patches,), any real numbers; of equal ones the first are kept.
        n_keep: patches to keep, in 1...n_patches.

    Raises:
        ValueError: for another number of dimensions, NaN, or n_keep out of range.
    """
    # Negated as floats: unsigned integers would wrap around.
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(f"scores must have shape (n_patches,), got {scores.shape}")
    if np.isnan(scores).any():
        raise InputError(f"scores must not be NaN, got NaN at {np.isnan(scores).argmax()}")
    check_integer(1, len(scores), n_keep=n_keep)
    patch_mask = np.zeros(len(scores), dtype=np.int8)
    patch_mask[np.argsort(-scores, kind="stable")[:n_keep]] = 1
    return patch_mask


def mask_to_keep(patch_mask: NDArray[np.bool_]) -> Tensor:
    """Indices (n_keep,) int64, ascending, of the patches that the mask (n_patches,) keeps."""
    return torch.from_numpy(np.flatnonzero(patch_mask))


def keep_to_masks(keep: Tensor, n_patches: int) -> NDArray[np.bool_]:
    """Masks (n_images, n_patches) of the patches (n_images, n_keep) that images keep."""
    masks = np.zeros((len(keep), n_patches), dtype=np.bool_)
    np.put_along_axis(masks, keep.cpu().numpy(), True, axis=1)
    return masks


def shifted(keep: Tensor, n_images: int, grid: Grid, rng: np.random.Generator) -> Tensor:
    """A selection moved over each image by rows and columns of its own: (n_images, n_keep) int64.

    What leaves an image at one edge enters it at the opposite one, so that patches that are spread
    over the image stay spread. No two images have the same move before all moves are used: over as
    many images as patches, each patch is used equally often.

    Args:
        keep: indices (n_keep,) of the selected patches.
        n_images: of the batch.
        grid: rows and columns of patches.
        rng: the generator to draw from.
    """
    n_rows, n_columns = grid
    rows, columns = np.divmod(keep.numpy(), n_columns)
    n_moves = n_rows * n_columns
    moves = [rng.permutation(n_moves) for _ in range(0, n_images, n_moves)]
    down, right = np.divmod(np.concatenate(moves)[:n_images, None], n_columns)
    moved = (rows + down) % n_rows * n_columns + (columns + right) % n_columns
    moved.sort(axis=1)
    return torch.from_numpy(moved)


def select_tokens(tokens: Tensor, keep: Tensor | None) -> Tensor:
    """Tokens (batch, n_keep, ...) at positions `keep`, in image order; all for None.

    All images keep the same number, so the result is dense: no padding, no attention mask.

    Args:
        tokens: (batch, n_tokens, ...).
        keep: int64 (n_keep,), one selection for the batch, or (batch, n_keep), one per image.
    """
    if keep is None:
        return tokens
    if keep.ndim == 1:
        return tokens.index_select(1, keep)
    # Rows are copied whole, in a quarter of the time that `gather` takes with its gradient.
    n_images, n_tokens = tokens.shape[:2]
    rows = keep + torch.arange(n_images, device=keep.device)[:, None] * n_tokens
    kept = tokens.flatten(0, 1).index_select(0, rows.flatten())
    return kept.view(*keep.shape, *tokens.shape[2:])
