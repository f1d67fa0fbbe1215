"""Labels made again of samples that lie in a recipe's data; of views, from their stored parameters."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from cluster.labelling.again.report import TeacherReport
from cluster.labelling.replica.image_answers import ImageAnswers, ViewedImages
from cluster.labelling.replica.loading import asked_of, load_answers
from kdcore.config import Recipe
from kdcore.data.document import ImageSample, Sample, SampleRef
from kdcore.data.keys import sample_key
from kdcore.data.sources import open_source
from kdcore.data.views import UNMIXED, Views
from kdcore.data.views.partners import as_keys, prefixes
from kdcore.errors import UnreadableDocument
from kdcore.planning.plan import PlannedSample
from kdcore.store import LabelStore, ShardRow

__all__ = ["DataAgain"]

_ALONE, _NOWHERE = -1, -2

Found = dict[int, tuple[SampleRef, Sample]]
"""Samples by the row of the store that they have."""


class DataAgain:
    """See Again. Raises what the source and the teacher do."""

    left_open = ()

    def __init__(self, store: LabelStore, recipe: Recipe) -> None:
        self._store, self._source = store, open_source(recipe.data)
        self._answers = load_answers(recipe, self._source)
        self._needed: dict[int, list[int]] = {}
        self._found = Found()

    def asked(self) -> dict[str, Any]:
        """See Again."""
        return asked_of(self._answers)

    def there(self, rows: Sequence[int], report: TeacherReport) -> list[int]:
        """See Again: those whose sample, and the images that its views are mixed with, are in the data."""
        self._needed = {row: [row, *others] for row, others in _partners(self._store, rows).items()}
        self._found = self._find([row for each in self._needed.values() for row in each])
        there = [row for row in rows if all(other == _ALONE or other in self._found for other in self._needed[row])]
        if len(there) < len(rows):
            first = next(row for row in rows if row not in there)
            report.add(
                f"{len(rows) - len(there)} of {len(rows)} rows (first: row {first}, '{self._store.name(first)}'), or "
                "images that they are mixed with, are not in the recipe's data, or have changed: set `data` to what "
                "was labelled"
            )
        return there

    def made(self, rows: Sequence[int]) -> Iterator[ShardRow]:
        """See Again."""
        store, found = self._store, self._found
        samples: list[tuple[PlannedSample, Sample]] = [
            ((found[row][0], store.key(row), 1), found[row][1]) for row in rows
        ]
        spec = store.view_spec
        if spec is None or not isinstance(self._answers, ImageAnswers):
            return self._answers.rows("the verification", samples, store.codec)
        images = [_pixels(sample) for _, sample in samples]
        views = Views.concat([store.views_of([row]) for row in rows])
        others = [other for row in rows for other in self._needed[row][1:]] or [_ALONE] * len(views)
        mixed_with = [None if other == _ALONE else _pixels(found[other][1]) for other in others]
        pictures = ViewedImages(spec, images, views, mixed_with)
        return self._answers.rows_of("the verification", samples, pictures, store.codec)

    def _find(self, rows: Sequence[int]) -> Found:
        """The samples of rows, looked for by name in the corpus, and known by their key."""
        wanted = {self._store.key(row): row for row in rows if row >= 0}
        names, found = {self._store.name(row) for row in wanted.values()}, Found()
        for extent in self._source.extents("train"):
            for ref in self._source.refs(extent, "train"):
                if ref.name not in names:
                    continue
                with suppress(UnreadableDocument):
                    sample = self._source.read(ref)
                    row = wanted.get(sample_key(sample))
                    if row is not None:
                        found[row] = ref, sample
            if len(found) == len(wanted):
                break
        return found


def _partners(store: LabelStore, rows: Sequence[int]) -> dict[int, list[int]]:
    """The row that each view of a row is mixed with, or _ALONE; nothing of stores without mixed views.

    Of several rows whose keys begin as the view says it is that in the same shard; _NOWHERE if that is not one.
    """
    if store.view_spec is None or store.view_spec.policy.mix is None:
        return {row: [] for row in rows}
    known, shards = prefixes(as_keys(store.keys().tolist())), store.shards_of(np.arange(store.num_rows))

    def partner(row: int, prefix: np.uint64) -> int:
        places = np.flatnonzero(known == prefix)
        places = places if len(places) == 1 else places[shards[places] == shards[row]]
        return int(places[0]) if len(places) == 1 else _NOWHERE

    found: dict[int, list[int]] = {}
    for row in rows:
        views = store.views_of([row])
        pairs = zip(views.partner, views.mixed, strict=True)
        found[row] = [_ALONE if mixed == UNMIXED else partner(row, prefix) for prefix, mixed in pairs]
    return found


def _pixels(sample: Sample) -> np.ndarray:
    assert isinstance(sample, ImageSample)
    return sample.pixels
