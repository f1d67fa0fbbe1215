"""Writes the golden files: one small shard of each codec, what its codec learnt, and what it decodes to.

    python tests/golden/make.py

They are written once: a file that is there is left alone, since its point is that later versions still read what this
one wrote. A new codec, or a new format number, adds files. Labels come from integers alone, so that nothing depends on
a machine's floating point: logits and features are multiples of 1/16, and the draws of `threshold` and `sampled` are
made by hand (`tests/unit/test_golden.py` packs them again and compares every byte).

    NAME.arrow   key, tokens and the codec's columns of a few rows, with the codec's spec in the schema
    NAME.state   what the codec learnt, if it learns
    NAME.json    for every label {class: count}, or its values

`views.arrow` is a shard of images, with the parameters of two views a row, which `views.json` has by name.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from kdcore.config.views import ViewPolicy
from kdcore.identity import canonical_json
from kdcore.labels import (
    Codec,
    DenseCodec,
    Encoded,
    FeatureCodec,
    RowView,
    SampledCodec,
    SoftLabels,
    SpanCodec,
    SpanLabels,
    SparseLabels,
    ThresholdCodec,
    TopKCodec,
    TopKLabels,
)
from kdcore.labels.coder import CoderModel
from kdcore.labels.views import CUTMIX, MIXUP, UNMIXED, View, Views, pack_views
from kdcore.labels.views.spec import ViewSpec
from kdcore.store import ShardRow, batches_from_rows, store_schema

HERE = Path(__file__).resolve().parent
FORMAT = 2
FEW, MANY = [2, 0, 3], [3, 0, 130, 1]
LAYERS = (("layers.1", 4), ("pooled", 2))
SHAPED = (("maps", (2, 1, 2)), ("pooled", (2,)))
VIEWS = ViewSpec(
    ViewPolicy.model_validate(
        {
            "per_image": 2,
            "crop": {"type": "random_resized"},
            "flip": 0.5,
            "color_jitter": {"brightness": 0.4, "saturation": 0.25},
            "rand_augment": {"ops": 2, "magnitude": 9},
            "erase": 0.25,
            "mix": {"mixup": 0.5, "cutmix": 1.0},
        }
    ),
    24,
    (0.5, 0.5, 0.25),
    (0.25, 0.5, 0.5),
)


class Numbers:
    """A generator that can be written down: x -> (48271 x) mod (2^31 - 1)."""

    def __init__(self) -> None:
        self.state = 1

    def below(self, limit: int) -> int:
        """The next number in 0 .. limit - 1."""
        self.state = self.state * 48271 % (2**31 - 1)
        return self.state * limit >> 31

    def grid(self, rows: int, columns: int) -> torch.Tensor:
        """Multiples of 1/16 in [-4, 4)."""
        return torch.tensor([[self.below(128) / 16 - 4 for _ in range(columns)] for _ in range(rows)])


def drawn(numbers: Numbers, labels: int, draws: int, classes: int) -> list[dict[int, int]]:
    """Labels of up to 12 classes, low ids more often; counts sum to `draws`."""
    found = []
    for _ in range(labels):
        wanted = 1 + numbers.below(min(12, draws))
        ids = sorted({numbers.below(1 + numbers.below(classes)) for _ in range(wanted)})
        cuts = sorted({1 + numbers.below(draws - 1) for _ in range(len(ids) - 1)})
        counts = np.diff([0, *cuts, draws]).tolist()
        found.append(dict(zip(ids[: len(counts)], counts, strict=True)))
    return found


def as_encoded(labels: list[dict[int, int]]) -> Encoded:
    """The arrays that `encode` would have given."""
    return {
        "ids": np.array([i for label in labels for i in label], np.int32),
        "counts": np.array([count for label in labels for count in label.values()], np.uint16),
        "entries": np.array([len(label) for label in labels], np.int64),
    }


def tokens_of(numbers: Numbers, labels: list[dict[int, int]], classes: int) -> np.ndarray:
    """One token more than labels; of four next tokens three are among the classes of their label."""
    following = [
        list(label)[numbers.below(len(label))] if numbers.below(4) else numbers.below(classes) for label in labels
    ]
    return np.array([numbers.below(classes), *following], np.int32)


def counts_files(kind: type[SampledCodec] | type[ThresholdCodec], name: str, draws: int, classes: int) -> None:
    """A codec that learns its tables on half of its labels."""
    numbers = Numbers()
    rows = [drawn(numbers, size, draws, classes) for size in MANY]
    tokens = [tokens_of(numbers, labels, classes) for labels in rows]
    probe = as_encoded(rows[2])
    prior = np.bincount(probe["ids"], probe["counts"], minlength=classes)
    model = CoderModel.learn(prior, draws, probe["ids"], probe["counts"], probe["entries"], tokens[2][1:])
    codec = kind(model, seed=7)
    write(name, codec, codec.pack([as_encoded(labels) for labels in rows], [each[1:] for each in tokens]), tokens)


def flat_files(name: str, codec: Codec, outputs: torch.Tensor) -> None:
    """A codec of a fixed width."""
    parts = outputs.split(FEW)
    encoded = [codec.encode(part, np.zeros(len(part), np.uint64)) for part in parts]
    tokens = [np.arange(size + 1, dtype=np.int32) for size in FEW]
    write(name, codec, codec.pack(encoded, [None] * len(FEW)), tokens)


def write(name: str, codec: Codec, rows: list[dict[str, np.ndarray]], tokens: list[np.ndarray]) -> None:
    """The files of one codec."""
    path = HERE / f"{name}.arrow"
    if path.exists():
        print(f"{path.name} is there: left alone")
        return
    fields = [pa.field("key", pa.binary(16)), pa.field("tokens", pa.list_(pa.int32())), *codec.fields()]
    metadata = {"format": FORMAT, "kind": "text", "codec": codec.spec()}
    schema = pa.schema(fields, metadata={b"kdcore": canonical_json(metadata).encode()})
    keys = [number.to_bytes(16, "big") for number in range(len(rows))]
    columns = [[keys, list(tokens)], *([[row[field.name] for row in rows]] for field in codec.fields())]
    values = [column for group in columns for column in group]
    arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    state = codec.state()
    if state is not None:
        (HERE / f"{name}.state").write_bytes(state)
    views = [RowView(row, len(each) - 1, each[1:]) for row, each in zip(rows, tokens, strict=True)]
    labels = codec.decode(views, [0] * len(views), [view.num_labels for view in views])
    text = json.dumps(plain(labels, codec)).replace("], [", "],\n[").replace("}, {", "},\n{")
    (HERE / f"{name}.json").write_text(text + "\n")


def span_files() -> None:
    """Tokens of every kind of place: short, long, after a gap, without a byte."""
    numbers, outputs = Numbers(), []
    for size in FEW:
        end = 0
        for _ in range(size):
            begin = end + (numbers.below(3) == 0) * numbers.below(700)
            end = begin + numbers.below(20)
            outputs.append([-numbers.below(160) / 16, -numbers.below(160) / 16, begin, end])
    flat_files("span", SpanCodec(), torch.tensor(outputs, dtype=torch.float64))


def views_files() -> None:
    """A shard of images with views that have every kind of parameter."""
    path, numbers, codec = HERE / "views.arrow", Numbers(), DenseCodec(5, 8)
    if path.exists():
        print(f"{path.name} is there: left alone")
        return
    schema = store_schema("image", codec, views=VIEWS.to_json())
    views = [
        view_of(numbers, *flags) for flags in ((0, UNMIXED), (1, MIXUP), (0, CUTMIX), (1, CUTMIX), (0, MIXUP), (1, 0))
    ]
    rows = []
    for row in range(3):
        packed, _ = pack_views(VIEWS.policy, Views.of(views[2 * row : 2 * row + 2]))
        labels = codec.encode(numbers.grid(2, 5), np.zeros(2, np.uint64))
        rows.append(ShardRow(row.to_bytes(16, "big"), f"image-{row}", 1, {**labels, "views": packed}, target=row))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches_from_rows(schema, rows):
            writer.write_batch(batch)
    lines = ",\n".join(json.dumps(view.named()) for view in views)
    (HERE / "views.json").write_text(f"[{lines}]\n")


def view_of(numbers: Numbers, erased: int, mixed: int) -> View:
    """Parameters of a view that is erased or not, and mixed in one of the ways or not."""
    below = {"area": 256, "ratio": 64, "x": 256, "y": 256, "flip": 2, "brightness": 64, "saturation": 64}
    boxes = ("erase_area", "erase_ratio", "erase_x", "erase_y")
    below |= dict.fromkeys(boxes, 64) if erased else {}
    below |= {"share": 256} if mixed else {}
    below |= {"cut_x": 64, "cut_y": 64} if mixed == CUTMIX else {}
    values = {name: numbers.below(limit) for name, limit in below.items()}
    partner = numbers.below(1 << 20) << 20 | numbers.below(1 << 20) if mixed else 0
    return View(**values, ops=(numbers.below(23), numbers.below(23)), erased=erased, mixed=mixed, partner=partner)


def plain(labels: SoftLabels, codec: Codec) -> list:
    """Labels as JSON: {class: count}, or values; probability zero is null."""
    if isinstance(labels, SparseLabels):
        assert isinstance(codec, SampledCodec | ThresholdCodec)
        counts = (labels.weights.double() * codec.draws).round().long()
        ends = labels.offsets.tolist()
        pairs = list(zip(labels.ids.tolist(), counts.tolist(), strict=True))
        return [dict(sorted(pairs[a:b])) for a, b in pairwise(ends)]
    if isinstance(labels, TopKLabels):
        values = torch.cat([labels.ids.float(), labels.log_probs, labels.tail_log_prob[:, None]], 1)
    elif isinstance(labels, SpanLabels):
        values = torch.stack([each.double() for each in vars(labels).values()], 1)
    else:
        values = next(iter(vars(labels).values()))
    return [[round(value, 6) if value > float("-inf") else None for value in row] for row in values.tolist()]


def main() -> None:
    """Every codec."""
    numbers = Numbers()
    logits = numbers.grid(sum(FEW), 20)
    logits[1, 3:] = logits[3, ::2] = float("-inf")
    features = numbers.grid(sum(FEW), 6)
    flat_files("topk", TopKCodec(4, 20), logits)
    flat_files("topk8", TopKCodec(4, 20, 8), logits)
    flat_files("dense16", DenseCodec(20, 16), logits)
    flat_files("dense8", DenseCodec(20, 8), logits)
    flat_files("feature16", FeatureCodec(LAYERS), features)
    flat_files("feature8", FeatureCodec.learn(LAYERS, features[:3]), features)
    shaped = FeatureCodec.of_shapes(SHAPED)
    flat_files("shaped8", FeatureCodec.learn(shaped.layers, features[:3], shaped.shapes), features)
    counts_files(ThresholdCodec, "threshold", 40, 3000)
    span_files()
    views_files()
    counts_files(SampledCodec, "sampled", 60_000, 2000)  # counts with more than 12 plain bits


if __name__ == "__main__":
    main()
