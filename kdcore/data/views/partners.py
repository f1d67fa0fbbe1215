"""The other image of a mixed view: another one of the same work unit, named by the first 40 bits of its key."""

from collections.abc import Sequence

import numpy as np

from kdcore.errors import LabelError
from kdcore.identity import KEY_BYTES
from kdcore.labels.views import UNMIXED, Views
from kdcore.labels.views.fields import PARTNER_BITS

__all__ = ["as_keys", "partner_rows", "prefixes", "unambiguous"]


def as_keys(keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """Keys as uint8 [n, 16]."""
    joined = np.frombuffer(b"".join(keys), np.uint8) if not isinstance(keys, np.ndarray) else keys
    return np.ascontiguousarray(joined).view(np.uint8).reshape(-1, KEY_BYTES)


def prefixes(keys: np.ndarray) -> np.ndarray:
    """The first 40 bits of keys uint8 [n, 16], read as big-endian numbers, uint64 [n]."""
    first = np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0].astype(np.uint64)
    return first >> np.uint64(64 - PARTNER_BITS)


def unambiguous(keys: np.ndarray) -> np.ndarray:
    """The prefixes, rising, of those keys of a unit that no other key of it shares; a key given twice is one."""
    values, counts = np.unique(prefixes(np.unique(keys, axis=0)), return_counts=True)
    return values[counts == 1]


def partner_rows(views: Views, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
    """Which of a unit's `keys` is the partner of each view, int64 [n]; -1 of a view that is not mixed.

    LabelError when a prefix is that of no key, or of two: never another image in silence.
    """
    unit = prefixes(as_keys(keys))
    order = np.argsort(unit, kind="stable")
    first = np.searchsorted(unit, views.partner, sorter=order)
    number = np.searchsorted(unit, views.partner, side="right", sorter=order) - first
    mixed = views.mixed != UNMIXED
    bad = np.flatnonzero(mixed & (number != 1))
    if len(bad):
        raise LabelError(
            f"the partner of a mixed view must be one image of its unit: {number[bad[0]]} of {len(unit)} keys begin "
            f"with {int(views.partner[bad[0]]):0{PARTNER_BITS // 4}x}. The rows are not those of one unit, or the data "
            "are not those that were labelled"
        )
    return np.where(mixed, order[np.minimum(first, len(unit) - 1)], -1) if len(unit) else np.full(len(views), -1)
