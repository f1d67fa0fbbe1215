"""Every file format: what goes in comes out, however a file is cut and wherever it lies."""

import gzip
import io
import json
import os
import random

import fsspec
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.data import ImageFolderData, TextData
from kdcore.data import inputs
from kdcore.data.sources import open_source
from kdcore.errors import ConfigError, DataError, StorageUnavailable, UnreadableDocument

TEXTS = [f"document {n} " + "x" * (n % 7) for n in range(40)]


def table(texts, **columns):
    return pa.table({"other": list(range(len(texts))), "text": texts, **columns})


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def zstd(texts):
    return b"".join(pa.compress(lines(part), "zstd", asbytes=True) for part in (texts[:20], texts[20:]))


def arrow(texts, opener, rows, dictionary=False):
    written = table(texts)
    if dictionary:
        written = written.set_column(1, "text", written["text"].dictionary_encode())
    out = io.BytesIO()
    with opener(out, written.schema) as writer:
        writer.write_table(written, max_chunksize=rows)
    return out.getvalue()


def parquet(texts, rows):
    out = io.BytesIO()
    pq.write_table(table(texts), out, row_group_size=rows)
    return out.getvalue()


def compressed_feather(texts):
    out = io.BytesIO()
    feather.write_feather(table(texts), out, compression="lz4", chunksize=9)
    return out.getvalue()


WRITERS = {
    "a.jsonl": lines,
    "b.jsonl.gz": lambda texts: gzip.compress(lines(texts[:20])) + gzip.compress(lines(texts[20:])),
    "c.ndjson.zst": zstd,
    "d.parquet": lambda texts: parquet(texts, 7),
    "e.arrow": lambda texts: arrow(texts, pa.ipc.new_stream, 6),
    "f.ARROW": lambda texts: arrow(texts, pa.ipc.new_file, 5, dictionary=True),
    "g.feather": compressed_feather,
}


@pytest.fixture
def bucket():
    """A storage that only a URL reaches, in this process."""
    name = f"bucket-{random.getrandbits(40)}"
    yield name
    store = fsspec.filesystem("memory")
    if store.exists(f"/{name}"):
        store.rm(f"/{name}", recursive=True)


def put(where, name, content):
    with fsspec.open(f"{where}/{name}", "wb") as file:
        file.write(content)


def whole(path, **options):
    return open_source(TextData(path=path, heldout_fraction=0, **options))


def all_refs(source):
    extents = list(source.extents("train"))
    return extents, [ref for extent in extents for ref in source.refs(extent, "train")]


@pytest.mark.parametrize("name", WRITERS)
def test_rows_come_back_in_any_order_however_the_file_is_cut(name, tmp_path, bucket, monkeypatch):
    content = WRITERS[name](TEXTS)
    (tmp_path / name).write_bytes(content)
    put(f"memory://{bucket}", name, content)
    known = None
    for path in (str(tmp_path / name), f"memory://{bucket}/*"):
        for extent_bytes in (1, 300, 1 << 20):
            monkeypatch.setattr("kdcore.data.formats.base.EXTENT_BYTES", extent_bytes)
            source = whole(path)
            extents, refs = all_refs(source)
            assert [source.read(ref).text for ref in refs] == TEXTS
            assert (len(extents) == 1) == (extent_bytes > 300 or ".zst" in name or ".gz" in name)
            for ref in random.Random(0).sample(refs, len(refs)):
                assert source.read(ref).text == TEXTS[refs.index(ref)]
            found = [(ref.name, ref.index, ref.num_bytes) for ref in refs]
            known = known or found
            assert found == known  # here and there
            assert [ref for extent in extents for ref in whole(path).refs(extent, "train")] == refs  # alone
    assert [name for name, _, _ in known] == sorted(name for name, _, _ in known)


def test_a_corpus_of_all_formats_is_split_by_name(tmp_path):
    for name, write in WRITERS.items():
        (tmp_path / name).write_bytes(write(TEXTS))
    (tmp_path / "plain.md").write_bytes(b"a whole file\r\n")
    source = open_source(TextData(path=str(tmp_path / "*"), heldout_fraction=0.3))
    parts = {split: [source.read(ref).text for ref in source.list(split)] for split in ("train", "heldout")}
    assert sorted(parts["train"] + parts["heldout"]) == sorted([*TEXTS * len(WRITERS), "a whole file\r\n"])
    assert 0.2 < len(parts["heldout"]) / (40 * len(WRITERS)) < 0.4
    out = open_source(TextData(path=str(tmp_path / "*"), heldout=str(tmp_path / "d.parquet")))
    assert [out.read(ref).text for ref in out.list("heldout")] == TEXTS
    assert len(out.list("train")) == 40 * (len(WRITERS) - 1) + 1


def test_only_the_needed_columns_are_read(tmp_path):
    rows = {"text": TEXTS, "noise": [os.urandom(10_000) for _ in TEXTS]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=10)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    meta = pq.read_metadata(tmp_path / "a.parquet")
    for number in range(meta.num_row_groups):
        column = meta.row_group(number).column(1)
        start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
        content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    (tmp_path / "a.parquet").write_bytes(content)
    source = whole(str(tmp_path / "a.parquet"))
    assert [source.read(ref).text for ref in source.list("train")] == TEXTS
    assert sum(extent.num_bytes for extent in source.extents("train")) < 10_000


def test_conversations_are_the_same_in_every_format(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"hello {n}"}, {"role": "assistant", "content": "yes"}], "n": n}
        for n in range(5)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    feather.write_feather(pa.Table.from_pylist(rows), str(tmp_path / "a.arrow"))
    found = []
    for name in ("a.jsonl", "a.parquet", "a.arrow"):
        source = whole(str(tmp_path / name), messages_field="messages")
        found.append([source.read(ref).conversation for ref in source.list("train")])
    assert found[0] == found[1] == found[2]
    source = whole(str(tmp_path / "a.parquet"), prompt_field="prompt", completion_field="answer")
    with pytest.raises(
        DataError, match=r"no column \['prompt', 'answer'\], only \['messages', 'n'\].*completion_field"
    ):
        source.list("train")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("bad", [None, 3, b"\xff\xfe"])
def test_a_bad_row_of_a_table_is_named(tmp_path, name, bad):
    values = pa.array(["good", "", "last"]) if bad is None or isinstance(bad, bytes) else pa.array([1, 2, 3])
    if bad is None:
        values = pa.array(["good", None, "last"])
    if isinstance(bad, bytes):  # bytes that say they are UTF-8
        values = pa.StringArray.from_buffers(3, *pa.array([b"good", bad, b"last"]).buffers()[1:])
    written = pa.table({"text": values})
    if name == "a.parquet":
        pq.write_table(written, tmp_path / name)
    else:
        feather.write_feather(written, str(tmp_path / name))
    source = whole(str(tmp_path / name))
    refs = source.list("train")
    with pytest.raises(UnreadableDocument, match=rf"{name}#000000001.*row 1.*on_unreadable"):
        source.read(refs[1])
    if bad != 3:
        assert source.read(refs[2]).text == "last"


@pytest.mark.parametrize(("name", "kept"), [("b.jsonl.gz", 40), ("c.ndjson.zst", 20)])
def test_a_packed_file_that_was_cut_off_gives_what_it_can(tmp_path, name, kept):
    texts = [random.Random(n).randbytes(500).hex() for n in range(40)]
    (tmp_path / name).write_bytes(WRITERS[name](texts)[:-1000])
    source = whole(str(tmp_path / name))
    *refs, broken = source.list("train")
    assert [source.read(ref).text for ref in refs] == texts[: len(refs)]
    assert kept - 6 < len(refs) <= kept
    with pytest.raises(UnreadableDocument, match=r"cut off or damaged.*on_unreadable"):
        source.read(broken)


def test_a_damaged_page_costs_its_group(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [os.urandom(30).hex() for _ in range(30)]}), path, row_group_size=10)
    column = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    source = whole(str(path))
    refs = source.list("train")
    assert all(len(source.read(ref).text) == 60 for ref in refs[:10] + refs[20:])
    for ref in refs[10:20]:
        with pytest.raises(UnreadableDocument, match="damaged"):
            source.read(ref)


@pytest.mark.parametrize("name", ["d.parquet", "e.arrow", "f.ARROW", "g.feather"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_table_that_was_cut_or_changed_is_refused_or_read(tmp_path_factory, name, data):
    content = WRITERS[name](TEXTS)
    path = tmp_path_factory.getbasetemp() / name
    cut = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    # pyarrow itself ends the process over some changes to the metadata of Parquet, at the end of the file.
    end = len(content) - (int.from_bytes(content[-8:-4], "little") + 8 if name.endswith("parquet") else 0)
    changed[min(cut, end - 1)] ^= data.draw(st.integers(1, 255))
    for damaged in (content[:cut], bytes(changed)):
        path.write_bytes(damaged)
        source = whole(str(path))
        try:
            for ref in source.list("train")[:50]:
                assert isinstance(source.read(ref).text, str)
        except DataError:
            pass


def test_what_is_no_such_file_is_refused(tmp_path):
    for name, content, words in (
        ("a.parquet", b"PAR1", "must match Parquet"),
        ("a.arrow", b"not Arrow at all", "must match Arrow"),
        ("b.feather", b"FEA1....", "first version"),
        ("a.txt.gz", gzip.compress(b"text"), "only JSON lines"),
        ("a.tar", b"", "only JSON lines"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            whole(str(tmp_path / name)).list("train")
        assert name in str(caught.value)


PIECES = st.sampled_from(["a", "b.txt", ".git", "c[1].txt", "**", "*", "*.txt", "[ab]*", "c[[]1].txt"])


@settings(max_examples=60, deadline=None)
@given(pattern=st.lists(PIECES, min_size=1, max_size=4))
def test_patterns_of_urls_match_what_patterns_of_paths_do(tmp_path_factory, pattern):
    root = tmp_path_factory.getbasetemp() / "patterns"
    store = fsspec.filesystem("memory")
    if not root.exists():
        folders = ["", "a/", "a/a/", ".git/", "a/.git/"]
        for name in (f"{folder}{file}" for folder in folders for file in ("b.txt", "x", "c[1].txt", ".hidden.txt")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("x")
            store.pipe_file(f"/patterns/{name}", b"x")
    found = []
    for where in (str(root), "memory://patterns"):
        matched = inputs.inputs_of(where).matches(f"{where}/{'/'.join(pattern)}")
        found.append(sorted({file.path.removeprefix(f"{where}/") for file in matched}))
    assert found[0] == found[1]


def test_names_do_not_depend_on_the_storage(tmp_path, bucket):
    for name in ("one/a.jsonl", "two/b.jsonl"):
        put(f"memory://{bucket}/deep", name, lines(TEXTS[:3]))
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(lines(TEXTS[:3]))
    found = []
    for root in (f"memory://{bucket}/deep", str(tmp_path)):
        for path in (f"{root}/**/*.jsonl", (f"{root}/one/*.jsonl", f"{root}/two/b.jsonl")):
            found.append([ref.name for ref in whole(path).list("train")])
    assert found[0] == found[1] == found[2] == found[3]
    with pytest.raises(DataError, match="local and remote"):
        whole((str(tmp_path / "one/a.jsonl"), f"memory://{bucket}/deep/two/b.jsonl")).list("train")


def test_urls_that_match_nothing_or_cannot_be_are_said(bucket):
    with pytest.raises(DataError, match=r"data\.path must match.*matches no file.*\*\.jsonl"):
        whole(f"memory://{bucket}/none").list("train")
    with pytest.raises(ConfigError, match=r"data\.path") as caught:
        whole("s3://key:hunter2@bucket/*.jsonl").list("train")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.path.*nothing://"):
        whole("nothing://bucket/*.jsonl").list("train")


def test_a_storage_that_fails_is_not_an_empty_one(bucket, monkeypatch):
    put(f"memory://{bucket}", "a.parquet", WRITERS["d.parquet"](TEXTS))
    source = whole(f"memory://{bucket}/*.parquet")
    ref = source.list("train")[0]
    kind = type(fsspec.filesystem("memory"))

    def away(*_, **__):
        raise ConnectionError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_open", away)
        with pytest.raises(StorageUnavailable, match=rf"memory://{bucket}/a\.parquet.*reset by peer"):
            source.read(ref)
    assert source.read(ref).text == TEXTS[0]
    with monkeypatch.context() as patch:
        patch.setattr(kind, "ls", away)
        with pytest.raises(StorageUnavailable):
            source.list("train")


def test_folders_of_images_in_a_bucket(bucket, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, colour in (("cat", 10), ("dog", 200)):
        (tmp_path / name).mkdir()
        for n in range(3):
            buffer = io.BytesIO()
            image.new("RGB", (4, 4), (colour, colour, n)).save(buffer, "PNG")
            put(f"memory://{bucket}/train/{name}", f"{n}.png", buffer.getvalue())
            (tmp_path / name / f"{n}.png").write_bytes(buffer.getvalue())
    put(f"memory://{bucket}/train/cat", "notes.txt", b"no image")
    found = []
    for path in (f"memory://{bucket}/train", str(tmp_path)):
        source = open_source(ImageFolderData(path=path, heldout_fraction=0, size=4))
        assert source.num_classes == 2
        assert [extent.name for extent in source.extents("train")] == ["cat", "dog"]
        refs = source.list("train")
        found.append([(ref.name, source.read(ref).target, source.read(ref).pixels.tobytes()) for ref in refs])
    assert found[0] == found[1]
    with pytest.raises(DataError, match="sub-folder"):
        open_source(ImageFolderData(path=f"memory://{bucket}/none")).list("train")
