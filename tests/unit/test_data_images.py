import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcore.config.data import DigitsData, ImageFolderData, ImageParquetData
from kdcore.config.views import ViewPolicy
from kdcore.data.images import ImageDecoder
from kdcore.data.sources import open_source
from kdcore.errors import ConfigError, DataError, UnreadableDocument

Image = pytest.importorskip("PIL.Image")


def png(colour, size=5, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path, images, labels, **options):
    pq.write_table(pa.table({"image": images, "label": labels}), path, **options)
    return str(path)


def test_digits():
    source = open_source(DigitsData())
    train, heldout = source.list("train"), source.list("heldout")
    assert (source.kind, source.num_classes, source.num_channels) == ("image", 10, 1)
    assert len(train) + len(heldout) == 1797
    assert 0.2 < len(heldout) / 1797 < 0.3
    sample = source.read(train[0])
    assert (sample.pixels.shape, sample.pixels.dtype) == ((1, 8, 8), np.float32)
    pixels = np.stack([source.read(ref).pixels for ref in train])
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert {source.read(ref).target for ref in heldout} == set(range(10))


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_rows_over_row_groups(tmp_path, struct):
    colours = [(n * 10, 255 - n * 10, 7) for n in range(7)]
    images = [{"bytes": png(c), "path": None} if struct else png(c) for c in colours]
    path = parquet(tmp_path / "a.parquet", images, list(range(7)), row_group_size=3)
    config = ImageParquetData(path=path, heldout_fraction=0, size=4, mean=(0, 0, 0), std=(1, 1, 1))
    source = open_source(config)
    assert source.num_classes == 7
    for row, ref in enumerate(source.list("train")):
        sample = source.read(ref)
        assert sample.target == row
        assert sample.pixels.dtype == np.float32
        expected = np.broadcast_to(np.array(colours[row])[:, None, None] / 255, (3, 4, 4))
        np.testing.assert_allclose(sample.pixels, expected, atol=1e-6)


def test_normalisation_and_grey(tmp_path):
    path = parquet(tmp_path / "a.parquet", [png((51, 51, 51))], [0])
    config = ImageParquetData(path=path, heldout_fraction=0, channels=1, mean=(0.1,), std=(0.5,), size=2)
    source = open_source(config)
    np.testing.assert_allclose(source.read(source.list("train")[0]).pixels, np.full((1, 2, 2), 0.2), atol=1e-6)
    with pytest.raises(ConfigError, match=r"data\.mean"):
        open_source(ImageParquetData(path=path, channels=1))


@pytest.mark.parametrize(
    ("image", "label"), [(b"no image", 0), (png((1, 2, 3), 64)[:-30], 0), (None, 0), (png(1), None), (png(1), -1)]
)
def test_a_bad_row_is_named(tmp_path, image, label):
    path = parquet(tmp_path / "a.parquet", [png(1), image], pa.array([1, label], pa.int64()))
    source = open_source(ImageParquetData(path=path, heldout_fraction=0))
    with pytest.raises(UnreadableDocument, match=r"a\.parquet#000000001.*row 1"):
        source.read(source.list("train")[1])


def test_parquet_that_is_not(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet"):
        open_source(ImageParquetData(path=str(tmp_path / "a.parquet"))).list("train")
    path = parquet(tmp_path / "b.parquet", [png(1)], [0])
    with pytest.raises(DataError, match="image_column"):
        open_source(ImageParquetData(path=path, image_column="img")).list("train")
    with pytest.raises(DataError, match="label_column"):
        _ = open_source(ImageParquetData(path=path, label_column="image")).num_classes


def test_folder(tmp_path):
    for name, colour in (("cat", 10), ("dog", 200)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for n in range(3):
            (tmp_path / "train" / name / f"{n}.png").write_bytes(png((colour, colour, n)))
    (tmp_path / "val" / "dog").mkdir(parents=True)
    (tmp_path / "val" / "dog" / "x.PNG").write_bytes(png((1, 1, 1)))
    source = open_source(ImageFolderData(path=str(tmp_path / "train"), heldout=str(tmp_path / "val"), size=4))
    assert source.num_classes == 2
    samples = [source.read(ref) for ref in source.list("train")]
    assert [sample.name for sample in samples] == [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(3)]
    assert [sample.target for sample in samples] == [0, 0, 0, 1, 1, 1]
    assert [source.read(ref).target for ref in source.list("heldout")] == [1]
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "cow")
    with pytest.raises(UnreadableDocument, match="cow"):
        source.read(source.list("heldout")[0])
    with pytest.raises(DataError, match="sub-folder"):
        open_source(ImageFolderData(path=str(tmp_path / "none"))).list("train")


def encoded(values, format):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format)
    return buffer.getvalue()


def test_grey_of_16_bits_is_as_bright_as_of_8():
    eight = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    sixteen = eight.astype(np.uint16) << 8 | 77
    big = b"P5 8 8 65535\n" + sixteen.astype(">u2").tobytes()
    for channels in (1, 3):
        plain = {"size": 8, "channels": channels, "mean": (0,) * channels, "std": (1,) * channels}
        decoder = ImageDecoder(ImageFolderData(path="x", **plain))
        expected = decoder.decode(encoded(eight, "PNG"))
        for data in (encoded(sixteen, "PNG"), encoded(sixteen, "TIFF"), encoded(sixteen.astype(">u2"), "TIFF"), big):
            np.testing.assert_array_equal(decoder.decode(data), expected)
    views = ImageDecoder(ImageFolderData(path="x", size=8, views=ViewPolicy()))
    np.testing.assert_array_equal(views.decode(big), np.repeat(eight[:, :, None], 3, axis=2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_brightest_one_are_refused(kind):
    decoder = ImageDecoder(ImageFolderData(path="x", size=8))
    with pytest.raises(ValueError, match=r"32 bits.*convert it to 8 or 16"):
        decoder.decode(encoded(np.ones((8, 8), kind), "TIFF"))
