"""Whether a label store will fit on its disk, asked before the bulk of it is labelled."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from kdcore.config.urls import is_url
from kdcore.errors import OutOfSpace

__all__ = ["OUTLOOK", "check_room", "free_bytes", "store_bytes"]

# Beside its identity, what a replica says of the store to come: `labels` and `tokens` a byte of input, `free` bytes.
OUTLOOK = "outlook"
_ROW_BYTES = 100  # key, name, occurrences and list offsets of one row, about
_FULL, _HOPELESS = 0.9, 2.0


def store_bytes(per_label: float, samples: float, labels: float, tokens: float = 0, vocabulary: int = 0) -> float:
    """Bytes of a store, about; `per_label` are the codec's, nan where nobody measured them.

    A text keeps its `tokens`, and the log-probability of each that is labelled.
    """
    text = 2 * labels + (2 if vocabulary <= 65536 else 4) * tokens if tokens else 0
    return labels * per_label + text + samples * _ROW_BYTES


def free_bytes(store: str) -> int | None:
    """Free bytes where a store lies or will lie, as this process sees it; None for a bucket."""
    if is_url(store):
        return None
    folder = Path(store).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(store: str, needed: float, free: int | None, on_note: Callable[[str], None]) -> None:
    """Raise OutOfSpace when the rest of a store, about `needed` bytes, cannot fit; warn when it may not.

    A few samples stand for all, so only an estimate far beyond the room is taken as certain.
    """
    if free is None or math.isnan(needed) or needed <= _FULL * free:
        return
    words = f"the labels still to be made take about {needed:,.0f} bytes, '{store}' has {free:,} free"
    if needed <= _HOPELESS * free:
        on_note(f"labels: WARNING: {words}: it may run full; what is published stays, and the same command continues")
        return
    raise OutOfSpace(
        f"a label store must fit on its disk, but {words} (measured on the probe). Free some space, set labels.path to "
        "a larger disk or a bucket, or store less a label (labels.codec)"
    )
