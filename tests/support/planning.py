"""A corpus in memory, and maps that run its tasks as a cluster might."""

import random

from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, SampleRef, TextDocument
from kdcore.errors import UnreadableDocument


class Memory(BaseSource):
    """A source over texts in memory, so many to an extent; None is an unreadable document."""

    kind = "text"

    def __init__(self, texts, prefix="", extent=2, max_samples=None):
        super().__init__(0.0, max_samples, "memory")
        self.texts = {f"{prefix}{n:04d}": text for n, text in enumerate(texts)}
        self.extent, self.reads = extent, 0

    def read(self, ref):
        self.reads += 1
        text = self.texts[ref.name]
        if text is None:
            raise UnreadableDocument(f"{ref.name} is broken")
        return TextDocument(ref.name, text)

    def _find(self):
        names = list(self.texts)
        for start in range(0, len(names), self.extent):
            part = names[start : start + self.extent]
            size = sum(len(self.texts[name] or "?") for name in part)
            yield Extent(part[0], "memory", start, start + len(part), size)

    def _samples(self, extent):
        for name in list(self.texts)[extent.start : extent.stop]:
            yield SampleRef(name, "memory", 0, len(self.texts[name] or "?"))


def by_workers(count, seed=0, dies_after=None):
    """A map by so many workers, which end in any order; the job dies after so many results."""
    chance, results = random.Random(seed), 0

    def run(function, tasks):
        nonlocal results
        pending, tasks = [], enumerate(tasks)
        while True:
            while len(pending) < count and (item := next(tasks, None)):
                pending.append(item)
            if not pending:
                return
            if results == dies_after:
                raise KeyboardInterrupt
            results += 1
            number, task = pending.pop(chance.randrange(len(pending)))
            yield number, function(task)

    return run
