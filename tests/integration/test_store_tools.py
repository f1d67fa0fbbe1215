"""`kd store merge`, `compact` and `gc`: stores made of stores, by the ordinary commit protocol."""

import os
import time

import pytest

from kdcore.errors import CorruptShard, IdentityMismatch, IncompleteStore, StoreError
from kdcore.store import (
    collect_garbage,
    compact_store,
    load_manifest,
    merge_stores,
    open_for_writing,
    open_store,
    read_probe,
    verify_store,
)
from kdcore.store.derive.derive import joined
from tests.support.store_tools import (
    NAMES,
    UNION,
    A,
    B,
    codec_named,
    identity_of,
    kd,
    make_codec_store,
    memory_url,
    row_named,
    rows_of,
)

KINDS = [(name, kind) for name in NAMES for kind in ("text", "image") if name != "feature8" or kind == "text"]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_merged_store_is_the_store_of_all_inputs(tmp_path, name, kind):
    codec = codec_named(name)
    a = make_codec_store(tmp_path / "a", name, A, kind, codec)
    b = make_codec_store(tmp_path / "b", name, B, kind, codec, extra={})
    code, output = kd("merge", tmp_path / "m", a, b)
    assert code == 0, output
    assert "7 rows" in output
    together = make_codec_store(tmp_path / "all", name, [UNION], kind, codec)
    assert rows_of(tmp_path / "m") == rows_of(together)
    merged, wanted = load_manifest(tmp_path / "m"), load_manifest(together)
    assert merged.identity == wanted.identity  # the input's digest too: a plan over all inputs finds it finished
    assert merged.codec_state == codec.state()
    assert verify_store(tmp_path / "m").ok
    assert read_probe(tmp_path / "m") == read_probe(a)
    # Names in the order of the sources, each where it was first.
    store = open_store(tmp_path / "m")
    assert [store.name(row) for row in range(7)] == ["alpha", "beta beta", "gamma", "d", "delta", "epsilon", "zeta"]


def test_untouched_shards_are_copied_byte_for_byte(tmp_path):
    a, b = make_codec_store(tmp_path / "a", "topk", A), make_codec_store(tmp_path / "b", "topk", B)
    merge_stores(tmp_path / "m", [a, b])
    there = {receipt.digest for store in (a, b) for receipt in load_manifest(store).shards}
    merged = load_manifest(tmp_path / "m")
    same = [receipt.digest in there for receipt in merged.shards]
    # a's two shards and b's second change their occurrences or lose a row; b's third loses all of its rows.
    assert same == [False, False, True, False]
    assert [receipt.unit for receipt in merged.shards] == [f"unit-{n:06d}" for n in range(4)]


def test_a_merged_store_says_where_its_figures_are_from(tmp_path):
    a = make_codec_store(tmp_path / "a", "topk", A, extra={"statistics": {"nll": 2.5}})
    b = make_codec_store(tmp_path / "b", "topk", B)
    extra = merge_stores(tmp_path / "m", [a, b]).manifest.extra
    assert extra["fidelity"]["entries"] == 4.5
    sources = extra["derived"]["sources"]
    assert [source["manifest"] for source in sources] == [load_manifest(s).to_json()["digest"] for s in (a, b)]
    assert sources[0]["extra"] == {"statistics": {"nll": 2.5}}
    assert str(tmp_path) not in (tmp_path / "m" / "manifest.json").read_text()
    code, output = kd("info", tmp_path / "m")
    assert code == 0
    assert "made from" in output


def test_merging_is_done_once(tmp_path):
    a, b = make_codec_store(tmp_path / "a", "topk", A), make_codec_store(tmp_path / "b", "topk", B)
    assert not merge_stores(tmp_path / "m", [a, b]).was_there
    before = (tmp_path / "m" / "manifest.json").stat().st_mtime_ns
    code, output = kd("merge", tmp_path / "m", a, b)
    assert code == 0
    assert "nothing to do" in output
    assert (tmp_path / "m" / "manifest.json").stat().st_mtime_ns == before
    c = make_codec_store(tmp_path / "c", "topk", [{"eta": 1}])
    with pytest.raises(IdentityMismatch, match="input"):
        merge_stores(tmp_path / "m", [a, b, c])
    with pytest.raises(StoreError, match="not made so"):
        compact_store(make_codec_store(tmp_path / "all", "topk", [UNION]), tmp_path / "m", 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"teacher": {"path": "models/x", "weights": "bb"}}, ("teacher.weights", "'aa'", "'bb'")),
        ({"tokenizer": "u"}, ("tokenizer", "'t'", "'u'")),
        ({"numerics": {"context": 64}}, ("numerics.context", "128", "64")),
    ],
)
def test_other_identities_are_refused_with_both_values(tmp_path, change, named):
    a, b = make_codec_store(tmp_path / "a", "topk", A), make_codec_store(tmp_path / "b", "topk", B, **change)
    code, output = kd("merge", tmp_path / "m", a, b)
    assert code == 2
    for word in named:
        assert word in output
    assert not (tmp_path / "m").exists()


def test_other_tables_of_a_codec_are_refused(tmp_path):
    from tests.support.labels import codec_of

    a = make_codec_store(tmp_path / "a", "threshold", A)
    other = codec_of("threshold", 12, 40, num_labels=80)
    b = make_codec_store(tmp_path / "b", "threshold", B, codec=other)
    with pytest.raises(IdentityMismatch, match=r"codec.coder(.|\n)*probe.json"):
        merge_stores(tmp_path / "m", [a, b])


def test_versions_may_differ_and_a_store_comes_once(tmp_path):
    a = make_codec_store(tmp_path / "a", "topk", A)
    b = make_codec_store(tmp_path / "b", "topk", B, versions={"torch": "3"})
    assert merge_stores(tmp_path / "m", [a, b]).manifest.identity["versions"] == {"torch": "2"}
    with pytest.raises(StoreError, match="once"):
        merge_stores(tmp_path / "n", [a, b, a])
    with pytest.raises(StoreError, match="two"):
        merge_stores(tmp_path / "n", [a])


@pytest.mark.parametrize("kind", ["text", "image"])
def test_one_key_for_two_samples_is_refused(tmp_path, kind, monkeypatch):
    a = make_codec_store(tmp_path / "a", "topk", A, kind)
    from tests.support import store_tools as fixtures

    def lie(codec, text, kind, occurrences=1):
        row = row_named(codec, text if text != "alpha" or kind == "image" else "bravo", kind, occurrences, target=5)
        return (
            row
            if text != "alpha"
            else type(row)(fixtures.sample_key_text("alpha"), row.name, 1, row.columns, row.tokens, row.target)
        )

    monkeypatch.setattr(fixtures, "row_named", lie)
    b = make_codec_store(tmp_path / "b", "topk", [{"alpha": 1}], kind)
    with pytest.raises(StoreError, match="two samples"):
        merge_stores(tmp_path / "m", [a, b])
    assert not (tmp_path / "m").exists()


def test_damage_in_a_source_is_named_and_nothing_is_finished(tmp_path):
    a, b = make_codec_store(tmp_path / "a", "topk", A), make_codec_store(tmp_path / "b", "topk", B)
    for target, make in (("m", lambda out: merge_stores(out, [a, b])), ("c", lambda out: compact_store(b, out, 1))):
        shard = sorted((b / "data").iterdir())[0]
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        with pytest.raises(CorruptShard, match=shard.name):
            make(tmp_path / target)
        with pytest.raises(IncompleteStore):
            open_store(tmp_path / target)
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        assert not make(tmp_path / target).was_there  # and it goes on from there
        assert verify_store(tmp_path / target).ok


def _fewest(sizes, limit):
    """Shards that neighbours of these sizes fill, none of more than `limit` in all."""
    groups = [0]
    for size in sizes:
        groups = [*groups[:-1], groups[-1] + size] if groups[-1] + size <= limit else [*groups, size]
    return len(groups)


@pytest.mark.parametrize("name", NAMES)
def test_a_compacted_store_has_the_same_rows_in_the_same_order(tmp_path, name):
    units = [{f"{'x' * (1 + n)}{n}": 1 + n % 3, f"y{n}": 1} for n in range(7)]
    store = make_codec_store(tmp_path / "s", name, units)
    sizes = [receipt.bytes for receipt in load_manifest(store).shards]
    code, output = kd("compact", store, tmp_path / "c", "--shard-bytes", f"{sum(sizes[:3])}")
    assert code == 0, output
    before, after = load_manifest(store), load_manifest(tmp_path / "c")
    assert len(after.shards) == _fewest(sizes, sum(sizes[:3]))
    assert len(before.shards) == 7
    assert after.identity == before.identity
    assert rows_of(store) == rows_of(tmp_path / "c")
    old, new = open_store(store), open_store(tmp_path / "c")
    assert list(old.keys()) == list(new.keys())
    assert verify_store(tmp_path / "c").ok
    gathered = {"derived", "feature_moments"} - before.extra.keys()  # compacting counts what a store did not
    assert {name: value for name, value in after.extra.items() if name not in gathered} == before.extra
    assert kd("compact", store, tmp_path / "c", "--shard-bytes", f"{sum(sizes[:3])}")[1].count("nothing to do") == 1
    with pytest.raises(StoreError, match="not made so"):
        compact_store(store, tmp_path / "c", 1)


def test_a_large_shard_is_copied_as_it_is(tmp_path):
    store = make_codec_store(tmp_path / "s", "topk", A)
    compact_store(store, tmp_path / "c", 1)
    digests = [[receipt.digest for receipt in load_manifest(path).shards] for path in (store, tmp_path / "c")]
    assert digests[0] == digests[1]


def test_compaction_refuses_what_cannot_be(tmp_path):
    store = make_codec_store(tmp_path / "s", "topk", A)
    for out, size in ((store, "1MB"), (tmp_path / "c", "0")):
        assert kd("compact", store, out, "--shard-bytes", size)[0] == 2
    assert kd("compact", store, tmp_path / "c", "--shard-bytes", "many")[0] == 2
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    for arguments in (("compact", store, tmp_path / "foreign"), ("merge", tmp_path / "foreign", store, store)):
        assert kd(*arguments)[0] == 2
    assert kd("compact", tmp_path / "nothing", tmp_path / "c")[0] == 2
    assert sorted(path.name for path in (tmp_path / "foreign").iterdir()) == ["thesis.tex"]


def test_another_size_of_shards_does_not_continue_a_begun_store(tmp_path):
    store = make_codec_store(tmp_path / "s", "topk", [{f"u{n}": 1} for n in range(6)])
    compact_store(store, tmp_path / "c", 1)
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(StoreError, match="another size"):
        compact_store(store, tmp_path / "c", 1 << 30)
    assert not compact_store(store, tmp_path / "c", 1).was_there


def test_batches_are_joined_and_none_is_lost(tmp_path):
    store = make_codec_store(tmp_path / "s", "threshold", [{f"u{'v' * n}": 1} for n in range(6)])
    compact_store(store, tmp_path / "c", 1 << 30)
    opened = open_store(tmp_path / "c")
    batches = opened._opened(0)[0].batches
    assert [batch.num_rows for batch in batches] == [6]
    parts = list(joined(iter([*batches, *batches, *batches]), batches[0].nbytes * 2))
    assert [part.num_rows for part in parts] == [12, 6]


def test_everything_works_on_urls(tmp_path, monkeypatch):
    url = memory_url(tmp_path, monkeypatch)
    a, b = make_codec_store(f"{url}/a", "threshold", A), make_codec_store(tmp_path / "b", "threshold", B)
    assert kd("merge", f"{url}/m", a, b)[0] == 0
    assert kd("compact", f"{url}/m", f"{url}/c")[0] == 0
    merge_stores(tmp_path / "m", [a, b])
    assert rows_of(f"{url}/m") == rows_of(f"{url}/c") == rows_of(tmp_path / "m")
    for tool in ("info", "verify", "sample", "gc"):
        code, output = kd(tool, f"{url}/c")
        assert code == 0, output


def test_gc_removes_exactly_the_orphans(tmp_path):
    store = make_codec_store(tmp_path / "s", "topk", A)
    kept = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    data = store / "data"
    orphans = [data / "unit-000000-9-0123abcd.arrow", data / ".unit-000000-x-7-0123abcd.arrow.partial"]
    orphans += [store / ".manifest.json.0123456789abcdef.tmp"]
    young = data / "unit-000001-9-0123abcd.arrow"
    names = ("notes.txt", "mine.arrow", "unit-000000.arrow", "unit-000000-9.arrow", ".x.arrow.partial", "index-0.arrow")
    foreign = [data / name for name in names] + [store / name for name in ("index-of-words.arrow", ".m.tmp", "x.arrow")]
    for path in [*orphans, young, *foreign]:
        path.write_bytes(b"12345")
    for path in [*kept, *orphans, *foreign]:
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    code, output = kd("gc", store, "--dry-run")
    assert code == 0
    assert "3 orphans, 15 bytes: nothing was removed" in output
    assert all(path.exists() for path in orphans)
    code, output = kd("gc", store)
    assert "3 orphans, 15 bytes: removed" in output
    assert {path for path in store.rglob("*") if path.is_file()} == {*kept, young, *foreign}
    code, output = kd("gc", store, "--min-age", "299s")
    assert code == 2
    assert "--force" in output
    assert young.exists()
    assert "1 orphans" in kd("gc", store, "--min-age", "0", "--dry-run")[1]
    assert kd("gc", store, "--min-age", "0", "--force")[1].endswith("1 orphans, 5 bytes: removed")
    assert {path for path in store.rglob("*") if path.is_file()} == {*kept, *foreign}
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert kd("gc", tmp_path)[0] == 2
    assert kd("gc", store, "--min-age", "soon")[0] == 2


def test_a_begun_store_keeps_what_its_receipts_name(tmp_path):
    codec = codec_named("topk")
    open_for_writing(tmp_path, identity_of(codec, "text", {}))
    from kdcore.store import batches_from_rows, publish_receipt, store_schema, write_shard

    schema = store_schema("text", codec, 40)
    receipts = []
    for attempt in range(2):
        rows = batches_from_rows(schema, [row_named(codec, "alpha", "text")])
        receipts.append(write_shard(tmp_path, "unit-000000", attempt, schema, rows, unit_digest="d"))
    publish_receipt(tmp_path, receipts[0])
    assert collect_garbage(tmp_path, 0) == [receipts[1].shard]
