"""A split of a corpus as tasks see it, cut into blocks from metadata alone."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from kdcore.config.data import DataConfig, OnConflict, on_conflict_of
from kdcore.data.document import Extent, Split
from kdcore.data.sources import Source, open_source
from kdcore.identity import canonical_json, digest_bytes, new_hash

BLOCK_BYTES = 256 << 20
"""Of input, that one task surveys."""
_FORMAT = 2  # of what a survey writes: rises when keys, their order or the files change


@dataclass(frozen=True)
class Corpus:
    """`open` gives the source in any process; corpora of one `fingerprint` differ in nothing but their files.

    A block is as many extents as hold `block_bytes` together, so that blocks do not depend on who reads them.
    """

    open: Callable[[], Source]
    fingerprint: str
    split: Split = "train"
    on_unreadable: Literal["error", "skip"] = "error"
    block_bytes: int = BLOCK_BYTES
    on_conflict: OnConflict = "error"

    @classmethod
    def of(cls, config: DataConfig, split: Split = "train") -> "Corpus":
        """The split of a recipe's `data`."""
        settings = config.model_dump()
        # Of views a plan depends on no more than that there are some: keys are of the images as decoded then.
        if settings.pop("views", None) is not None:
            settings["views"] = True
        fingerprint = digest_bytes(f"{_FORMAT}\0{split}\0{canonical_json(settings)}".encode())
        conflicts = on_conflict_of(config)
        return cls(partial(open_source, config), fingerprint, split, config.on_unreadable, on_conflict=conflicts)


@dataclass(frozen=True)
class Block:
    """Consecutive extents, read by one task. `key` changes when one of their files does."""

    extents: tuple[Extent, ...]
    num_bytes: int
    key: str


@dataclass(frozen=True)
class Extents:
    """All extents of a corpus together; `key` is of the keys of its blocks."""

    num_bytes: int
    num_blocks: int
    key: str


def measure(corpus: Corpus) -> Extents:
    """The size of a corpus, from metadata; DataError when no file matches."""
    num_bytes, num_blocks, state = 0, 0, new_hash()
    for block in cut_blocks(corpus):
        num_bytes, num_blocks = num_bytes + block.num_bytes, num_blocks + 1
        state.update(block.key.encode())
    return Extents(num_bytes, num_blocks, state.hexdigest())


def cut_blocks(corpus: Corpus) -> Iterator[Block]:
    """The blocks of a corpus, in order."""
    source = corpus.open()
    extents: list[Extent] = []
    held = 0
    for extent in source.extents(corpus.split):
        extents.append(extent)
        held += extent.num_bytes
        if held >= corpus.block_bytes:
            yield _block(corpus, source, extents)
            extents, held = [], 0
    if extents:
        yield _block(corpus, source, extents)


def _block(corpus: Corpus, source: Source, extents: list[Extent]) -> Block:
    listed = [
        [item.name, item.source, item.start, item.stop, item.num_bytes, item.heldout, source.stamp(item)]
        for item in extents
    ]
    # Names of files may be no UTF-8, which ASCII escapes survive.
    key = digest_bytes(json.dumps([corpus.fingerprint, listed]).encode())
    return Block(tuple(extents), sum(item.num_bytes for item in extents), key)
