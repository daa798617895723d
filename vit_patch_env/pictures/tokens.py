"""Texts whose dropped tokens are struck through."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.pictures.canvas import LIGHT, Box, Canvas

COLUMNS = 8
"""Tokens in a line."""

LINE = 25
_SIZE = 19
_KEPT = (221, 235, 247)
_DROPPED = (140, 140, 140)


def n_lines(n_tokens: int) -> int:
    """Lines of a text of so many tokens."""
    return -(-n_tokens // COLUMNS)


def draw_tokens(
    canvas: Canvas, box: Box, words: Sequence[str], patch_mask: NDArray[np.bool_]
) -> None:
    """Draw a text's tokens: kept ones black on blue, dropped ones grey and struck through.

    Args:
        canvas: to draw on.
        box: whose last line says how many tokens are left out, if they do not fit.
        words: the tokens; nothing for padding.
        patch_mask: (n_tokens,), True where a token is kept.
    """
    width, space = box.width // COLUMNS, max(box.height // LINE, 1)
    n_shown = len(words)
    if n_lines(n_shown) > space:
        n_shown = (space - 1) * COLUMNS
        left = f"and {len(words) - n_shown} more tokens"
        canvas.text(box.x, box.y + (space - 1) * LINE, left, width=box.width, size=_SIZE)
    for index in range(n_shown):
        line, column = divmod(index, COLUMNS)
        x, y = box.x + column * width, box.y + line * LINE
        if patch_mask[index]:
            canvas.fill(Box(x, y, width - 3, LINE - 3), _KEPT)
            canvas.text(x + 3, y, words[index], width=width - 9, size=_SIZE)
            continue
        canvas.frame(Box(x + 1, y + 1, width - 5, LINE - 5), LIGHT)
        word = words[index]
        length = canvas.text(x + 3, y, word, width=width - 9, size=_SIZE, colour=_DROPPED)
        if word:
            middle = y + LINE // 2
            canvas.line([(x + 2, middle), (x + 4 + length, middle)], _DROPPED)


def columns_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of tokens in the lines of a text, (n_lines, columns); NaN where there is none."""
    cells = np.full(n_lines(len(values)) * COLUMNS, np.nan, dtype=np.float32)
    cells[: len(values)] = values
    return cells.reshape(-1, COLUMNS)
