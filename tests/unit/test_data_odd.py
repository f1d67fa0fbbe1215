"""Corpora as they are met: odd names, links, lines without an end, disks that are away for a moment."""

import errno
import gzip
import io
import json
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from kdcore.config.data import ImageFolderData, ImageParquetData, TextData
from kdcore.data import inputs
from kdcore.data.formats import lines
from kdcore.data.sources import open_source
from kdcore.errors import StorageUnavailable, UnreadableDocument
from kdcore.planning import Corpus
from kdcore.planning.limit import find_limit, rank
from kdcore.planning.run_map import in_process
from tests.support.planning import Memory


def whole(path, **options):
    return open_source(TextData(path=path, **{"heldout_fraction": 0, **options}))


def texts(source, split="train"):
    return [source.read(ref).text for ref in source.list(split)]


def test_names_are_text_whatever_bytes_the_file_system_has(tmp_path):
    odd = os.fsdecode(b"a\xff")
    pq.write_table(pa.table({"text": ["row"]}), tmp_path / "x")
    (tmp_path / f"{odd}.parquet").write_bytes((tmp_path / "x").read_bytes())
    (tmp_path / f"{odd}.txt").write_text("text")
    (tmp_path / f"{odd}.jsonl").write_text('{"text": "line"}\n{broken')
    source = whole(f"{tmp_path}/*.*")
    refs = source.list("train")
    assert [ref.name for ref in refs] == [
        r"a\udcff.jsonl@000000000000",
        r"a\udcff.jsonl@000000000017",
        r"a\udcff.parquet#000000000",
        r"a\udcff.txt",
    ]
    assert [source.read(refs[number]).text for number in (0, 2, 3)] == ["line", "row", "text"]
    with pytest.raises(UnreadableDocument) as caught:
        source.read(refs[1])
    assert caught.value.message.encode("utf-8") == str(caught.value).encode("utf-8")
    folder = tmp_path / "images" / odd
    folder.mkdir(parents=True)
    (folder / f"{odd}.png").write_bytes(b"none")
    images = open_source(ImageFolderData(path=str(tmp_path / "images"), heldout_fraction=0))
    assert [ref.name for ref in images.list("train")] == [r"a\udcff/a\udcff.png"]
    with pytest.raises(UnreadableDocument, match="whole image"):  # its class is known
        images.read(images.list("train")[0])


def test_a_held_out_file_is_no_training_file_by_another_path(tmp_path):
    (tmp_path / "real").mkdir()
    for name in "ab":
        (tmp_path / "real" / f"{name}.txt").write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "b.txt").symlink_to(tmp_path / "real" / "b.txt")
    for heldout in ("link/b.txt", "b.txt", "real/../link/b.txt"):
        source = whole(f"{tmp_path}/real/*.txt", heldout=str(tmp_path / heldout))
        assert (texts(source), texts(source, "heldout")) == (["a"], ["b"])


def test_a_file_has_one_place_by_all_schemes_of_its_storage():
    pytest.importorskip("s3fs")
    places = {inputs.inputs_of(url).canonical(url) for url in ("s3://bucket/a.txt", "s3a://bucket/a.txt")}
    assert places == {"s3://bucket/a.txt"}


def test_places_are_paths_and_buckets(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert texts(whole(f"file://{tmp_path}/*.txt")) == ["a"]
    assert ImageParquetData(path="x", heldout=("file:///a b/*.parquet",)).heldout == ("/a b/*.parquet",)
    for config, place, says in (
        (TextData, "https://h/a.jsonl", "s3://bucket/corpus"),
        (ImageFolderData, "http://h/a", "s3://bucket/corpus"),
        (TextData, "file://corpus/a.txt", "file:///corpus"),
    ):
        with pytest.raises(ValidationError, match=says):
            config(path=place)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EMFILE])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_disk_that_is_away_for_a_moment_costs_no_sample(tmp_path, monkeypatch, name, number):
    line = b'{"text": "a"}\n'
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    for file, content in (("a.txt", b"a"), ("a.jsonl", line), ("a.jsonl.gz", gzip.compress(line))):
        (tmp_path / file).write_bytes(content)
    ref = whole(str(tmp_path / name)).list("train")[0]

    def away(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(inputs, "open", away, raising=False)
        patch.setattr(inputs, "_LocalFile", away)
        patch.setattr(pa, "OSFile", away)
        with pytest.raises(StorageUnavailable, match=rf"{name}.*Errno {number}"):
            whole(str(tmp_path / name)).read(ref)
    assert whole(str(tmp_path / name)).read(ref).text == "a"
    (tmp_path / name).unlink()
    with pytest.raises(UnreadableDocument):
        whole(str(tmp_path / name)).read(ref)


def test_a_read_that_fails_in_the_middle_is_no_sample_s_fault():
    file = inputs.inputs_of("/proc/self/mem").open("/proc/self/mem", 0)
    with file, pytest.raises(StorageUnavailable, match=r"/proc/self/mem.*Errno 5"):
        file.read(1)


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_without_an_end_is_one_bad_sample(tmp_path, monkeypatch, packed):
    rows = [json.dumps({"text": text}) for text in ("a", "b" * 300, "c", "d" * 39, "e" * 40, "f" * 70)]
    content = "\n".join(rows).encode()
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setattr("kdcore.data.formats.base.PIECE_BYTES", 7)
    known = None
    for extent_bytes in (1, 30, 100, 1000):
        monkeypatch.setattr("kdcore.data.formats.base.EXTENT_BYTES", extent_bytes)
        source = whole(str(path), max_document_bytes=52)
        refs = [ref for extent in source.extents("train") for ref in source.refs(extent, "train")]
        known = known or refs
        assert refs == known
        assert [source.read(refs[number]).text for number in (0, 2, 3)] == ["a", "c", "d" * 39]
        for number in (1, 4, 5):
            with pytest.raises(UnreadableDocument, match=r"longer than data\.max_document_bytes, 52"):
                source.read(refs[number])
        assert len(refs) == 6
    assert texts(whole(str(path))) == [json.loads(row)["text"] for row in rows]


def test_a_slice_inside_a_line_is_read_no_further_than_it_goes():
    class Counted(io.BytesIO):
        count = 0

        def readline(self, size=-1, /):
            found = super().readline(size)
            self.count += len(found)
            return found

    file = Counted(b"x" * 100_000 + b"\n{}\n")
    assert list(lines._lines(file, 1000, 2000, 1 << 20)) == []
    assert file.count <= 1001
    file.count = 0
    assert list(lines._lines(file, 0, 500, 200)) == [(0, b"x" * 201)]
    assert file.count <= 500
    assert list(lines._lines(file, 99_000, 100_004, 200)) == [(100_001, b"{}")]


def test_a_plain_text_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x" * 11)
    source = whole(str(tmp_path / "a.txt"), max_document_bytes=10)
    monkeypatch.setattr(inputs, "open", None, raising=False)
    with pytest.raises(UnreadableDocument, match=r"a\.txt.*max_document_bytes"):
        source.read(source.list("train")[0])


def test_images_of_one_name_in_two_folders_are_two(tmp_path):
    for name in ("a/cat/1.png", "b/cat/1.png", "b/dog/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"none")
    folders = (str(tmp_path / "a"), f"{tmp_path}/b/")
    source = open_source(ImageFolderData(path=(*folders, folders[0]), heldout_fraction=0))
    assert [ref.name for ref in source.list("train")] == ["a/cat/1.png", "b/cat/1.png", "b/dog/1.png"]
    assert source.num_classes == 2
    alone = open_source(ImageFolderData(path=folders[1], heldout_fraction=0))
    assert [ref.name for ref in alone.list("train")] == ["cat/1.png", "dog/1.png"]


def test_a_limit_is_kept_among_samples_of_one_name():
    class Twins(Memory):
        def _samples(self, extent):
            return (replace(ref, name="twin", source=ref.name) for ref in super()._samples(extent))

    source = Twins(["text"] * 9, max_samples=4)
    limit = find_limit(Corpus(lambda: source, "", block_bytes=1), in_process)
    refs = [ref for extent in source.extents("train") for ref in source.refs(extent, "train")]
    kept = [ref for ref in refs if limit is not None and rank(ref) <= limit]
    assert len(kept) == 4
    assert sorted(kept) == source.list("train")
