"""`kd store verify --against-teacher`: some labels of a store, made again by the live teacher."""

from collections.abc import Callable

import numpy as np
import torch

from cluster.labelling.again.data import DataAgain
from cluster.labelling.again.report import Again, TeacherReport
from cluster.labelling.again.written import WrittenAgain, is_written
from cluster.labelling.replica.loading import unsplit
from cluster.paths import absolute_paths
from kdcore.config import Recipe
from kdcore.evaluation.label_distance import distance, room
from kdcore.identity import compare_identity
from kdcore.labels import RowView
from kdcore.store import LabelStore, Location, ShardRow, open_store
from kdcore.training.arms import with_fitted_teacher

__all__ = ["TeacherReport", "verify_against_teacher"]

_AT_ONCE = 32
_DENSE_VALUES = 1 << 24


def verify_against_teacher(
    store: Location, recipe: Recipe, rows: int = 500, progress: Callable[[int, int], None] = lambda done, total: None
) -> TeacherReport:
    """Make the labels of up to `rows` rows again, spread over the store, and compare them within the codec's error.

    Samples are read from the recipe's data, which may have more, or lie elsewhere; views are rendered from their
    stored parameters. Texts that the teacher wrote are taken from the store itself. IdentityMismatch when the recipe's
    teacher, reading or views are not those of the store. Raises what opening the store does, and the teacher.
    """
    opened, report = open_store(store), TeacherReport()
    recipe = unsplit(with_fitted_teacher(absolute_paths(recipe)))
    again: Again = WrittenAgain(opened, recipe) if is_written(opened) else DataAgain(opened, recipe)
    asked = {**again.asked(), "codec": {**opened.codec.spec(), "type": recipe.codec.type}}
    ignored = ("versions", "input", "format", *again.left_open)
    compare_identity(opened.identity, asked, ignored, what=f"the label store {opened.path}")
    count = min(rows, opened.num_rows)
    chosen = (np.arange(count) * opened.num_rows // max(1, count)).tolist()
    there = again.there(chosen, report)
    dtype = str(opened.identity["teacher"].get("dtype", "the teacher's numerics"))
    for start in range(0, len(there), _AT_ONCE):
        part = there[start : start + _AT_ONCE]
        with torch.inference_mode():
            made = list(again.made(part))
        for row, fresh in zip(part, made, strict=True):
            _compare(opened, row, fresh, dtype, report)
        progress(start + len(part), len(there))
    return report


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
