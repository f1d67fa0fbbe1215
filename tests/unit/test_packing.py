"""Layouts of a micro-batch: every token once, no two sequences in one place, little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.training.packing import Layout, arrange, fill_rows

LAYOUTS: tuple[Layout, ...] = ("padded", "rows", "flat")
LENGTHS = st.lists(st.integers(1, 24), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, layout=st.sampled_from(LAYOUTS), more=st.integers(0, 9))
def test_every_token_has_a_place_of_its_own_and_its_position(lengths, layout, more):
    lengths = np.array(lengths)
    places = arrange(lengths, layout, int(lengths.max()) + more)
    assert sorted(places.order) == list(range(len(lengths)))
    owner = np.full(places.shape, -1)
    positions = places.position_ids()
    for number, row, column in zip(places.order, places.rows, places.columns, strict=True):
        here = slice(column, column + lengths[number])
        assert column + lengths[number] <= places.shape[1]
        assert (owner[row, here] == -1).all()
        owner[row, here] = number
        assert (positions[row, here] == np.arange(lengths[number])).all()
    assert (owner >= 0).sum() == lengths.sum()
    assert places.num_slots == owner.size
    if layout == "rows":
        assert places.shape[1] <= lengths.max() + more
    if layout == "flat":
        assert (owner >= 0).all()
    begins = places.rows * places.shape[1] + places.columns
    assert (np.diff(begins) > 0).all()  # in the order in which they lie


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, layout=st.sampled_from(LAYOUTS))
def test_positions_restart_at_a_sequence_and_nowhere_else(lengths, layout):
    """Also not where padding begins: a row of one sequence needs no mask of blocks."""
    lengths = np.array(lengths)
    places = arrange(lengths, layout, 24)
    restarts = np.flatnonzero(places.position_ids().ravel() == 0)
    assert restarts.tolist() == (places.rows * places.shape[1] + places.columns).tolist()


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, more=st.integers(0, 20), kept=st.data())
def test_some_of_the_rows_packed_again_are_the_same_rows(lengths, more, kept):
    """So that rows may be cut into micro-batches before these are made."""
    lengths = np.array(lengths)
    capacity = int(lengths.max()) + more
    rows, columns = fill_rows(lengths, capacity)
    chosen = kept.draw(st.sets(st.integers(0, int(rows.max())), min_size=1))
    inside = np.isin(rows, list(chosen))
    again, places = fill_rows(lengths[inside], capacity)
    assert (np.unique(rows[inside], return_inverse=True)[1] == again).all()
    assert (places == columns[inside]).all()


def test_packed_rows_by_hand():
    rows, columns = fill_rows(np.array([2, 6, 3, 4, 5]), 10)
    assert rows.tolist() == [1, 0, 1, 0, 1]
    assert columns.tolist() == [8, 0, 5, 6, 0]
    assert arrange(np.array([4, 4, 4]), "rows", 11).shape == (3, 4)  # narrower rows where wide ones would be padded


@pytest.mark.parametrize(("rows_of", "share"), [(4, 0.15), (16, 0.06), (64, 0.035)])
@pytest.mark.parametrize("corpus", ["chat", "pieces", "heavy"])
def test_little_is_padding_in_lengths_as_they_occur(corpus, rows_of, share):
    """Counted over micro-batches of about `rows_of` rows; of few rows, the one that is not full is much."""
    draw, width = np.random.default_rng(0), 2048
    lengths = {
        "chat": np.clip(draw.lognormal(5.5, 0.9, 6000), 8, width),  # turns of a few hundred tokens
        "pieces": np.where(draw.random(6000) < 0.5, width, draw.integers(1, width, 6000)),  # long documents, cut
        "heavy": np.clip(draw.pareto(1.1, 6000) * 60 + 5, 5, width),
    }[corpus].astype(np.int64)
    size = max(1, round(rows_of * width / lengths.mean()))
    parts = [lengths[start : start + size] for start in range(0, min(len(lengths), 20 * size), size)]
    slots, padded = (sum(arrange(part, name, width).num_slots for part in parts) for name in ("rows", "padded"))
    assert 1 - sum(int(part.sum()) for part in parts) / slots < share
    assert slots < padded * {"chat": 0.5, "pieces": 0.9, "heavy": 0.4}[corpus]


def test_chat_of_four_rows_has_hardly_any_padding():
    """Narrower rows are found where the widest would leave a row half empty."""
    draw = np.random.default_rng(0)
    parts = np.clip(draw.lognormal(5.5, 0.9, (40, 23)), 8, 2048).astype(np.int64)
    slots = sum(arrange(part, "rows", 2048).num_slots for part in parts)
    assert 1 - parts.sum() / slots < 0.04


def test_rows_are_no_wider_than_it_takes_to_fill_them():
    """Attention under a mask costs a row's width: short sequences are not laid side by side for its sake."""
    assert arrange(np.full(60, 64), "rows", 4096).shape == (60, 64)
    lengths = np.clip(np.random.default_rng(0).lognormal(5.5, 0.9, 64), 8, 2000).astype(np.int64)
    places = arrange(lengths, "rows", 4096)
    assert places.shape[1] < 2500
    assert 1 - lengths.sum() / places.num_slots < 0.05
