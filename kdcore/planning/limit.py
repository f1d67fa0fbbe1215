"""`data.max_samples`: the samples of least rank, found block by block."""

from dataclasses import dataclass

from kdcore.data.document import SampleRef
from kdcore.data.splits import limit_rank
from kdcore.planning.corpus import Block, Corpus, cut_blocks
from kdcore.planning.least import Least
from kdcore.planning.run_map import RunMap


@dataclass(frozen=True)
class LimitTask:
    """Find the `most` least ranks of a block; those from `bound` on are known to be too many."""

    corpus: Corpus
    block: Block
    most: int
    bound: bytes | None


def find_limit(corpus: Corpus, run_map: RunMap) -> bytes | None:
    """The greatest rank that `max_samples` keeps, None when it keeps all samples; no two samples share one.

    Reads no sample that can be listed unread, and holds about 100 bytes for each of the `max_samples`.
    """
    most = corpus.open().max_samples
    if most is None:
        return None
    least = Least[None](most)
    tasks = (LimitTask(corpus, block, most, least.bound) for block in cut_blocks(corpus))
    for _, (ranks, dropped) in run_map(least_ranks, tasks):
        least.dropped |= dropped
        for found in ranks:
            least.add(found, None)
    last = least.items()[-1][0] if least.items() else b""
    return last if least.dropped else None


def least_ranks(task: LimitTask) -> tuple[list[bytes], bool]:
    """The ranks of a block that may count, and whether there were others."""
    source, least = task.corpus.open(), Least[None](task.most)
    least.bound = task.bound
    for extent in task.block.extents:
        for ref in source.refs(extent, task.corpus.split):
            least.add(rank(ref), None)
    return [found for found, _ in least.items()], least.dropped


def rank(ref: SampleRef) -> bytes:
    """`limit_rank` as 48 bytes that sort as it does."""
    name, index, source = limit_rank(ref)
    return name + (index + (1 << 63)).to_bytes(8, "big") + source
