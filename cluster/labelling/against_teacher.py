"""`kd store verify --against-teacher`: some labels of a store, made again by the live teacher from the data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch

from cluster.labelling.replica.image_answers import ImageAnswers, ViewedImages
from cluster.labelling.replica.loading import Answers, asked_of, load_answers, unsplit
from cluster.paths import absolute_paths
from kdcore.config import Recipe
from kdcore.data.document import ImageSample, Sample, SampleRef
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source, open_source
from kdcore.data.views import UNMIXED, Views
from kdcore.data.views.partners import as_keys, prefixes
from kdcore.errors import UnreadableDocument
from kdcore.evaluation.label_distance import distance, room
from kdcore.identity import compare_identity
from kdcore.labels import RowView
from kdcore.planning.plan import PlannedSample
from kdcore.store import LabelStore, Location, ShardRow, open_store
from kdcore.training.arms import with_fitted_teacher

__all__ = ["TeacherReport", "verify_against_teacher"]

_AT_ONCE = 32
_LISTED = 20
_ALONE, _NOWHERE = -1, -2
_DENSE_VALUES = 1 << 24

Found = dict[int, tuple[SampleRef, Sample]]
"""Samples by the row of the store that they have."""


@dataclass
class TeacherReport:
    """What was compared; `problems` is empty when every label is the teacher's.

    `largest` is the largest distance that was found, over what codec and numerics explain of it: at most 1 if all is
    right.
    """

    rows: int = 0
    labels: int = 0
    largest: float = 0.0
    problems: list[str] = field(default_factory=list)
    unlisted: int = 0

    def add(self, problem: str) -> None:
        """Lists the first ones, and counts the others."""
        if len(self.problems) < _LISTED:
            self.problems.append(problem)
        else:
            self.unlisted += 1


def verify_against_teacher(
    store: Location, recipe: Recipe, rows: int = 500, progress: Callable[[int, int], None] = lambda done, total: None
) -> TeacherReport:
    """Make the labels of up to `rows` rows again, spread over the store, and compare them within the codec's error.

    Views are rendered from their stored parameters. IdentityMismatch when the recipe's teacher, reading or views are
    not those of the store; its data may have more samples, or lie elsewhere. Raises what opening the store does, and
    the teacher.
    """
    opened, report = open_store(store), TeacherReport()
    recipe = unsplit(with_fitted_teacher(absolute_paths(recipe)))
    source = open_source(recipe.data)
    answers = load_answers(recipe, source)
    asked = {**asked_of(answers), "codec": {**opened.codec.spec(), "type": recipe.codec.type}}
    compare_identity(opened.identity, asked, ("versions", "input", "format"), what=f"the label store {opened.path}")
    count = min(rows, opened.num_rows)
    chosen = (np.arange(count) * opened.num_rows // max(1, count)).tolist()
    needed = {row: [row, *others] for row, others in _partners(opened, chosen).items()}
    found = _find(opened, source, [row for each in needed.values() for row in each])
    there = [row for row in chosen if all(other == _ALONE or other in found for other in needed[row])]
    if len(there) < count:
        first = next(row for row in chosen if row not in there)
        report.add(
            f"{count - len(there)} of {count} rows (first: row {first}, '{opened.name(first)}'), or images that they "
            "are mixed with, are not in the recipe's data, or have changed: set `data` to what was labelled"
        )
    dtype = str(opened.identity["teacher"].get("dtype", "the teacher's numerics"))
    for start in range(0, len(there), _AT_ONCE):
        part = there[start : start + _AT_ONCE]
        with torch.inference_mode():
            made = list(_made(answers, opened, [(row, needed[row][1:]) for row in part], found))
        for row, fresh in zip(part, made, strict=True):
            _compare(opened, row, fresh, dtype, report)
        progress(start + len(part), len(there))
    return report


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


def _find(store: LabelStore, source: Source, rows: Sequence[int]) -> Found:
    """The samples of rows, looked for by name in the corpus, and known by their key."""
    wanted = {store.key(row): row for row in rows if row >= 0}
    names, found = {store.name(row) for row in wanted.values()}, Found()
    for extent in source.extents("train"):
        for ref in source.refs(extent, "train"):
            if ref.name not in names:
                continue
            with suppress(UnreadableDocument):
                sample = source.read(ref)
                row = wanted.get(sample_key(sample))
                if row is not None:
                    found[row] = ref, sample
        if len(found) == len(wanted):
            break
    return found


def _made(
    answers: Answers, store: LabelStore, rows: Sequence[tuple[int, list[int]]], found: Found
) -> Iterator[ShardRow]:
    """Rows, each with its views' partners, as the teacher makes them now."""
    samples: list[tuple[PlannedSample, Sample]] = [
        ((found[row][0], store.key(row), 1), found[row][1]) for row, _ in rows
    ]
    spec = store.view_spec
    if spec is None or not isinstance(answers, ImageAnswers):
        return answers.rows("the verification", samples, store.codec)
    images = [_pixels(sample) for _, sample in samples]
    views = Views.concat([store.views_of([row]) for row, _ in rows])
    others = [other for _, each in rows for other in each] or [_ALONE] * len(views)
    mixed_with = [None if other == _ALONE else _pixels(found[other][1]) for other in others]
    return answers.rows_of("the verification", samples, ViewedImages(spec, images, views, mixed_with), store.codec)


def _pixels(sample: Sample) -> np.ndarray:
    assert isinstance(sample, ImageSample)
    return sample.pixels


def _compare(store: LabelStore, row: int, fresh: ShardRow, dtype: str, report: TeacherReport) -> None:
    view, count = store.row_view(row), int(store.num_labels_per_row()[row])
    report.rows += 1
    if fresh.tokens is not None and not np.array_equal(fresh.tokens, store.tokens(row)):
        report.add(
            f"row {row} ('{fresh.name}'): the document has other tokens now: another tokenizer or template made them"
        )
        return
    columns = {name: fresh.columns[name] for name in view.columns}
    step = max(1, _DENSE_VALUES // max(1, store.num_classes))
    for start in range(0, count, step):
        stop = min(start + step, count)
        stored = store.labels(row, start, stop)
        made = store.codec.decode([RowView(columns, count, view.targets)], [start], [stop])
        apart, allowed = distance(stored, made), room(store.codec, made, dtype)
        report.labels += stop - start
        report.largest = max(report.largest, float((apart / allowed).max()))
        for place in torch.nonzero(~(apart <= allowed))[:, 0].tolist():
            report.add(
                f"row {row} ('{fresh.name}'){_place(store, row, start + place)}: the stored label is "
                f"{apart[place]:.3g} away from the teacher's, of which codec and {dtype} explain {allowed[place]:.3g}"
            )


def _place(store: LabelStore, row: int, number: int) -> str:
    if store.kind == "text":
        return f", position {int(store.label_positions(row)[number])}"
    return "" if store.view_spec is None else f", view {number}"
