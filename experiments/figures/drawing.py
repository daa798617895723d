"""Figures of matplotlib as pixels."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.cells import cell_len

from vit_patch_env.system.escaping import label


def drawn(figure: Figure, dpi: float) -> NDArray[np.uint8]:
    """A figure's pixels: (height, width, 3) uint8.

    Args:
        figure: to be drawn.
        dpi: pixels per inch.
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Of names in scripts that the font lacks: predictions.csv has them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def fitted(name: str, n_cells: int) -> str:
    """A name as a label that is no wider than this many columns of a terminal.

    Args:
        name: of a class.
        n_cells: at least 6, of which a letter of Chinese, Japanese or Korean takes two.
    """
    shown = label(name, n_cells)
    if cell_len(shown.replace(r"\$", "$")) > n_cells:
        shown = label(name, n_cells // 2)
    return shown


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels as PNG, whatever the path ends with.

    Raises:
        OSError: if it cannot be written.
    """
    from PIL import Image

    Image.fromarray(pixels).save(path, format="png")
