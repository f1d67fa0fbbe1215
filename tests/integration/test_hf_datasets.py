"""Datasets of Hugging Face `datasets`: saved, prepared in a cache, and streamed, from directories without a script."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcore.config.data import HfDatasetData
from kdcore.data.document import Extent
from kdcore.data.sources import Source, open_source
from kdcore.errors import DataError, UnreadableDocument

datasets = pytest.importorskip("datasets")

TEXTS = [f"document {number}" for number in range(30)]
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
---
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset as the hub has it: a card and files, three of them for training."""
    data = tmp_path / "corpus" / "data"
    data.mkdir(parents=True)
    for shard in range(3):
        table = pa.table({"other": list(range(10)), "text": TEXTS[10 * shard : 10 * shard + 10]})
        pq.write_table(table, data / f"train-{shard:05d}-of-00003.parquet", row_group_size=4)
    pq.write_table(pa.table({"other": [1], "text": ["held out"]}), data / "validation-00000-of-00001.parquet")
    (tmp_path / "corpus" / "README.md").write_text(CARD)
    return tmp_path / "corpus"


def source(path: Path, **options: Any) -> Source:
    return open_source(HfDatasetData(path=str(path), **{"heldout_fraction": 0, **options}))


def texts(found: Source, split: Any = "train") -> list[str]:
    return [found.read(ref).text for ref in found.list(split)]  # type: ignore[union-attr]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_directory_is_read_in_order_and_at_random(folder: Path, streaming: bool) -> None:
    found = source(folder, streaming=streaming, heldout_split="validation")
    assert texts(found) == TEXTS
    assert texts(found, "heldout") == ["held out"]
    refs = found.list("train")
    for ref in (refs[29], refs[3], refs[17], refs[4], refs[0]):
        assert found.read(ref).text == TEXTS[refs.index(ref)]  # type: ignore[union-attr]
    again = source(folder, streaming=streaming, heldout_split="validation")
    extents = list(found.extents("train"))
    assert len(extents) == (3 if streaming else 1)
    assert [ref for extent in extents for ref in again.refs(extent, "train")] == refs  # by a process that cut nothing
    assert all(found.stamp(extent) for extent in extents)
    assert refs[0].name == ("train-00000#000000000" if streaming else "train#000000000")


def test_a_stamp_changes_with_the_files(folder: Path) -> None:
    def stamps(**options: Any) -> list[str]:
        found = source(folder, **options)
        return [found.stamp(extent) for extent in found.extents("train")]

    before = stamps(streaming=True), stamps()
    assert (stamps(streaming=True), stamps()) == before
    table = pa.table({"other": [1], "text": ["new"]})
    pq.write_table(table, folder / "data" / "train-00001-of-00003.parquet")
    assert stamps(streaming=True)[0] != before[0][0]
    assert stamps() != before[1]
    # The package alone would still give the rows that it prepared before.
    assert texts(source(folder)) == [*TEXTS[:10], "new", *TEXTS[20:]]


def test_saved_datasets_with_chosen_rows(folder: Path, tmp_path: Path) -> None:
    both = datasets.load_dataset(str(folder))
    both.save_to_disk(str(tmp_path / "both"))
    both["train"].select(range(29, -1, -2)).save_to_disk(str(tmp_path / "one"), num_shards=2)
    assert texts(source(tmp_path / "both", heldout_split="validation"), "heldout") == ["held out"]
    assert texts(source(tmp_path / "both")) == TEXTS
    assert texts(source(tmp_path / "one")) == TEXTS[::-2]
    for path, options, words in (
        ("both", {"split": "test"}, r"no split 'test', only \['train', 'validation'\].*data\.split"),
        ("one", {"split": "validation"}, "saved as one split"),
        ("one", {"streaming": True}, r"data\.streaming to false"),
        ("one", {"field": "body"}, r"no column \['body'\], only \['other', 'text'\].*data\.field"),
    ):
        with pytest.raises(DataError, match=words):
            source(tmp_path / path, **options).list("train")


@pytest.mark.parametrize("streaming", [False, True])
def test_conversations_and_bad_rows_of_json_lines(tmp_path: Path, streaming: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]} for _ in range(3)
    ]
    rows[1]["messages"] = None
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = source(tmp_path / "chats", streaming=streaming, messages_field="messages")
    first, bad, last = found.list("train")
    assert found.read(first).text == found.read(last).text == "hi\nyes"  # type: ignore[union-attr]
    with pytest.raises(UnreadableDocument, match=r"train.*row 1.*messages.*on_unreadable"):
        found.read(bad)


def test_a_damaged_shard_gives_what_it_can(folder: Path) -> None:
    path = folder / "data" / "train-00001-of-00003.parquet"
    column = pq.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    found = source(folder, streaming=True)
    refs = found.list("train")
    assert len(refs) == 10 + 1 + 10  # rows of a shard come 256 at a time
    with pytest.raises(UnreadableDocument, match=r"train-00001#000000000.*on_unreadable"):
        found.read(refs[10])
    kept = [ref for ref in refs if ref != refs[10]]
    assert [found.read(ref).text for ref in kept] == TEXTS[:10] + TEXTS[20:]  # type: ignore[union-attr]


def test_what_is_no_dataset_is_said(folder: Path, tmp_path: Path) -> None:
    for path, options in (
        (tmp_path / "nothing", {}),
        (Path("nobody/nothing"), {"streaming": True}),
        (folder, {"split": "test"}),
        (folder, {"split": "test", "streaming": True}),
        (folder, {"name": "other"}),
    ):
        with pytest.raises(DataError, match=r"cannot be read.*data\.path"):
            source(path, **options).list("train")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(DataError):
        source(tmp_path / "script").list("train")


@pytest.mark.parametrize("streaming", [False, True])
def test_images_with_classes(tmp_path: Path, streaming: bool) -> None:
    image = pytest.importorskip("PIL.Image")

    def png(colour: tuple[int, int, int]) -> bytes:
        buffer = io.BytesIO()
        image.new("RGB", (4, 4), colour).save(buffer, "PNG")
        return buffer.getvalue()

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = {"image": [{"bytes": png((n, 0, 0)), "path": None} for n in range(6)], "label": [n % 2 for n in range(6)]}
    (tmp_path / "images").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "images" / "train.parquet"))
    options = {"kind": "image", "size": 4, "mean": (0, 0, 0), "std": (1, 1, 1)}
    found = source(tmp_path / "images", streaming=streaming, **options)
    assert (found.kind, found.num_classes, found.num_channels) == ("image", 3, 3)
    samples: list[Any] = [found.read(ref) for ref in found.list("train")]
    assert [sample.target for sample in samples] == [0, 1] * 3
    assert [round(float(sample.pixels[0, 0, 0] * 255)) for sample in samples] == list(range(6))
    with pytest.raises(DataError, match=r"no column \['picture'\].*image_column"):
        source(tmp_path / "images", streaming=streaming, image_column="picture", **options).list("train")


def test_folders_of_images_and_integer_labels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "pets" / "train" / name / "1.png")
    found = source(tmp_path / "pets", kind="image")
    assert found.num_classes == 2
    assert [found.read(ref).target for ref in found.list("train")] == [0, 1]  # type: ignore[union-attr]
    numbers = datasets.load_dataset(str(tmp_path / "pets"), split="train").cast_column("label", datasets.Value("int64"))
    numbers.save_to_disk(str(tmp_path / "numbers"))
    assert source(tmp_path / "numbers", kind="image").num_classes == 2


def test_reading_in_order_opens_a_shard_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    real = datasets.IterableDataset.shard

    def counted(dataset: Any, *arguments: Any) -> Any:
        begun.append(arguments)
        return real(dataset, *arguments)

    monkeypatch.setattr(datasets.IterableDataset, "shard", counted)
    found = source(folder, streaming=True)
    extents: list[Extent] = list(found.extents("train"))
    both = [(ref, found.read(ref)) for extent in extents for ref in found.refs(extent, "train")]
    assert [sample.text for _, sample in both] == TEXTS  # type: ignore[union-attr]
    assert begun == [(3, 0), (3, 1), (3, 2)]
