"""A heat map with its scale, and small curves."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from vit_patch_env.pictures.canvas import BLUE, GREY, TEXT, Box, Canvas, Colour, Picture

_SCALE_WIDTH = 16
_GAP = 8


def number(value: float) -> str:
    """A number in three significant digits, or two if it is small, in at most nine letters."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def draw_heat_map(canvas: Canvas, box: Box, cells: NDArray[np.float32]) -> None:
    """Draw values in a grid beside the scale of their colours.

    Args:
        canvas: to draw on.
        box: that holds them; cells are square.
        cells: (rows, columns); NaN for cells that stay empty.
    """
    finite = cells[np.isfinite(cells)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    rows, columns = cells.shape
    labels = 100
    wide = box.width - labels - _SCALE_WIDTH - 2 * _GAP
    size = min(wide / columns, box.height / rows)
    width, height = max(1, int(size * columns)), max(1, int(size * rows))
    shares = (
        (np.nan_to_num(cells) - low) / (high - low) if high > low else np.full(cells.shape, 0.5)
    )
    colours = np.where(np.isfinite(cells)[..., None], viridis(shares), 255).astype(np.uint8)
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    map_box = Box(box.x, box.y, width, height)
    canvas.frame(map_box)
    canvas.paste(colours[row[:, None], column], map_box.x, map_box.y)
    scale_height = min(max(height, 2 * TEXT + _GAP), box.height)
    scale = Box(box.x + width + _GAP, box.y, _SCALE_WIDTH, scale_height)
    x = scale.x + _SCALE_WIDTH + _GAP
    canvas.frame(scale)
    if high <= low:
        canvas.paste(viridis(np.full((scale.height, scale.width), 0.5)), scale.x, scale.y)
        canvas.text(
            x, box.y + (box.height - TEXT) // 2, number(low), width=labels, size=19, colour=GREY
        )
        return
    ramp = np.linspace(1, 0, scale.height)[:, None].repeat(scale.width, axis=1)
    canvas.paste(viridis(ramp), scale.x, scale.y)
    canvas.text(x, box.y - 2, number(high), width=labels, size=19, colour=GREY)
    canvas.text(x, box.y + scale_height - TEXT - 2, number(low), width=labels, size=19, colour=GREY)


def viridis(shares: NDArray[np.floating]) -> Picture:
    """Colours (..., 3) of shares (...) in [0, 1]."""
    return _viridis()[(shares * 255).astype(np.uint8)]


@cache
def _viridis() -> Picture:
    """Its 256 colours, (256, 3), which colour-blind readers can rank."""
    from matplotlib import colormaps

    return (255 * colormaps["viridis"](np.arange(256))[:, :3]).astype(np.uint8)


def draw_curve(
    canvas: Canvas, box: Box, values: Sequence[float], colour: Colour = BLUE
) -> tuple[float, float] | None:
    """Draw values as a line that fills a box, and a point at the last one.

    Values that are not finite are left out.

    Returns:
        The lowest and highest value; None if there are none.
    """
    canvas.frame(box)
    heights = np.asarray(values, dtype=np.float64)
    shown = np.flatnonzero(np.isfinite(heights))
    if not len(shown):
        return None
    low, high = float(heights[shown].min()), float(heights[shown].max())
    inside = 6
    shares = (heights[shown] - low) / (high - low) if high > low else np.full(len(shown), 0.5)
    across = shown / (len(heights) - 1) if len(heights) > 1 else np.ones(1)
    x = box.x + inside + across * (box.width - 2 * inside)
    y = box.y + box.height - inside - shares * (box.height - 2 * inside)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    if len(points) > 1:
        canvas.line(points, colour, width=3)
    last_x, last_y = points[-1]
    canvas.fill(Box(round(last_x) - 4, round(last_y) - 4, 8, 8), colour)
    return low, high
