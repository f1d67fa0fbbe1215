"""Which samples are held out, and which are read: pure functions of a sample's name."""

import hashlib

from kdcore.data.document import Refs

_BUCKETS = 10_000


def is_heldout(name: str, heldout_fraction: float) -> bool:
    """Whether the sample of this name is held out; the same on every machine and for every corpus around it."""
    return _hash(name) % _BUCKETS < heldout_fraction * _BUCKETS


def limit_samples(refs: Refs, max_samples: int | None) -> Refs:
    """At most `max_samples` samples, chosen by the hash of their names: the first ones would be all of one class."""
    if max_samples is None or len(refs) <= max_samples:
        return refs
    chosen = sorted(refs, key=lambda ref: (_hash("limit:" + ref.name), ref.index))[:max_samples]
    return sorted(chosen)


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(), 16)
