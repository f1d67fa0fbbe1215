"""The samples of several stores as one: everything but their labels."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kdcore.errors import StoreError
from kdcore.labels.moments import LayerMoments
from kdcore.labels.views import Views
from kdcore.labels.views.spec import ViewSpec
from kdcore.store.mix.rows import MixedRows
from kdcore.store.reader import Indices, LabelStore

__all__ = ["Group", "JoinedStores", "by_value"]

Group = tuple[np.ndarray, tuple[int, ...]]
"""Places of rows, and which stores or values they have in common."""


class JoinedStores:
    """Rows are those of the first store, then what the others add; what they are is asked of the first that has it."""

    def __init__(self, stores: Sequence[LabelStore]) -> None:
        """Stores of the same inputs."""
        self.stores = tuple(stores)

    @cached_property
    def rows(self) -> MixedRows:
        """Which store has which sample. IdentityMismatch where one key means two samples."""
        return MixedRows.of(self.stores)

    @property
    def kind(self) -> str:
        """`text`, `image` or `classified_text`."""
        return self.stores[0].kind

    @property
    def moments(self) -> tuple[LayerMoments, ...]:
        """Mean and spread of features, of each store."""
        return tuple(store.moments[0] for store in self.stores)

    @property
    def identity(self) -> dict[str, Any]:
        """What the inputs of all stores are: that of the first, with the tokenizer of any that knows it."""
        known = [store.identity.get("tokenizer") for store in self.stores]
        return {**self.stores[0].identity, "tokenizer": next(filter(None, known), None)}

    @property
    def elsewhere(self) -> bool:
        """Whether some of the stores lie on another machine."""
        return any(store.elsewhere for store in self.stores)

    @property
    def num_rows(self) -> int:
        """Samples, each once."""
        return len(self.rows.first)

    @property
    def masked(self) -> bool:
        """Whether only some tokens of a text are labelled."""
        return self.stores[0].masked

    @property
    def view_spec(self) -> ViewSpec | None:
        """What the views of the images are; None where a label is of the image as it is."""
        return self.stores[0].view_spec

    def occurrences(self) -> np.ndarray:
        """How often each sample occurs in the input, int64 [rows], as the first store that has it says."""
        return self.rows.gathered([store.occurrences() for store in self.stores])

    def num_tokens_per_row(self) -> np.ndarray:
        """Tokens of each row, int64 [rows]; zeros of images."""
        return self.rows.gathered([store.num_tokens_per_row() for store in self.stores])

    def num_labels_per_row(self) -> np.ndarray:
        """Labels of each row, int64 [rows]."""
        return self.rows.gathered([store.num_labels_per_row() for store in self.stores])

    def targets(self) -> np.ndarray:
        """The hard label of each image, int64 [rows]; -1 where there is none."""
        return self.rows.gathered([store.targets() for store in self.stores])

    def tokens(self, row: int) -> np.ndarray:
        """Token ids of a text row, int64 [T]."""
        store, inner = self._first(row)
        return store.tokens(inner)

    def tokens_of(self, rows: Indices) -> list[np.ndarray]:
        """Token ids of each text row, int [T]: views of the mapped files."""
        chosen = np.asarray(rows, np.int64)
        found: dict[int, np.ndarray] = {}
        for here, (place,) in by_value(self.rows.first[chosen]):
            tokens = self.stores[place].tokens_of(self.rows.rows[place, chosen[here]])
            found.update(zip(here.tolist(), tokens, strict=True))
        return [found[place] for place in range(len(chosen))]

    def label_positions(self, row: int) -> np.ndarray:
        """The position of each label of a text row, int64 [N], rising."""
        store, inner = self._first(row)
        return store.label_positions(inner)

    def name(self, row: int) -> str:
        """The name of the (first) sample of a row."""
        store, inner = self._first(row)
        return store.name(inner)

    def key(self, row: int) -> bytes:
        """The key (16 bytes) of a row."""
        return self.rows.keys[row].tobytes()

    def targets_of(self, rows: Indices | int) -> np.ndarray:
        """The hard label of images, or of one, int64; -1 where there is none."""
        return self._all_targets[rows]

    def views_of(self, rows: Indices, numbers: Indices | None = None) -> Views:
        """The parameters of views, which are the same in all stores; see LabelStore."""
        chosen, given = np.asarray(rows, np.int64), None if numbers is None else np.asarray(numbers, np.int64)
        stores = np.unique(self.rows.first[chosen])
        if given is None and len(stores) > 1:
            raise StoreError("of samples that lie in several stores, views are read by their numbers")
        places = [np.flatnonzero(self.rows.first[chosen] == store) for store in stores]
        parts = [
            self.stores[store].views_of(self.rows.rows[store, chosen[here]], None if given is None else given[here])
            for store, here in zip(stores.tolist(), places, strict=True)
        ]
        return parts[0] if len(parts) == 1 else Views.concat(parts)[np.argsort(np.concatenate(places), kind="stable")]

    def _first(self, row: int) -> tuple[LabelStore, int]:
        place = int(self.rows.first[row])
        return self.stores[place], int(self.rows.rows[place, row])

    @cached_property
    def _all_targets(self) -> np.ndarray:
        return self.targets()


def by_value(values: np.ndarray) -> Iterator[Group]:
    """Places of each value, with it."""
    for value in np.unique(values).tolist():
        yield np.flatnonzero(values == value), (int(value),)
