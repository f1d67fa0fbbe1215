"""A decoder written from FORMAT.md and nothing else of this project, on the golden shards and on random labels."""

import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load
from test_golden import FOLDER, read, wanted

from tests.support.labels import CODECS, model_of, packed, per_label, random_labels


def b(value: int) -> int:
    if value < 4:
        return value
    s = value.bit_length() - 3
    return 4 * s + (value >> s)


class Reader:
    """rANS over the words of one block."""

    def __init__(self, words: list[int], frequencies: list[list[int]]) -> None:
        self.words, self.frequencies = words, frequencies
        self.x = (words[0] << 16) + words[1]
        self.next = 2

    def take(self, frequency: int, start: int) -> None:
        self.x = frequency * (self.x >> 12) + self.x % 4096 - start
        if self.x < 1 << 16:
            self.x = (self.x << 16) + self.words[self.next]
            self.next += 1

    def symbol(self, context: int) -> int:
        slot, start = self.x % 4096, 0
        for symbol, frequency in enumerate(self.frequencies[context]):
            if slot < start + frequency:
                self.take(frequency, start)
                return symbol
            start += frequency
        raise AssertionError("frequencies sum to 4096")

    def plain(self, s: int) -> int:
        value = 0
        while s > 0:
            w = min(s, 12)
            piece = self.x % 4096 >> (12 - w)
            self.take(1 << (12 - w), piece << (12 - w))
            value, s = (value << w) + piece, s - w
        return value

    def rest_of(self, bucket: int) -> int:
        if bucket < 4:
            return bucket
        s = bucket // 4 - 1
        return ((4 + bucket % 4) << s) + self.plain(s)

    def number(self, context: int) -> int:
        return self.rest_of(self.symbol(context))


def one_label(reader: Reader, draws: int, ids_by_rank: list[int], target: int | None) -> dict[int, int]:
    header = reader.symbol(0)
    n, rest, found = reader.rest_of(header // 2) + 1, draws, {}
    if header % 2:
        assert target is not None
        count = draws if n == 1 else 1 if n == draws else reader.number(1 + min(b(n - 1), 23)) + 1
        found[target] = count
        rest -= count
    place = 0
    for left in range(n - header % 2, 0, -1):
        place += reader.number(25 + 8 * min(b(place), 71) + min(left, 8) - 1)
        count = rest if left == 1 else 1
        if left > 1 and rest > left:
            count = reader.number(601 + 4 * min(b(rest - left), 23) + min(left, 5) - 2) + 1
        found[ids_by_rank[place]] = count
        rest, place = rest - count, place + 1
    assert rest == 0
    return found


def decode(state: bytes, codes: list[int], block_words: list[int], targets: list[int | None]) -> Iterator[dict]:
    tensors = load(zlib.decompress(state))
    assert tensors["frequencies"].shape[0] == 697
    draws, ids, table = int(tensors["draws"][0]), tensors["ids_by_rank"].tolist(), tensors["frequencies"].tolist()
    assert len(block_words) == -(-len(targets) // 128)
    for number, size in enumerate(block_words):
        reader, codes = Reader(codes[:size], table), codes[size:]
        for target in targets[128 * number : 128 * (number + 1)]:
            yield one_label(reader, draws, ids, target)
        assert (reader.x, reader.next) == (1 << 16, size)
    assert not codes


@pytest.mark.parametrize("name", ["threshold", "sampled"])
def test_golden_shards_are_what_format_md_says(name):
    _, rows = read(name)
    state = (FOLDER / f"{name}.state").read_bytes()
    found = []
    for row in rows:
        assert row.targets is not None
        columns = (row.columns["codes"].tolist(), row.columns["block_words"].tolist())
        found += decode(state, *columns, row.targets.tolist())
    assert found == [{int(i): count for i, count in label.items()} for label in wanted(name)]


@pytest.mark.parametrize(
    ("classes", "draws"), [(1, 1), (1, 9), (2, 2), (30, 5), (130, 200), (5000, 50), (70_000, 3), (300, 20_000)]
)
def test_random_labels_are_what_format_md_says(classes, draws):
    rng = np.random.default_rng(classes)
    pool = np.arange(classes) if classes < 60_000 else np.arange(0, classes, 777)
    labels = random_labels(rng, 140, draws, classes, pool)
    ends = np.cumsum(labels["entries"])
    targets = np.where(rng.random(140) < 0.5, labels["ids"][ends - 1], -1).astype(np.int64)
    codec = CODECS["threshold"](model_of(labels, draws, classes, targets))
    columns = packed(codec, [labels], [targets], [140])[0].columns
    found = decode(codec.state(), columns["codes"].tolist(), columns["block_words"].tolist(), targets.tolist())
    assert list(found) == per_label(labels["ids"], labels["counts"], labels["entries"])


def test_dense_in_8_bits_and_features_are_what_format_md_says():
    _, rows = read("dense8")
    for row, label in zip(rows[0].columns["log_probs"].reshape(-1, 20), wanted("dense8"), strict=False):
        cells = [-((value / 53) ** 2) if value < 255 else -np.inf for value in row.tolist()]
        cells -= np.log(np.exp(cells).sum())
        np.testing.assert_allclose(cells, [-np.inf if x is None else x for x in label], rtol=0, atol=2e-6)
    scales = load((FOLDER / "feature8.state").read_bytes())["scales"]
    _, rows = read("feature8")
    first = rows[0].columns["features"][:6].astype(np.float32) * scales
    np.testing.assert_allclose(first, wanted("feature8")[0], rtol=0, atol=2e-6)


def test_digests_in_specs_are_what_format_md_says():
    from hashlib import blake2b

    for name, field, order in (
        ("threshold", "coder", ("draws", "frequencies", "ids_by_rank", "bytes_per_label")),
        ("feature8", "scales", ("scales",)),
    ):
        codec, _ = read(name)
        state = (FOLDER / f"{name}.state").read_bytes()
        tensors = load(zlib.decompress(state) if name == "threshold" else state)
        found = blake2b(b"".join(tensors[each].tobytes() for each in order), digest_size=16).hexdigest()
        assert codec.spec()[field] == found
