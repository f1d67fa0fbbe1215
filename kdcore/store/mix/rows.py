"""The samples of several stores as one list."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcore.errors import IdentityMismatch
from kdcore.store.keys import KeyTable
from kdcore.store.reader import LabelStore

__all__ = ["MixedRows"]


@dataclass(frozen=True)
class MixedRows:
    """Every sample that one of M stores has, in the order of the first that has it: R of them.

    `keys` uint64 [R, 2]; `rows` int64 [M, R] is where each store has it, -1 where it does not; `first` int64 [R] is the
    first store that has it.
    """

    keys: np.ndarray
    rows: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, stores: Sequence[LabelStore]) -> "MixedRows":
        """Joined by key. IdentityMismatch where one key means two samples."""
        every = np.concatenate([store.key_words() for store in stores])
        starts = np.cumsum([0, *(store.num_rows for store in stores)])
        number = _numbered(every)
        rows = np.full((len(stores), int(number.max(initial=-1)) + 1), -1, np.int64)
        keys = np.empty((rows.shape[1], 2), np.uint64)
        for place, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
            rows[place, number[start:stop]] = np.arange(stop - start)
            keys[number[start:stop]] = every[start:stop]
        found = cls(keys, rows, (rows >= 0).argmax(0))
        found._check(stores)
        return found

    @cached_property
    def table(self) -> KeyTable:
        """The rows by key."""
        return KeyTable(self.keys)

    def gathered(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """Of each sample what the first store that has it says; `columns` are arrays over the rows of each store."""
        found = np.empty(self.rows.shape[1], columns[0].dtype)
        for place, column in enumerate(columns):
            here = self.first == place
            found[here] = column[self.rows[place, here]]
        return found

    def _check(self, stores: Sequence[LabelStore]) -> None:
        text = stores[0].kind == "text"
        facts = {"tokens": LabelStore.num_tokens_per_row, "labels": LabelStore.num_labels_per_row}
        if not text:
            facts = {"the class": LabelStore.targets, "labels": LabelStore.num_labels_per_row}
        for what, ask in facts.items():
            columns = [ask(store) for store in stores]
            wanted = self.gathered(columns)
            for place, column in enumerate(columns):
                has = np.flatnonzero(self.rows[place] >= 0)
                wrong = has[column[self.rows[place, has]] != wanted[has]]
                if len(wrong):
                    row = int(wrong[0])
                    other = stores[int(self.first[row])]
                    raise IdentityMismatch(
                        f"the stores of a mix must have labels of the same inputs, but of sample "
                        f"{self.keys[row].tobytes().hex()} {other.path} has {what} {wanted[row]}, "
                        f"{stores[place].path} {column[self.rows[place, row]]} ({len(wrong)} such samples): they were "
                        "cut, masked or targeted differently; label one of them again"
                    )


def _numbered(keys: np.ndarray) -> np.ndarray:
    """The number of each key, uint64 [n, 2], in the order in which they first occur, int64 [n]."""
    if not len(keys):
        return np.empty(0, np.int64)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(1))
    group = np.empty(len(keys), np.int64)
    group[order] = np.cumsum(new) - 1
    rank = np.empty(int(new.sum()), np.int64)
    rank[np.argsort(order[new])] = np.arange(len(rank))
    return rank[group]
