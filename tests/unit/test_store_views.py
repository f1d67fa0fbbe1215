"""Stores whose labels belong to views of images: what they hold, and what of it is refused."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from jobs.store import app
from kdcore.config.views import ViewPolicy
from kdcore.data.views import pack_views, views_of
from kdcore.errors import CorruptShard, IdentityMismatch, LabelError, StoreError
from kdcore.evaluation.store_sample import sample_row
from kdcore.identity import canonical_json
from kdcore.labels.views import UNMIXED
from kdcore.labels.views.spec import ViewSpec
from kdcore.store import (
    ExportSettings,
    ShardRow,
    batches_from_rows,
    compact_store,
    export_store,
    merge_stores,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_receipt,
    read_journal,
    store_schema,
    verify_store,
    write_shard,
)
from kdcore.store.columns import check_batch, labels_per_row
from tests.support.stores import CLASSES, UNITS, codec_of, identity_of, make_store, row_of

VIEWS = 3
POLICY = ViewPolicy.model_validate(
    {"per_image": VIEWS, "crop": {"type": "pad"}, "flip": 0.5, "erase": 0.5, "mix": {"mixup": 0.2, "probability": 0.6}}
)
SPEC = ViewSpec(POLICY, 8, (0.5,), (0.25,))
VIEWED = {"views": SPEC.to_json()}


def viewed_rows(unit: int, policy: ViewPolicy = POLICY) -> list[ShardRow]:
    """Images of a unit with a label of each view."""
    rows = [row_of(unit, number, "image") for number in range(4)]
    keys = [row.key for row in rows]
    flat, lengths = pack_views(policy, views_of(policy, keys, keys))
    packed = np.split(flat, np.cumsum(lengths)[:-1])
    found = []
    for number, (row, views) in enumerate(zip(rows, packed, strict=True)):
        logits = torch.randn(policy.per_image, CLASSES, generator=torch.Generator().manual_seed(10 * unit + number))
        columns = codec_of().encode(3 * logits, np.zeros(policy.per_image, np.uint64))
        found.append(replace(row, columns={**columns, "views": views}))
    return found


def schema(views: Any = VIEWED["views"]) -> pa.Schema:
    return store_schema("image", codec_of(), views=views)


def write(path, change=lambda row: row, identity=VIEWED, units=(0, 1, 2)):
    open_for_writing(path, identity_of("image", **identity))
    cut = {name: UNITS[name] for unit, name in enumerate(UNITS) if unit in units}
    for unit, name in zip(units, cut, strict=True):
        batches = batches_from_rows(schema(identity["views"]), map(change, viewed_rows(unit)))
        receipt = write_shard(
            path, name, 0, schema(identity["views"]), batches, unit_digest=UNITS[name], codec=codec_of()
        )
        publish_receipt(path, receipt)
    publish_manifest(path, identity_of("image", **identity), read_journal(path, cut))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("viewed") / "store")


def test_every_view_has_a_label_and_its_parameters(path):
    store = open_store(path)
    assert verify_store(path).ok
    assert store.view_spec == SPEC
    assert store.num_labels == VIEWS * store.num_rows == store.num_labels_per_row().sum()
    wanted = [row for unit in range(len(UNITS)) for row in viewed_rows(unit)]
    for number, row in enumerate(wanted):
        assert store.key(number) == row.key
        labels = store.labels(number)
        assert labels.num_labels == VIEWS
        unit_keys = [other.key for other in wanted[number // 4 * 4 :][:4]]
        assert store.views_of([number]).equal(views_of(POLICY, [row.key], unit_keys))
    rows, numbers = np.array([5, 0, 11, 5]), np.array([2, 0, 1, 0])
    some = store.views_of(rows, numbers)
    for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        assert some.view(place) == store.views_of([row]).view(number)
    assert (store.views_of(np.arange(12)).mixed != UNMIXED).any()


def test_a_store_without_views_has_no_trace_of_them(tmp_path):
    store = make_store(tmp_path / "plain", "image")
    assert "views" not in schema(None).names
    assert (
        canonical_json({"codec": codec_of().spec(), "format": 2, "kind": "image"}).encode()
        == (schema(None).metadata[b"kdcore"])
    )
    assert "views" not in (store / "identity.json").read_text()
    opened = open_store(store)
    assert opened.view_spec is None
    assert opened.num_labels == opened.num_rows
    with pytest.raises(StoreError, match=r"data\.views"):
        opened.views_of([0])


def test_a_view_that_there_is_not_is_refused(path):
    store = open_store(path)
    with pytest.raises(LabelError, match="view 3"):
        store.views_of([0], [3])
    with pytest.raises(IndexError):
        store.labels(0, 0, VIEWS + 1)


def test_another_policy_is_another_store(path):
    other = ViewSpec(POLICY.model_copy(update={"flip": 0.25}), 8, (0.5,), (0.25,))
    with pytest.raises(IdentityMismatch, match=r"views\.policy\.flip: stored 0\.5, wanted 0\.25"):
        open_store(path, identity_of("image", views=other.to_json()))
    with pytest.raises(IdentityMismatch, match="views"):
        open_store(path, identity_of("image"))


def batch_of(change) -> pa.RecordBatch:
    (batch,) = batches_from_rows(schema(), [change(row) for row in viewed_rows(0)])
    return batch


def with_views(row: ShardRow, views: np.ndarray) -> ShardRow:
    return replace(row, columns={**row.columns, "views": views})


@pytest.mark.parametrize(
    "damage",
    [
        lambda views: views[:-1],
        lambda views: np.append(views, np.uint8(0)),
        lambda views: views[:0],
        lambda views: views | np.uint8(0xFF),
    ],
)
def test_damaged_parameters_are_refused(damage):
    batch = batch_of(lambda row: with_views(row, damage(row.columns["views"])))
    assert labels_per_row(batch).tolist() == [VIEWS] * 4
    with pytest.raises(CorruptShard, match="column 'views'"):
        check_batch(batch, "here")


def test_a_row_with_labels_of_fewer_views_is_refused(tmp_path):
    def cut(row: ShardRow) -> ShardRow:
        ids = row.columns["ids"][: 4 * (VIEWS - 1)]
        return replace(row, columns={**row.columns, "ids": ids})

    with pytest.raises(CorruptShard, match="cannot hold its 3 labels"):
        write(tmp_path / "store", cut)


@pytest.mark.parametrize(
    "views",
    [
        {},
        {**VIEWED["views"], "size": 0},
        {**VIEWED["views"], "std": [0.5, 0.5]},
        {**VIEWED["views"], "more": 1},
        {**VIEWED["views"], "policy": {"per_image": 0}},
        {**VIEWED["views"], "policy": {"no_such": 0}},
        [],
    ],
)
def test_an_identity_that_does_not_say_what_views_are_is_refused(views):
    with pytest.raises(CorruptShard, match="`views` of here"):
        ViewSpec.from_json(views, "here")
    assert ViewSpec.from_json(SPEC.to_json(), "here") == SPEC


def test_views_are_of_images(tmp_path):
    identity = identity_of("text", **VIEWED)
    open_for_writing(tmp_path / "store", identity)
    with pytest.raises(CorruptShard, match="are of images"):
        publish_manifest(tmp_path / "store", identity, [])


def test_a_partner_that_no_row_is_of_is_found(tmp_path):
    def orphan(row: ShardRow) -> ShardRow:
        views = views_of(POLICY, [row.key], [row.key, bytes(16)])
        return with_views(row, pack_views(POLICY, views)[0])

    problems = verify_store(write(tmp_path / "store", orphan)).problems
    assert problems
    assert all("0000000000" in problem for problem in problems)


def test_tools_show_the_views(path, tmp_path):
    store, views = open_store(path), open_store(path).views_of([2])
    shown = sample_row(store, 2, 2, 3, 1)["labels"]
    assert [label["view"] for label in shown] == [views.view(1).named(), views.view(2).named()]
    assert all(0 not in label["view"].values() for label in shown)
    done = CliRunner().invoke(app, ["sample", str(path), "--row", "2"])
    assert done.exit_code == 0, done.output
    assert "view" in done.output
    assert "views" in CliRunner().invoke(app, ["info", str(path)]).output
    assert "3 of each image, 8 x 8 pixels: crop, erase, flip, mix" in (path / "README.md").read_text()
    export_store(store, str(tmp_path / "out.parquet"), ExportSettings(2))
    table = pq.read_table(tmp_path / "out.parquet")
    assert json.loads(table.column("views")[2].as_py()[1]) == views.view(1).named()
    assert [len(ids) for ids in table.column("target_token_ids").to_pylist()] == [VIEWS] * store.num_rows


def test_stores_of_one_policy_are_compacted_and_merged(path, tmp_path):
    compact_store(path, str(tmp_path / "few"), 1 << 20)
    first, second = (write(tmp_path / name, units=[unit]) for name, unit in (("first", 0), ("second", 2)))
    merge_stores(str(tmp_path / "both"), [first, second])
    whole = open_store(path)
    for name, rows in (("few", 12), ("both", 8)):
        store = open_store(tmp_path / name)
        assert verify_store(tmp_path / name).ok
        assert (store.num_rows, store.num_labels) == (rows, VIEWS * rows)
        for row in range(rows):
            here = whole.row_of(store.key(row))
            assert store.views_of([row]).equal(whole.views_of([here]))
            assert torch.equal(store.labels(row).log_probs, whole.labels(here).log_probs)
    other = write(tmp_path / "other", identity={"views": {**VIEWED["views"], "size": 16}})
    with pytest.raises(IdentityMismatch, match=r"views\.size"):
        merge_stores(str(tmp_path / "no"), [first, other])
