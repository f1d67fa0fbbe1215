"""Which teacher a sample is routed to, by its name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from kdcore.errors import MissingLabels
from kdcore.store.mix.rows import MixedRows
from kdcore.store.reader import LabelStore

__all__ = ["Routes"]

_UNKNOWN = -1


class Routes:
    """The first store whose patterns a sample's name matches; else the first without patterns.

    A sample's name is read from its store when it is first asked for. With `rest`, a store that has no label for the
    sample is passed over; without, that is MissingLabels.
    """

    def __init__(
        self, stores: Sequence[LabelStore], rows: MixedRows, names: Sequence[Sequence[str]], rest: bool
    ) -> None:
        self._stores, self._rows, self._names, self._rest = stores, rows, names, rest
        self._known = np.full(len(rows.first), _UNKNOWN, np.int16)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The store of each sample, int64 [n]."""
        for row in np.unique(rows[self._known[rows] == _UNKNOWN]).tolist():
            self._known[row] = self._route(row)
        return self._known[rows].astype(np.int64)

    def _route(self, row: int) -> int:
        first = int(self._rows.first[row])
        name = self._stores[first].name(int(self._rows.rows[first, row]))
        matching = [place for place, names in enumerate(self._names) if any(fnmatchcase(name, each) for each in names)]
        asked = [*matching, *(place for place, names in enumerate(self._names) if not names)]
        having = [place for place in asked if self._rows.rows[place, row] >= 0]
        if not having or (not self._rest and having[0] != asked[0]):
            where = f"{self._stores[asked[0]].path}, which has no label for it" if asked else "no store"
            raise MissingLabels(
                f"sample '{name}' is routed to {where}: change the `names` of labels.mix.stores (a store without names "
                "takes the rest), or set labels.mix.missing: rest, to go on to the next store that takes it"
            )
        return having[0]
