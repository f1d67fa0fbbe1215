"""Files that an earlier version wrote (tests/golden/make.py) are still read, and labels are still packed into them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdcore.labels import (
    Codec,
    DenseLabels,
    FeatureCodec,
    FeatureLabels,
    RowView,
    SampledCodec,
    SpanLabels,
    SparseLabels,
    ThresholdCodec,
    TopKLabels,
    codec_from_spec,
)
from kdcore.labels.coder.layout import PLAIN
from kdcore.labels.views import pack_views
from kdcore.store import store_schema
from kdcore.store.columns import batch_views, check_batch, list_offsets, list_values
from kdcore.store.schema import schema_metadata, views_of_schema
from tests.support.labels import counts_of, per_label, without_numba

NAMES = ["topk", "topk8", "dense16", "dense8", "feature16", "feature8", "shaped8", "span", "threshold", "sampled"]
FOLDER = Path(__file__).parent.parent / "golden"


def read(name: str) -> tuple[Codec, list[RowView]]:
    """Codec and rows from the shard's own metadata, and the state beside it."""
    with pa.memory_map(str(FOLDER / f"{name}.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
        metadata = json.loads(table.schema.metadata[b"kdcore"])
        assert metadata["format"] == 2
        state = FOLDER / f"{name}.state"
        codec = codec_from_spec(metadata["codec"], state.read_bytes() if state.exists() else None)
        assert codec.spec() == metadata["codec"]
        assert codec.fields() == [table.schema.field(each.name) for each in codec.fields()]
        columns = {
            each: [np.array(row.values.to_numpy(zero_copy_only=False)) for row in table.column(each)]
            for each in table.schema.names[1:]
        }
    tokens = columns.pop("tokens")
    rows = [
        RowView({each: columns[each][row] for each in columns}, len(ids) - 1, ids[1:]) for row, ids in enumerate(tokens)
    ]
    return codec, rows


def wanted(name: str) -> list:
    return json.loads((FOLDER / f"{name}.json").read_text())


def everything(codec: Codec, rows: list[RowView]):
    return codec.decode(rows, [0] * len(rows), [row.num_labels for row in rows])


@pytest.mark.parametrize("name", NAMES)
def test_golden_shards_are_small(name):
    assert (FOLDER / f"{name}.arrow").stat().st_size < 10_000


@pytest.mark.parametrize("name", ["dense16", "dense8", "feature16", "feature8", "shaped8", "span", "topk", "topk8"])
def test_flat_golden_shards_decode_as_ever(name):
    codec, rows = read(name)
    labels = everything(codec, rows)
    values = np.array([[-np.inf if value is None else value for value in row] for row in wanted(name)])
    if isinstance(labels, TopKLabels):
        assert labels.ids.tolist() == values[:, :4].astype(int).tolist()
        np.testing.assert_allclose(labels.log_probs.numpy(), values[:, 4:8], rtol=0, atol=2e-6)
        np.testing.assert_allclose(labels.tail_log_prob.numpy(), values[:, 8], rtol=0, atol=2e-6)
    elif isinstance(labels, DenseLabels):
        np.testing.assert_allclose(labels.log_probs.numpy(), values, rtol=0, atol=2e-6)
    elif isinstance(labels, SpanLabels):
        found = np.stack([each.double().numpy() for each in vars(labels).values()], 1)
        np.testing.assert_allclose(found, values, rtol=0, atol=2e-6)
        again = codec.pack([{**row.columns, **_places(values, rows, place)} for place, row in enumerate(rows)], [])
        for new, row in zip(again, rows, strict=True):
            np.testing.assert_array_equal(new["byte_sizes"], row.columns["byte_sizes"])
    else:
        assert isinstance(labels, FeatureLabels)
        assert isinstance(codec, FeatureCodec)
        first, shape = ("maps", (2, 1, 2)) if name == "shaped8" else ("layers.1", (4,))
        assert labels.layers == ((first, 4), ("pooled", 2))
        assert codec.shape_of() == {first: shape, "pooled": (2,)}
        np.testing.assert_allclose(labels.features.numpy(), values, rtol=0, atol=2e-6)


def _places(values: np.ndarray, rows: list[RowView], place: int) -> dict[str, np.ndarray]:
    first = sum(row.num_labels for row in rows[:place])
    begins, ends = values[first : first + rows[place].num_labels, 2:].astype(int).reshape(-1, 2).T
    return {"begins": begins, "ends": ends}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["threshold", "sampled"])
def test_coded_golden_shards_decode_as_ever(name, fast, monkeypatch):
    if not fast:
        without_numba(monkeypatch)
    codec, rows = read(name)
    labels = everything(codec, rows)
    assert isinstance(labels, SparseLabels)
    assert isinstance(codec, SampledCodec | ThresholdCodec)
    assert codec.name == name
    assert codec.seed == 7
    found = per_label(labels.ids, counts_of(labels, codec.draws), labels.offsets.diff())
    assert found == [{int(i): count for i, count in label.items()} for label in wanted(name)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["threshold", "sampled"])
def test_golden_labels_are_packed_into_the_same_bytes(name, fast, monkeypatch):
    """From whole counts, so that no floating point of this machine is in between."""
    if not fast:
        without_numba(monkeypatch)
    codec, rows = read(name)
    labels = wanted(name)
    encoded = []
    for row in rows:
        mine, labels = labels[: row.num_labels], labels[row.num_labels :]
        ids = np.array([int(i) for label in mine for i in label], np.int32)
        counts = np.array([count for label in mine for count in label.values()], np.uint16)
        encoded.append({"ids": ids, "counts": counts, "entries": np.array([len(label) for label in mine], np.int64)})
    for row, again in zip(rows, codec.pack(encoded, [row.targets for row in rows]), strict=True):
        for column in ("codes", "block_words"):
            assert again[column].dtype == row.columns[column].dtype
            np.testing.assert_array_equal(again[column], row.columns[column])


def test_golden_labels_use_every_part_of_the_code():
    """Blocks that are full and not, flags set and not, and more plain bits than fit one piece."""
    codec, rows = read("sampled")
    assert isinstance(codec, SampledCodec)
    assert [row.num_labels for row in rows] == [3, 0, 130, 1]
    labels = wanted("sampled")
    ids = np.array([int(i) for label in labels for i in label])
    counts = np.array([count for label in labels for count in label.values()])
    targets = np.concatenate([row.targets for row in rows if row.targets is not None])
    symbols = codec.model.symbols(ids, counts, np.array([len(label) for label in labels]), targets)
    follows = (symbols.contexts[:-1] == PLAIN) & (symbols.contexts[1:] == PLAIN)
    assert follows.any()
    known = [str(target) in label for target, label in zip(targets, labels, strict=True)]
    assert any(known)
    assert not all(known)


def test_golden_views_are_read_and_packed_as_ever():
    with pa.memory_map(str(FOLDER / "views.arrow")) as source:
        (batch,) = pa.ipc.open_file(source).read_all().to_batches()
        assert batch.nbytes < 10_000
        spec = views_of_schema(batch.schema)
        assert spec is not None
        codec = codec_from_spec(schema_metadata(batch.schema)["codec"], None)
        assert batch.schema.equals(store_schema("image", codec, views=spec.to_json()), check_metadata=True)
        check_batch(batch, "here")
        views = batch_views(batch)
        wanted = json.loads((FOLDER / "views.json").read_text())
        assert [views.view(number).named() for number in range(len(views))] == wanted
        flat, lengths = pack_views(spec.policy, views)
        assert flat.tobytes() == list_values(batch, "views").tobytes()
        assert lengths.tolist() == np.diff(list_offsets(batch, "views")).tolist()
