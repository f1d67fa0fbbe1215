"""The picture of made images: by class, beside real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdcore.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_grid"]

_ROWS, _MADE, _REAL = 10, 12, 4


def draw_grid(path: Path, made: tuple[np.ndarray, Sequence[int]], real: tuple[np.ndarray, Sequence[int]]) -> None:
    """Write a PNG: a row for each of the first classes, made images on the left and real ones on the right.

    Each side is images uint8 [N, H, W, C] and their classes. Raises MissingExtra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "The picture of made images") from error
    classes = sorted({*made[1], *real[1]})[:_ROWS]
    figure = Figure(figsize=(9, 0.5 * len(classes) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(_MADE, _REAL))
    _show(left, made, classes, _MADE, "made, by the class asked for")
    _show(right, real, classes, _REAL, "real, held out")
    figure.savefig(path, dpi=150)


def _show(
    axes: "Axes", side: tuple[np.ndarray, Sequence[int]], classes: Sequence[int], columns: int, title: str
) -> None:
    images, targets = side[0], np.asarray(side[1], int)
    _, height, width, channels = images.shape
    sheet = np.full((len(classes) * (height + 1), columns * (width + 1), channels), 255, np.uint8)
    for row, target in enumerate(classes):
        for column, image in enumerate(images[targets == target][:columns]):
            down, across = row * (height + 1), column * (width + 1)
            sheet[down : down + height, across : across + width] = image
    axes.imshow(sheet.squeeze(-1) if channels == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_yticks([(row + 0.5) * (height + 1) for row in range(len(classes))], [str(target) for target in classes])
    axes.spines[:].set_visible(False)
