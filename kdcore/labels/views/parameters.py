"""The parameters of one view, and of many as a struct of arrays.

All of them are whole numbers, quantised when they were drawn: what is stored is what is rendered. FORMAT.md says what
each means. What a policy does not use, or a view does not have, is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

__all__ = ["CUTMIX", "MIXUP", "UNMIXED", "View", "Views"]

UNMIXED, MIXUP, CUTMIX = 0, 1, 2


@dataclass(frozen=True)
class View:
    """The parameters of one view, as in `Views`."""

    area: int = 0
    ratio: int = 0
    x: int = 0
    y: int = 0
    flip: int = 0
    brightness: int = 0
    contrast: int = 0
    saturation: int = 0
    ops: tuple[int, ...] = ()
    erased: int = 0
    erase_area: int = 0
    erase_ratio: int = 0
    erase_x: int = 0
    erase_y: int = 0
    mixed: int = UNMIXED
    share: int = 0
    partner: int = 0
    cut_x: int = 0
    cut_y: int = 0

    def named(self) -> dict[str, Any]:
        """The parameters that are not zero, as JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items() if value}


@dataclass(frozen=True, eq=False)
class Views:
    """The parameters of n views: one array [n] each, `ops` [n, operations of RandAugment]; uint8, `partner` uint64."""

    area: np.ndarray
    """Step of the crop's share of the image's area."""
    ratio: np.ndarray
    """Step of the crop's width / height."""
    x: np.ndarray
    """Place of the crop: a step of the room to the right, or pixels of a padded image."""
    y: np.ndarray
    flip: np.ndarray
    """1 for the mirror image."""
    brightness: np.ndarray
    """Step of the factor; so of the next two."""
    contrast: np.ndarray
    saturation: np.ndarray
    ops: np.ndarray
    """Codes of operations (`kdcore.labels.views.fields.OPS`), in order."""
    erased: np.ndarray
    """1 where a box is erased; the next four are steps of it, as of a crop."""
    erase_area: np.ndarray
    erase_ratio: np.ndarray
    erase_x: np.ndarray
    erase_y: np.ndarray
    mixed: np.ndarray
    """UNMIXED, MIXUP or CUTMIX."""
    share: np.ndarray
    """Step of the image's own share, lambda."""
    partner: np.ndarray
    """The first 40 bits of the partner's key, big-endian."""
    cut_x: np.ndarray
    """Step of the centre of cutmix's box."""
    cut_y: np.ndarray

    @classmethod
    def zeros(cls, num_views: int, num_ops: int = 0) -> "Views":
        """Views without parameters, to be filled in."""
        shapes, dtypes = {"ops": (num_views, num_ops)}, {"partner": np.uint64}
        return cls(**{name: np.zeros(shapes.get(name, num_views), dtypes.get(name, np.uint8)) for name in _NAMES})

    @classmethod
    def of(cls, views: Sequence[View]) -> "Views":
        """Views given one by one, all of as many operations."""
        result = cls.zeros(len(views), len(views[0].ops) if views else 0)
        for name in _NAMES:
            column = getattr(result, name)
            for row, view in enumerate(views):
                column[row] = getattr(view, name)
        return result

    @classmethod
    def concat(cls, parts: Sequence["Views"]) -> "Views":
        """All views of one or more parts of as many operations, in order."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES})

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, rows: np.ndarray | slice) -> "Views":
        """The views that an index array, a mask or a slice chooses."""
        return Views(**{name: getattr(self, name)[rows] for name in _NAMES})

    def view(self, row: int) -> View:
        """One of them."""
        values = {name: getattr(self, name)[row].tolist() for name in _NAMES}
        return View(**{**values, "ops": tuple(values["ops"])})

    def equal(self, other: "Views") -> bool:
        """Whether both hold the same parameters in the same order."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _NAMES)


_NAMES = tuple(each.name for each in fields(Views))
