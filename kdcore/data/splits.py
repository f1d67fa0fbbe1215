"""Which samples are held out, and which are read: pure functions of a sample's name."""

import hashlib

from kdcore.data.document import Refs, SampleRef

_BUCKETS = 10_000


def is_heldout(name: str, heldout_fraction: float) -> bool:
    """Whether the sample of this name is held out; the same on every machine and for every corpus around it."""
    return heldout_fraction > 0 and _hash(name) % _BUCKETS < heldout_fraction * _BUCKETS


def limit_samples(refs: Refs, max_samples: int | None) -> Refs:
    """At most `max_samples` samples, chosen by the hash of their names: the first ones would be all of one class."""
    if max_samples is None or len(refs) <= max_samples:
        return refs
    return sorted(sorted(refs, key=limit_rank)[:max_samples])


def limit_rank(ref: SampleRef) -> tuple[bytes, int, bytes]:
    """`max_samples` keeps the samples whose rank is least: 32 bytes of the name, the index, 8 bytes of the source.

    The source, which is not the same on every machine, decides between samples that share the others alone.
    """
    return _digest("limit:" + ref.name), ref.index, _digest(ref.source)[:8]


def probe_order(refs: Refs) -> Refs:
    """The samples as a probe takes them, in the same order on every machine: the first few stand for all."""
    return sorted(refs, key=probe_rank)


def probe_rank(ref: SampleRef) -> bytes:
    """Where a sample is in `probe_order`: by these 16 bytes, samples of one name in the order of the corpus."""
    return hashlib.blake2b(f"probe:{ref.name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _hash(text: str) -> int:
    return int.from_bytes(_digest(text), "big")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
