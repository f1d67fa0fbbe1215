"""Made images of all units, as Parquet files of the run; and what they are like."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.synthesis.kinds import Gathering
from kdcore.config import Recipe
from kdcore.data.sources import open_source
from kdcore.data.synthesised.gathering import Generation
from kdcore.data.synthesised.images import gather_images
from kdcore.data.synthesised.places import samples_folder, units_folder
from kdcore.data.synthesised.shards import from_png
from kdcore.evaluation.synthesis_images import collapse_notes, image_figures
from kdcore.store.beginning import read_identity

__all__ = ["gather"]

_LOOKED_AT = 2000


def gather(recipe: Recipe, task: Gathering) -> Generation:
    """Every image once, in the order of the units."""
    raw, identity = units_folder(recipe, task.generation), read_identity(units_folder(recipe, task.generation))
    judge = _Judge(open_source(recipe.data).num_classes or 1, len(task.receipts))
    return gather_images(raw, task.receipts, samples_folder(recipe), task.generation, task.asked, identity, judge)


class _Judge:
    """Keeps a few images of each unit to look at, and the classes of all."""

    def __init__(self, num_classes: int, units: int) -> None:
        self._num_classes, self._of_unit = num_classes, -(-_LOOKED_AT // max(1, units))
        self._images: list[np.ndarray] = []
        self._targets: list[int] = []

    def see(self, images: Sequence[bytes], targets: Sequence[int]) -> None:
        """See kdcore.data.synthesised.images.Judge."""
        rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), self._of_unit)).astype(int))
        self._images += [from_png(images[row]) for row in rows]
        self._targets += targets

    def verdict(self) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """See kdcore.data.synthesised.images.Judge."""
        figures = image_figures(np.stack(self._images), self._targets, self._num_classes)
        return figures, collapse_notes(figures)
