"""About what a corpus holds, from a part of it: for an estimate before anything is planned."""

from collections.abc import Iterator
from dataclasses import dataclass

from kdcore.data.document import SampleRef
from kdcore.data.splits import probe_rank
from kdcore.planning.corpus import Block, Corpus, cut_blocks, measure
from kdcore.planning.least import Least

_BLOCKS = 4


@dataclass(frozen=True)
class Sketch:
    """About how many samples a split has, and their bytes; `some` are samples of it in the order of a probe."""

    num_samples: int
    num_bytes: int
    some: tuple[SampleRef, ...]


def sketch(corpus: Corpus, most: int) -> Sketch:
    """A sketch with `most` samples, from a few blocks that are spread over the corpus; of so few blocks it is exact.

    Lists those blocks, and reads no sample that can be listed unread. Raises DataError where there is no sample.
    """
    source, whole = corpus.open(), measure(corpus)
    least, found, num_bytes, listed = Least[SampleRef](most), 0, 0, 0
    for block in _spread(corpus, whole.num_blocks):
        listed += block.num_bytes
        for ref in (ref for extent in block.extents for ref in source.refs(extent, corpus.split)):
            least.add(probe_rank(ref), ref)
            found, num_bytes = found + 1, num_bytes + ref.num_bytes
    if not found:
        raise source.no_samples(corpus.split)
    scale = whole.num_bytes / listed if listed else 1.0
    kept = min(round(scale * found), source.max_samples or round(scale * found))
    return Sketch(kept, round(num_bytes * kept / found), tuple(ref for _, ref in least.items()))


def _spread(corpus: Corpus, num_blocks: int) -> Iterator[Block]:
    step = -(-num_blocks // _BLOCKS)
    return (block for number, block in enumerate(cut_blocks(corpus)) if number % step == 0)
