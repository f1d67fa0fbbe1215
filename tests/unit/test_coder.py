"""The entropy coder: what is packed comes back, by either route, whole or in part."""

import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcore.errors import LabelError
from kdcore.labels import Encoded, RowView, SparseLabels, label_seeds
from kdcore.labels.coder import BLOCK_LABELS, Block, CoderModel, blocks, compiled, rans
from kdcore.labels.coder.buckets import bucket, num_symbols
from kdcore.labels.coder.in_step import decode_in_step
from kdcore.labels.counts import CountsCodec
from tests.support.labels import (
    CODECS,
    codec_of,
    counts_of,
    logits_of,
    model_of,
    no_seeds,
    packed,
    per_label,
    random_labels,
    without_numba,
)

pytest.importorskip("numba", reason="the compiled route is half of these tests")

EDGE_IDS = np.array([0, 1, 127, 65_535, 65_536, 131_071, 131_072, 151_935, 262_143])


def _targets(rng: np.random.Generator, labels: Encoded, classes: int, kind: str) -> np.ndarray | None:
    """Hard labels: none, anything (unknown ones too), or one of each label's classes."""
    num_labels = len(labels["entries"])
    if kind == "none":
        return None
    if kind == "random":
        return rng.integers(-1, classes + 2, num_labels)
    firsts = np.cumsum(labels["entries"]) - labels["entries"]
    return labels["ids"][firsts + rng.integers(0, labels["entries"])].astype(np.int64)


def _split(labels: Encoded, sizes: list[int]) -> list[Encoded]:
    """Labels as rows of so many labels."""
    ends = np.cumsum(sizes)[:-1]
    entry_ends = np.concatenate([[0], np.cumsum(labels["entries"])])[ends]
    columns = {name: np.split(labels[name], entry_ends) for name in ("ids", "counts")}
    columns["entries"] = np.split(labels["entries"], ends)
    return [{name: columns[name][row] for name in columns} for row in range(len(sizes))]


def _check(codec: CountsCodec, labels: SparseLabels, wanted: Encoded) -> None:
    found = per_label(labels.ids, counts_of(labels, codec.draws), labels.offsets.diff())
    assert found == per_label(wanted["ids"], wanted["counts"], wanted["entries"])
    assert (labels.ids.dtype, labels.weights.dtype, labels.offsets.dtype) == (torch.int64, torch.float32, torch.int64)


def _pack_and_read(codec: CountsCodec, labels: Encoded, sizes: list[int], targets: np.ndarray | None) -> list[RowView]:
    ends = np.cumsum(sizes)[:-1]
    per_row = [None] * len(sizes) if targets is None else np.split(targets, ends)
    return packed(codec, _split(labels, sizes), per_row, sizes)


SIZES = st.lists(st.sampled_from([0, 1, 2, 5, 127, 128, 129, 300, 400]), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 10**6),
    st.one_of(st.integers(1, 5000), st.sampled_from([1, 2, 3, 128])),
    st.one_of(st.integers(1, 575), st.sampled_from([1, 2, 50])),
    SIZES,
    st.sampled_from(["none", "random", "own"]),
    st.booleans(),
    st.data(),
)
def test_what_is_packed_comes_back(seed, classes, draws, sizes, kind, learnt, data):
    """Whole and in slices; by the compiled loops and by numpy, to the bit; with tables of these labels or of others."""
    rng = np.random.default_rng(seed)
    if draws * sum(sizes) > 20_000:
        sizes = [min(size, 129) for size in sizes[:2]]
    labels = random_labels(rng, sum(sizes), draws, classes)
    targets = _targets(rng, labels, classes, kind)
    model = model_of(labels, draws, classes, targets) if learnt else codec_of("sampled", draws, classes).model
    codec = CODECS["threshold"](model)
    rows = _pack_and_read(codec, labels, sizes, targets)
    whole = codec.decode(rows, [0] * len(rows), sizes)
    _check(codec, whole, labels)
    starts = [data.draw(st.integers(0, size)) for size in sizes]
    stops = [data.draw(st.integers(start, size)) for start, size in zip(starts, sizes, strict=True)]
    some = codec.decode(rows, starts, stops)
    begins = np.cumsum([0, *sizes[:-1]])
    wanted = np.concatenate([b + np.arange(i, j) for b, i, j in zip(begins, starts, stops, strict=True)])
    _same(some, whole.index(wanted.tolist()))
    if len(labels["ids"]) > 1000:  # symbol by symbol, numpy is slow
        return
    with pytest.MonkeyPatch.context() as patch:
        without_numba(patch)
        _same(codec.decode(rows, [0] * len(rows), sizes), whole)
        _same(codec.decode(rows, starts, stops), some)
        for row, other in zip(rows, _pack_and_read(codec, labels, sizes, targets), strict=True):
            for column in ("codes", "block_words"):
                assert row.columns[column].dtype == other.columns[column].dtype
                np.testing.assert_array_equal(row.columns[column], other.columns[column])


def _same(first: SparseLabels, second: SparseLabels) -> None:
    for name in ("ids", "weights", "offsets"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype
    assert first.num_classes == second.num_classes


def test_several_threads_give_the_labels_of_one_and_name_the_first_damaged_block(monkeypatch):
    """Three parts, of which the last is smaller; a damaged block in each of the last two."""
    rng = np.random.default_rng(0)
    sizes = [*rng.integers(1, 140, 50).tolist(), 0, 3 * BLOCK_LABELS]
    codec, labels = codec_of("threshold", 9, 60), random_labels(rng, sum(sizes), 9, 60)
    rows = packed(codec, _split(labels, sizes), [None] * len(sizes), sizes)
    starts = [size // 3 for size in sizes]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    whole = codec.decode(rows, starts, sizes)
    names: list[str] = []
    decode = blocks._compiled

    def noted(*arguments: Any) -> Any:
        names.append(threading.current_thread().name)
        return decode(*arguments)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(blocks, "_compiled", noted)
    _same(codec.decode(rows, starts, sizes), whole)
    assert len(names) == 3
    assert all(name.startswith("kdcore-decode") for name in names)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kdcore-decode")]
    for row in (45, 30):
        codes = rows[row].columns["codes"].copy()
        codes[1] ^= 0x5555
        rows[row] = RowView({**rows[row].columns, "codes": codes}, sizes[row])
    before = sum(-(-size // BLOCK_LABELS) for size in sizes[:30])
    with pytest.raises(LabelError, match=f"block {before} of this read"):
        codec.decode(rows, [0] * len(sizes), sizes)


@pytest.mark.parametrize("classes", [262_144, 1 << 20])
@pytest.mark.parametrize("kind", ["none", "own"])
def test_ids_of_large_vocabularies_come_back(classes, kind):
    rng = np.random.default_rng(3)
    pool = np.unique(np.concatenate([EDGE_IDS, [classes - 1, classes - 2], rng.integers(0, classes, 80)]))
    labels = random_labels(rng, 60, 50, classes, pool)  # symbol by symbol, numpy is slow
    targets = _targets(rng, labels, classes, kind)
    # The prior is flat but for a few: most ranks are far out, and gaps need all of their plain bits.
    prior = np.zeros(classes)
    prior[pool[:3]] = 1.0
    none = [np.empty(0, np.int64)] * 3
    for tables in (model_of(labels, 50, classes, targets), CoderModel.learn(prior, 50, *none, None)):
        codec = CODECS["sampled"](tables)
        rows = _pack_and_read(codec, labels, [60], targets)
        whole = codec.decode(rows, [0], [60])
        assert set(EDGE_IDS) <= set(whole.ids.tolist())
        _check(codec, whole, labels)
        with pytest.MonkeyPatch.context() as patch:
            without_numba(patch)
            _same(codec.decode(rows, [0], [60]), whole)


@pytest.mark.parametrize("name", ["sampled", "threshold"])
@pytest.mark.parametrize(
    "logits",
    [
        torch.zeros(200, 400),
        torch.where(torch.arange(400) == 77, 0.0, float("-inf")).expand(200, -1),
        torch.where(torch.arange(400) % 3 == 0, logits_of(200, 400), float("-inf")),
        logits_of(200, 1),
        logits_of(200, 2),
    ],
    ids=["equal", "one-hot", "masked", "V = 1", "V = 2"],
)
def test_odd_distributions_come_back(name, logits):
    for draws in (1, 2, 50, 575):
        codec = codec_of(name, draws, logits.shape[1])
        encoded = codec.encode(logits, label_seeds(bytes(16), 200))
        for targets in (None, np.full(200, 77 % logits.shape[1])):
            _check(codec, codec.decode(packed(codec, [encoded], [targets], [200]), [0], [200]), encoded)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 256, 257])
def test_rows_have_a_block_for_every_128_labels(size):
    codec = codec_of("threshold", 9, 60)
    labels = random_labels(np.random.default_rng(size), size, 9, 60)
    row = packed(codec, [labels], [None], [size])[0]
    assert len(row.columns["block_words"]) == -(-size // BLOCK_LABELS)
    assert row.columns["block_words"].sum() == len(row.columns["codes"])
    assert (row.columns["block_words"] >= 2).all()
    for start in range(max(0, size - 2), size + 1):
        _check(codec, codec.decode([row], [start], [size]), _split(labels, [start, size - start])[1])
    assert codec.decode([row], [size], [size]).num_labels == 0


def test_an_empty_slice_at_the_edge_of_a_block_takes_nothing_from_its_neighbour():
    codec = codec_of("threshold", 9, 60)
    rng = np.random.default_rng(0)
    labels = random_labels(rng, 300, 9, 60)
    targets = _targets(rng, labels, 60, "own")
    rows = _pack_and_read(codec, labels, [200, 100], targets)
    _check(codec, codec.decode(rows, [128, 0], [128, 100]), _split(labels, [200, 100])[1])
    _check(codec, codec.decode(rows, [0, 0], [0, 100]), _split(labels, [200, 100])[1])


def test_documents_of_one_token_have_no_labels():
    codec = codec_of("threshold", 9, 60)
    none = codec.encode(torch.zeros(0, 60), no_seeds(0))
    rows = packed(codec, [none, none], [np.empty(0, np.int64), None], [0, 0])
    assert all(row.columns[name].size == 0 for row in rows for name in row.columns)
    assert codec.decode(rows, [0, 0], [0, 0]).num_labels == 0
    assert codec.decode([], [], []).num_labels == 0
    assert codec.pack([], []) == []


def test_the_order_of_entries_within_a_label_does_not_matter():
    codec = codec_of("threshold", 9, 60)
    labels = random_labels(np.random.default_rng(0), 50, 9, 60)
    turned = {
        "ids": np.concatenate([part["ids"][::-1] for part in _split(labels, [1] * 50)]),
        "counts": np.concatenate([part["counts"][::-1] for part in _split(labels, [1] * 50)]),
        "entries": labels["entries"],
    }
    first, second = (codec.pack([each], [None])[0]["codes"] for each in (labels, turned))
    np.testing.assert_array_equal(first, second)


def test_a_known_hard_label_costs_less_than_its_id():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, 400, 4, 5000)
    targets = _targets(rng, labels, 5000, "own")
    codec = CODECS["threshold"](model_of(labels, 4, 5000, targets))
    with_targets = codec.pack([labels], [targets])[0]["codes"].nbytes
    without = CODECS["threshold"](model_of(labels, 4, 5000)).pack([labels], [None])[0]["codes"].nbytes
    assert with_targets < 0.75 * without


@pytest.mark.parametrize("draws", [1, 6, 50])
def test_the_cost_that_is_told_is_what_is_written(draws):
    labels = random_labels(np.random.default_rng(0), 4096, draws, 700)
    codec = CODECS["sampled"](model_of(labels, draws, 700))
    columns = codec.pack([labels], [None])[0]
    found = (columns["codes"].nbytes + columns["block_words"].nbytes) / 4096
    assert found == pytest.approx(codec.bytes_per_label(), rel=0.02)


def test_a_small_room_gives_the_same_labels(monkeypatch):
    labels = random_labels(np.random.default_rng(0), 700, 9, 60)
    codec = codec_of("threshold", 9, 60)
    rows = packed(codec, [labels, labels], [None, None], [700, 700])
    whole = codec.decode(rows, [3, 0], [690, 700])
    monkeypatch.setattr(blocks, "_ROOM", 2 * 128 * 9)
    _same(codec.decode(rows, [3, 0], [690, 700]), whole)


def test_hard_labels_of_another_number_are_refused():
    codec = codec_of("threshold", 9, 60)
    labels = random_labels(np.random.default_rng(0), 20, 9, 60)
    for targets in (np.zeros(19, np.int64), np.zeros(21, np.int64), np.zeros(0, np.int64)):
        with pytest.raises(LabelError, match="20 labels"):
            codec.pack([labels], [targets])
        columns = codec.pack([labels], [None])[0]
        with pytest.raises(LabelError, match="20 labels"):
            codec.decode([RowView(columns, 20, targets)], [0], [20])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ids", [3, 5, 60]),
        ("ids", [3, -1, 9]),
        ("ids", [3, 5]),
        ("counts", [4, 5, 8]),
        ("counts", [9, 0, 9]),
        ("counts", [4, 5]),
        ("entries", [1, 2]),
        ("entries", [3, 0]),
        ("entries", [2, 1, 1]),
    ],
)
def test_what_is_no_label_is_not_coded(name, values, fast, monkeypatch):
    if not fast:
        without_numba(monkeypatch)
    codec = codec_of("threshold", 9, 60)
    right = {
        "ids": np.array([3, 5, 9], np.int32),
        "counts": np.array([4, 5, 9], np.uint16),
        "entries": np.array([2, 1]),
    }
    _check(codec, codec.decode(packed(codec, [right], [None], [2]), [0], [2]), right)
    wrong = {**right, name: np.array(values, right[name].dtype)}
    with pytest.raises(LabelError, match="9 draws each, of classes below 60"):
        codec.pack([wrong], [None])


def test_a_class_that_is_twice_in_a_label_is_not_coded():
    codec = codec_of("threshold", 9, 60)
    twice = {"ids": np.array([3, 3], np.int32), "counts": np.array([4, 5], np.uint16), "entries": np.array([2])}
    for targets in (None, np.array([5])):
        with pytest.raises(LabelError, match="twice"):
            codec.pack([twice], [targets])


@pytest.mark.parametrize(("draws", "classes"), [(1, 1), (3, 40), (60, 4000), (65_535, 300), (50, 1 << 20)])
def test_both_routes_make_the_same_pieces(draws, classes):
    """Labels of one class to as many as there can be; compiled pieces are numpy's, before any word is written."""
    rng = np.random.default_rng(draws)
    labels = random_labels(rng, 200, draws, classes, np.unique(rng.integers(0, classes, 4000)))
    targets = _targets(rng, labels, classes, "own")
    model = model_of(labels, draws, classes, targets)
    arrays = (model, labels["ids"], labels["counts"], labels["entries"], targets)
    fast = blocks._pieces(*arrays)
    with pytest.MonkeyPatch.context() as patch:
        without_numba(patch)
        for mine, other in zip(fast, blocks._pieces(*arrays), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_without_numba_numpy_takes_over(monkeypatch):
    """The import of the loops fails as it does where numba is missing; words and labels are the same."""
    codec = codec_of("threshold", 9, 60)
    labels = random_labels(np.random.default_rng(0), 200, 9, 60)
    assert compiled.compiled() is not None
    row = packed(codec, [labels], [None], [200])[0]
    monkeypatch.setitem(sys.modules, "kdcore.labels.coder.loops", None)
    monkeypatch.delattr("kdcore.labels.coder.loops")
    compiled.compiled.cache_clear()
    try:
        assert compiled.compiled() is None
        again = packed(codec, [labels], [None], [200])[0]
        np.testing.assert_array_equal(again.columns["codes"], row.columns["codes"])
        _check(codec, codec.decode([row], [0], [200]), labels)
    finally:
        compiled.compiled.cache_clear()


# --- the parts ---


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**50), max_size=30))
def test_buckets_and_their_bits_tell_the_number(values):
    numbers = np.array([0, 1, 2, 3, 4, 5, 7, 8, 2**31 - 1, 2**53 - 1, *values], np.int64)
    symbols, bits = bucket(numbers)
    for number, symbol, width in zip(numbers.tolist(), symbols.tolist(), bits.tolist(), strict=True):
        base = symbol if symbol < 4 else (4 + symbol % 4) << (symbol // 4 - 1)
        assert width == (0 if symbol < 4 else symbol // 4 - 1)
        assert base <= number < base + (1 << width)
    order = np.sort(numbers)
    assert (np.diff(bucket(order)[0]) >= 0).all()
    assert num_symbols(0) == 1
    assert num_symbols(2**31 - 2) < 128


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=7), st.integers(0, 10**6))
def test_both_encoders_write_the_same_words(per_block, seed):
    rng = np.random.default_rng(seed)
    total = sum(per_block)
    frequencies = np.where(rng.random(total) < 0.2, rng.choice([1, 4096], total), rng.integers(1, 4097, total))
    starts = rng.integers(0, 4097 - frequencies)
    fast = compiled.compiled()
    assert fast is not None
    sizes = np.array(per_block, np.int64)
    words, lengths = fast.encode_blocks(frequencies, starts, sizes)
    wanted, wanted_lengths = rans._encode_in_step(frequencies, starts, sizes)
    assert (words.dtype, lengths.dtype) == (wanted.dtype, wanted_lengths.dtype) == (np.uint16, np.int32)
    np.testing.assert_array_equal(words, wanted)
    np.testing.assert_array_equal(lengths, wanted_lengths)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 100))
def test_tables_can_code_everything(draws, classes, seed):
    """Every symbol that can occur has a frequency, every row sums to 4096, on tables that saw next to nothing."""
    labels = random_labels(np.random.default_rng(seed), seed % 3, draws, classes)
    model = model_of(labels, draws, classes)
    assert CoderModel.from_bytes(model.to_bytes()) == model
    assert (model.frequencies.sum(1, dtype=np.int64) == 4096).all()
    for slot in range(0, 4096, 37):
        symbol = (model.starts <= slot).sum(1) - 1
        begin = model.symbols_by_slot[:, slot // 16]
        assert (begin <= symbol).all()


# --- damage ---


def _short_row(targets: bool) -> tuple[CountsCodec, RowView]:
    rng = np.random.default_rng(5)
    labels = random_labels(rng, 10, 7, 40)
    hard = _targets(rng, labels, 40, "own") if targets else None
    codec = CODECS["threshold"](model_of(labels, 7, 40, hard))
    return codec, packed(codec, [labels], [hard], [10])[0]


def _read(codec: CountsCodec, row: RowView, codes: np.ndarray, stop: int = 10) -> SparseLabels | None:
    """Labels that can be, or None for a refusal. Anything else is a failure of the test."""
    sizes = row.columns["block_words"]
    sizes = sizes if len(codes) == sizes.sum() else np.array([len(codes)], np.int32)
    try:
        found = codec.decode([RowView({"codes": codes, "block_words": sizes}, 10, row.targets)], [0], [stop])
    except LabelError:
        return None
    assert found.num_labels == stop
    assert (counts_of(found, codec.draws) > 0).all()
    assert ((found.ids >= 0) & (found.ids < codec.num_classes)).all()
    sums = np.add.reduceat(counts_of(found, codec.draws), found.offsets[:-1].numpy())
    assert (sums == codec.draws).all()
    return found


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("fast", [True, False])
def test_every_flipped_bit_is_refused_or_gives_labels_that_can_be(targets, fast, monkeypatch):
    if not fast:
        without_numba(monkeypatch)
    codec, row = _short_row(targets)
    whole = _read(codec, row, row.columns["codes"])
    assert whole is not None
    refused = 0
    places = range(0, 16 * len(row.columns["codes"]), 1 if fast else 5)  # symbol by symbol, numpy is slow
    for place in places:
        codes = row.columns["codes"].copy()
        codes[place // 16] ^= 1 << place % 16
        found = _read(codec, row, codes)
        refused += found is None
        assert found is None or not torch.equal(found.ids, whole.ids) or not torch.equal(found.weights, whole.weights)
        _read(codec, row, codes, stop=4)
    assert refused >= 0.95 * len(places)  # the last state is 32 bits of a check sum


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("fast", [True, False])
def test_truncated_words_are_refused(targets, fast, monkeypatch):
    if not fast:
        without_numba(monkeypatch)
    codec, row = _short_row(targets)
    codes = row.columns["codes"]
    for length in range(len(codes)):
        assert _read(codec, row, codes[:length]) is None
    assert _read(codec, row, np.append(codes, np.uint16(0))) is None


@pytest.mark.parametrize(
    "sizes", [[], [3], [-1], [10**6], [2, 2], [0, 10**6, -(10**6)], [2**31 - 1, 2**31 - 1], [-(2**31), 2**31 - 1]]
)
def test_blocks_that_do_not_fit_their_words_are_refused(sizes):
    codec, row = _short_row(False)
    columns = {**row.columns, "block_words": np.array(sizes, np.int32)}
    with pytest.raises(LabelError):
        codec.decode([RowView(columns, 10)], [0], [10])


@pytest.mark.parametrize("value", [-1, 40, 2**40, -(2**40)])
@pytest.mark.parametrize("fast", [True, False])
def test_a_hard_label_that_is_no_class_is_refused_where_a_label_needs_it(value, fast, monkeypatch):
    if not fast:
        without_numba(monkeypatch)
    codec, row = _short_row(True)
    with pytest.raises(LabelError):
        codec.decode([RowView(row.columns, 10, np.full(10, value))], [0], [10])
    with pytest.raises(LabelError):
        codec.decode([RowView(row.columns, 10)], [0], [10])


def test_both_routes_read_the_same_labels_from_damaged_words():
    """Or both refuse, except where the compiled one runs over the end of a block and only then notices."""
    codec, _ = _short_row(False)
    rng = np.random.default_rng(0)
    assert compiled.compiled() is not None
    for _ in range(300):
        codes = rng.integers(0, 1 << 16, rng.integers(2, 40)).astype(np.uint16)
        one = np.zeros(1, np.int64)
        block = Block(one, one + len(codes), one + 10, one, one + 1)
        try:
            wanted = decode_in_step(codec.model, codes, block, np.full(10, -1))
        except LabelError:
            continue
        found = blocks.decode(codec.model, codes, block, np.full(10, -1))
        for mine, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(mine, other)
