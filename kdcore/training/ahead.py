"""What is needed next, made in a thread while something else is at work.

A thread, not a process, which would have to send every batch: downloads, reads, the decoders of labels and images, and
copies run without the interpreter's lock. What holds it, the bookkeeping for each sequence, is little beside a step.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")
_END: Any = object()


@contextmanager
def ahead(items: Generator[Item, None, None], depth: int) -> Iterator[Iterator[Item]]:
    """The items, in order, with `depth` of them made in a thread beside the one that was taken last; 0: no thread.

    What the generator raises is raised, as it is, where its item would have come. When the block ends, for whatever
    reason, the item in the making is made, the generator is closed and the thread has ended.
    """
    if depth == 0:
        try:
            yield items
        finally:
            items.close()
        return
    pool = ThreadPoolExecutor(1, thread_name_prefix="kdcore-ahead")
    try:
        yield _taken(items, depth, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        items.close()


def _taken(items: Iterator[Item], depth: int, pool: ThreadPoolExecutor) -> Iterator[Item]:
    def start() -> Any:
        return pool.submit(next, items, _END)

    waiting = deque(start() for _ in range(depth))
    while (item := waiting.popleft().result()) is not _END:
        waiting.append(start())
        yield item
