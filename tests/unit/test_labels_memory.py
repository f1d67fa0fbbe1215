"""Labels in memory: choosing, joining, their best class."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.errors import LabelError
from kdcore.labels import (
    DenseCodec,
    DenseLabels,
    FeatureLabels,
    SparseLabels,
    TopKCodec,
    TopKLabels,
    best_class,
    concat,
)
from tests.support.labels import logits_of, round_trip


def sparse_of(rows: list[dict[int, float]], classes: int = 9) -> SparseLabels:
    return SparseLabels(
        torch.tensor([i for row in rows for i in row], dtype=torch.int64),
        torch.tensor([weight for row in rows for weight in row.values()], dtype=torch.float32),
        torch.tensor(np.cumsum([0, *(len(row) for row in rows)])),
        classes,
    )


def rows_of(labels: SparseLabels) -> list[dict[int, float]]:
    ends = labels.offsets.tolist()
    assert ends[0] == 0
    assert ends[-1] == len(labels.ids)
    pairs = list(zip(labels.ids.tolist(), labels.weights.tolist(), strict=True))
    return [dict(pairs[a:b]) for a, b in pairwise(ends)]


ROWS = [{3: 1.0}, {1: 0.25, 0: 0.75}, {8: 0.5, 2: 0.25, 5: 0.25}, {4: 1.0}, {7: 0.5, 6: 0.5}]


@pytest.mark.parametrize("codec", [TopKCodec(3, 8), DenseCodec(8)])
def test_index_and_concat_undo_each_other(codec):
    labels = round_trip(codec, logits_of(6, 8))
    joined = concat(
        [labels.index(slice(0, 2)), labels.index([]), labels.index([2, 3]), labels.index(torch.tensor([4, 5]))]
    )
    assert isinstance(labels, TopKLabels | DenseLabels)
    assert isinstance(joined, TopKLabels | DenseLabels)
    assert joined.num_labels == 6
    assert torch.equal(joined.log_probs, labels.log_probs)
    assert labels.to("cpu").num_classes == 8


def test_index_and_concat_of_sparse_labels_undo_each_other():
    labels = sparse_of(ROWS)
    parts = [labels.index(slice(0, 2)), labels.index([]), labels.index([2]), labels.index(torch.tensor([3, 4]))]
    joined = concat(parts)
    assert isinstance(joined, SparseLabels)
    assert rows_of(joined) == ROWS
    assert joined.num_classes == 9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 4), max_size=8), st.integers(-7, 7), st.integers(-7, 7), st.integers(1, 3))
def test_sparse_labels_are_chosen_like_a_list(places, start, stop, step):
    labels = sparse_of(ROWS)
    assert rows_of(labels.index(places)) == [ROWS[i] for i in places]
    assert rows_of(labels.index(torch.tensor(places, dtype=torch.int64))) == [ROWS[i] for i in places]
    chosen = slice(start, stop, step)
    assert rows_of(labels.index(chosen)) == ROWS[chosen]
    mask = torch.tensor([i in places for i in range(5)])
    assert rows_of(labels.index(mask)) == [row for i, row in enumerate(ROWS) if i in places]
    assert rows_of(labels.index(slice(None))) == ROWS


def test_the_label_of_each_entry():
    assert sparse_of(ROWS).label_of_entry().tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4]
    assert sparse_of([]).label_of_entry().tolist() == []
    assert sparse_of([]).num_labels == 0


def test_the_best_class_of_each_kind():
    logits = logits_of(20, 9)
    for codec in (TopKCodec(3, 9), DenseCodec(9)):
        assert torch.equal(best_class(round_trip(codec, logits)), logits.argmax(1))
    assert best_class(sparse_of(ROWS)).tolist() == [3, 0, 8, 4, 7]  # of equals, the first
    assert best_class(sparse_of([])).tolist() == []
    with pytest.raises(LabelError, match="have no best class"):
        best_class(FeatureLabels(torch.zeros(1, 3), (("a", 3),)))


def test_concat_refuses_what_does_not_fit():
    dense = DenseLabels(torch.zeros(1, 4))
    topk = TopKLabels(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2), torch.zeros(1), 4)
    wider = TopKLabels(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1), 4)
    features = [FeatureLabels(torch.zeros(1, 3), layers) for layers in ((("a", 3),), (("b", 3),), (("a", 1), ("b", 2)))]
    for parts in (
        [],
        [dense, topk],
        [topk, wider],
        [dense, DenseLabels(torch.zeros(1, 5))],
        [sparse_of(ROWS, 9), sparse_of(ROWS, 10)],
        [sparse_of(ROWS, 4), dense],
        features[:2],
        features[1:],
    ):
        with pytest.raises(LabelError):
            concat(parts)


def test_tensors_that_do_not_fit_are_refused():
    with pytest.raises(LabelError):
        TopKLabels(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2), torch.zeros(2), 4)
    with pytest.raises(LabelError):
        DenseLabels(torch.zeros(4))
    with pytest.raises(LabelError):
        SparseLabels(torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.tensor([0, 3]), 4)
    with pytest.raises(LabelError):
        FeatureLabels(torch.zeros(2, 4), (("a", 3),))


def test_features_by_layer():
    labels = FeatureLabels(torch.arange(12.0).view(2, 6), (("a", 2), ("b", 4)))
    assert torch.equal(labels.layer("a"), torch.tensor([[0.0, 1], [6, 7]]))
    assert torch.equal(labels.index([1]).layer("b"), torch.tensor([[8.0, 9, 10, 11]]))
    joined = concat([labels.index(slice(0, 1)), labels.index([1])])
    assert isinstance(joined, FeatureLabels)
    assert torch.equal(joined.features, labels.features)
    with pytest.raises(LabelError, match=r"'c'.*'a', 'b'"):
        labels.layer("c")


def test_offsets_of_labels_that_are_elsewhere_are_known_here():
    labels = sparse_of([{3: 0.5, 1: 0.5}, {}, {2: 1.0}])
    moved = labels.to("meta")
    assert moved.offsets.is_meta
    assert moved.host_offsets is not None
    assert moved.host_offsets.tolist() == [0, 2, 2, 3]
    assert labels.index([2]).host_offsets.tolist() == [0, 1]  # pyright: ignore[reportOptionalMemberAccess]
