"""Codec `span`: what a teacher says of its own tokens, in bytes of the text."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config import Recipe
from kdcore.errors import LabelError, StoreError
from kdcore.evaluation.fidelity import fidelity
from kdcore.evaluation.label_distance import distance, room
from kdcore.labels import RowView, SpanCodec, SpanLabels, best_class, codec_from_spec, concat
from kdcore.labels.byte_sizes import pack_places, unpack_places
from kdcore.labels.learn import ProbeBatch
from kdcore.labels.span import span_outputs
from kdcore.store import batches_from_rows, ranked, store_schema
from kdcore.store.schema import ShardRow

CODEC = SpanCodec()


def outputs_of(count: int, seed: int = 0) -> torch.Tensor:
    """Labels of tokens of 0 to 20 bytes with a gap now and then."""
    random = np.random.default_rng(seed)
    sizes, gaps = random.integers(0, 20, count), random.integers(0, 2, count) * random.integers(0, 600, count)
    ends = np.cumsum(sizes + gaps)
    logs = np.log(random.uniform(1e-9, 1, (2, count)))
    return torch.from_numpy(np.stack([*logs, ends - sizes, ends], 1).astype(np.float64))


def packed(outputs: torch.Tensor) -> dict[str, np.ndarray]:
    """The columns of one row."""
    return CODEC.pack([CODEC.encode(outputs, np.zeros(len(outputs), np.uint64))], [None])[0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3) | st.integers(0, 2000), st.integers(0, 40) | st.integers(0, 2000))))
def test_places_come_back(pairs: list[tuple[int, int]]) -> None:
    gaps, sizes = np.array(pairs, np.int64).reshape(-1, 2).T
    ends = np.cumsum(gaps + sizes)
    found = unpack_places(pack_places(ends - sizes, ends), len(pairs))
    assert np.array_equal(found[0], ends - sizes)
    assert np.array_equal(found[1], ends)


def test_a_short_token_takes_half_a_byte() -> None:
    ends = np.cumsum(np.full(100, 13))
    assert len(pack_places(ends - 13, ends)) == 50


@pytest.mark.parametrize("cut", [0, 1, 5, -1])
def test_places_of_another_number_of_tokens_are_refused(cut: int) -> None:
    whole = pack_places(np.array([0, 5, 900, 1000]), np.array([5, 90, 950, 3000]))
    with pytest.raises(LabelError, match="altered"):
        unpack_places(whole[:cut], 4)
    with pytest.raises(LabelError, match="altered"):
        unpack_places(whole, 3)
    with pytest.raises(LabelError, match="altered"):
        unpack_places(np.append(whole, np.uint8(3)), 4)


def test_tokens_that_overlap_are_refused() -> None:
    with pytest.raises(LabelError, match="another text"):
        pack_places(np.array([0, 3]), np.array([4, 5]))


def test_what_comes_back_is_within_the_stated_errors() -> None:
    outputs = outputs_of(500)
    found = CODEC.decode([RowView(packed(outputs), 500)], [0], [500])
    own, boundary, begins, ends = outputs.unbind(1)
    assert ((found.log_probs - own).abs() <= own.abs() / 2048 + 1e-7).all()
    assert ((found.boundary_log_probs - boundary).abs() <= (-boundary).sqrt() / 53 + 1e-4).all()
    assert torch.equal(found.begins, begins.long())
    assert torch.equal(found.ends, ends.long())
    assert sum(values.nbytes for values in packed(outputs_of(500)).values()) / 500 < 6


def test_slices_are_of_the_whole_row() -> None:
    rows = [RowView(packed(outputs_of(count, count)), count) for count in (7, 0, 12)]
    whole = CODEC.decode(rows, [0, 0, 0], [7, 0, 12])
    parts = [CODEC.decode(rows, [2, 0, 5], [4, 0, 12]), CODEC.decode(rows[:1], [0], [0])]
    expected = whole.index([2, 3, *range(12, 19)])
    assert isinstance(expected, SpanLabels)
    for name, values in vars(parts[0]).items():
        assert torch.equal(values, getattr(expected, name))
    assert parts[1].num_labels == 0
    assert concat(parts).num_labels == 9
    assert CODEC.decode([], [], []).num_labels == 0


def test_damage_is_refused() -> None:
    columns = packed(outputs_of(9))
    for name, value in (("token_log_probs", np.float16(0.5)), ("token_log_probs", np.float16("nan"))):
        broken = {**columns, name: np.where(np.arange(9) == 3, value, columns[name])}
        with pytest.raises(LabelError, match="altered"):
            CODEC.decode([RowView(broken, 9)], [0], [9])
    lengths = {name: np.array([len(values)]) for name, values in columns.items()}
    assert CODEC.misfit(lengths, np.array([9])) is None
    for name in columns:
        assert CODEC.misfit({**lengths, name: np.array([3])}, np.array([9])) == 0
    assert CODEC.misfit({name: np.array([int(name == "byte_sizes")]) for name in columns}, np.array([0])) == 0


def test_log_probabilities_that_are_none_are_refused() -> None:
    outputs = outputs_of(3)
    outputs[1, 0] = float("nan")
    with pytest.raises(LabelError, match="float32"):
        CODEC.encode(outputs, np.zeros(3, np.uint64))
    with pytest.raises(LabelError, match="four numbers"):
        CODEC.encode(outputs[:, :3], np.zeros(3, np.uint64))


def test_of_logits() -> None:
    torch.manual_seed(0)
    logits, marks = torch.randn(5, 11), torch.arange(11) % 3 == 0
    targets = np.array([0, 3, 10, 4, 4])
    found = span_outputs(logits, targets, np.arange(5), np.arange(5) + 1, marks)
    wide = logits.double().log_softmax(1)
    assert torch.allclose(found[:, 0], wide[torch.arange(5), targets], atol=1e-6)
    assert torch.allclose(found[:, 1].exp(), wide.exp()[:, marks].sum(1), atol=1e-6)
    logits[2, 1] = float("nan")
    with pytest.raises(LabelError, match="row 2"):
        span_outputs(logits, targets, np.arange(5), np.arange(5) + 1, marks)


def test_specs() -> None:
    assert codec_from_spec(CODEC.spec()) == CODEC
    for spec in ({"type": "span"}, {**CODEC.spec(), "boundary": "none"}, {**CODEC.spec(), "more": 1}):
        with pytest.raises(StoreError, match="span"):
            codec_from_spec(spec)


def test_they_are_no_distributions() -> None:
    labels = CODEC.decode([RowView(packed(outputs_of(3)), 3)], [0], [3])
    for refused in (best_class, lambda labels: ranked(labels, 3)):
        with pytest.raises(LabelError, match="spans"):
            refused(labels)
    with pytest.raises(LabelError, match="four values"):
        SpanLabels(labels.log_probs, labels.log_probs[:1], labels.begins, labels.ends)


def test_a_shard_has_the_log_probabilities_once() -> None:
    schema = store_schema("text", CODEC, 300)
    assert schema.names.count("token_log_probs") == 1
    row = ShardRow(b"k" * 16, "name", 1, packed(outputs_of(4)), tokens=np.arange(5))
    batch = next(iter(batches_from_rows(schema, [row])))
    assert batch.num_rows == 1


def test_figures_of_a_probe() -> None:
    probe = ProbeBatch(torch.cat([outputs_of(50), outputs_of(30, 1)]).float(), None, np.zeros(80, np.uint64))
    found = fidelity(CODEC, probe)
    assert found["labels"] == 80
    assert 0 < found["log_prob_error"] < 4e-3
    assert 0 < found["boundary_error"] < 1e-2
    assert found["bytes_per_label"]["total"] == sum(list(found["bytes_per_label"].values())[:-1])


def test_distances() -> None:
    outputs = outputs_of(40)
    stored, fresh = (CODEC.decode([RowView(packed(each), 40)], [0], [40]) for each in (outputs, outputs))
    assert float(distance(stored, fresh).max()) == 0
    exact = SpanLabels(*outputs[:, :2].float().T, *outputs[:, 2:].long().T)
    assert (distance(stored, exact) <= room(CODEC, exact, "float32")).all()
    moved = SpanLabels(exact.log_probs, exact.boundary_log_probs, exact.begins, exact.ends + 1)
    assert (distance(stored, moved) == 1).all()


def test_images_have_no_bytes_of_text() -> None:
    data = {"type": "digits"}
    teacher = {"type": "image_classifier", "source": "convnet", "fit": {"epochs": 1}}
    with pytest.raises(ValueError, match="tokens of a text"):
        Recipe.model_validate({"name": "x", "data": data, "teacher": teacher, "labels": {"codec": {"type": "span"}}})
