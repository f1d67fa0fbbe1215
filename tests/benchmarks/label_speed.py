"""How fast labels are read and written, on one core.

`decode_mtok_per_s`: labels of a store of 128,256 classes at about 12 bytes a label, read in random sequences of 1,024
through `LabelStore.labels_of` to training tensors. `vs_datasets`, `vs_streaming`: the same labels as nested lists
through `datasets`, and as ragged arrays of 4 + 2 bytes an entry, uncoded, through mosaicml-streaming (in an
environment of its own: `--streaming-python`), rows in random order; how many times faster ours are.
`label_vs_forward`: speed of forward, encode, pack and write over that of the bare forward, of a teacher of 100 M
parameters and 32,000 tokens on the CPU; smaller teachers are in `teachers`.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.labelling.replica.answers import Document
from kdcore.config.labels import ThresholdConfig
from kdcore.data.encoding import EncodedText
from kdcore.identity import sample_key_array
from kdcore.labels import Codec, label_seeds
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.store import (
    LabelStore,
    ShardRow,
    batches_from_rows,
    open_for_writing,
    store_schema,
    write_shard,
)
from kdcore.store.schema import TOKEN_LOG_PROBS
from tests.benchmarks.harness import emit, progress
from tests.benchmarks.label_bytes import SHIPPED, UNIQUE
from tests.benchmarks.stores import make_store
from tests.benchmarks.teachers import WIDE_CLASSES, real_teacher, wide_teacher

ROW_LABELS, SEQUENCE = 2048, 1024
BUDGET = 12.0
# Name, hidden width, layers, classes: about 8, 30 and 100 million parameters.
TEACHERS = (("8M", 192, 4, 32_000), ("30M", 384, 8, 32_000), ("100M", 768, 8, 32_000))


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs after one for warming up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def make_rows(num_rows: int) -> tuple[Codec, list[ShardRow]]:
    """Rows of 2,048 labels at about 12 bytes; a few thousand different labels, dealt out at random."""
    wide = wide_teacher(real_teacher(str(SHIPPED), 8192, 16), UNIQUE, 12_288, 1)
    source = wide.learn[32:]  # tables know the labels that they were learnt on
    codec = learn_codec(ThresholdConfig(budget_bytes=BUDGET), WIDE_CLASSES, wide.learn[:32]).codec
    encoded = [codec.encode(batch.outputs, batch.seeds) for batch in source]
    generator = np.random.default_rng(0)
    rows = []
    for number in range(num_rows):
        order = generator.permutation(len(encoded))[: ROW_LABELS // 256]
        parts = {name: np.concatenate([encoded[i][name] for i in order]) for name in encoded[0]}
        targets = np.concatenate([source[i].targets for i in order])
        columns = codec.pack([parts], [targets])[0]
        columns["token_log_probs"] = np.zeros(ROW_LABELS, np.float16)
        tokens = np.concatenate([[number % WIDE_CLASSES], targets]).astype(np.int64)
        rows.append(ShardRow(sample_key_array(tokens), f"row{number}", 1, columns, tokens=tokens))
    return codec, rows


def decode_speed(store: LabelStore) -> dict[str, float]:
    """Labels a second, read in batches of 16 random sequences."""
    generator = np.random.default_rng(1)
    rows = generator.permutation(np.repeat(np.arange(store.num_rows), ROW_LABELS // SEQUENCE))
    starts = generator.integers(0, ROW_LABELS - SEQUENCE, len(rows))

    def read() -> None:
        for first in range(0, len(rows), 16):
            part = slice(first, first + 16)
            store.labels_of(rows[part], starts[part], starts[part] + SEQUENCE)

    labels = store.labels(0)
    size = store.bytes_per_label()
    return {
        "labels_per_s": len(rows) * SEQUENCE / best(read, 5),
        "bytes_per_label": size["codes"] + size["block_words"],
        "entries": len(labels.ids) / labels.num_labels,
        "plain_bytes_per_label": 4 + 6 * len(labels.ids) / labels.num_labels,
    }


def datasets_speed(folder: Path, store: LabelStore) -> float:
    """Labels a second of the same labels as nested lists (ids, weights), rows in random order, numpy format."""
    import datasets

    rows = [_nested(store, row) for row in range(store.num_rows)]
    features = datasets.Features(
        ids=datasets.List(datasets.List(datasets.Value("int32"))),
        weights=datasets.List(datasets.List(datasets.Value("float16"))),
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder)
    dataset = datasets.load_from_disk(folder).with_format("numpy")
    order = np.random.default_rng(2).permutation(len(dataset))[: max(8, len(dataset) // 8)].tolist()
    return len(order) * ROW_LABELS / best(lambda: [dataset[index] for index in order], 2)


def _nested(store: LabelStore, row: int) -> dict[str, Any]:
    labels = store.labels(row)
    ends = labels.offsets[1:-1].tolist()
    return {
        "ids": [part.astype(np.int32) for part in np.split(labels.ids.numpy(), ends)],
        "weights": [part.astype(np.float16) for part in np.split(labels.weights.numpy(), ends)],
    }


STREAMING = """
import json, sys, time
import numpy as np
from streaming import MDSWriter, StreamingDataset
folder, source = sys.argv[1:3]
data = np.load(source)
columns = {"ids": "ndarray:int32", "weights": "ndarray:float16", "offsets": "ndarray:int32"}
with MDSWriter(out=folder, columns=columns) as out:
    for row in range(int(data["rows"])):
        out.write({name: data[f"{name}{row}"] for name in columns})
dataset = StreamingDataset(local=folder, batch_size=1, shuffle=False)
order = np.random.default_rng(2).permutation(len(dataset)).tolist()
def read():
    for index in order:
        sample = dataset[index]
        np.asarray(sample["ids"], np.int64), np.asarray(sample["weights"], np.float32)
times = []
for _ in range(4):
    started = time.perf_counter()
    read()
    times.append(time.perf_counter() - started)
print(json.dumps(min(times[1:])))
"""


def streaming_speed(folder: Path, store: LabelStore, python: str) -> float:
    """Labels a second of the same labels in MDS shards, ragged arrays of a row, plain 4 + 2 bytes an entry."""
    arrays: dict[str, Any] = {"rows": store.num_rows}
    for row in range(store.num_rows):
        labels = store.labels(row)
        arrays[f"ids{row}"] = labels.ids.numpy().astype(np.int32)
        arrays[f"weights{row}"] = labels.weights.numpy().astype(np.float16)
        arrays[f"offsets{row}"] = labels.offsets.numpy().astype(np.int32)
    source = folder / "rows.npz"
    np.savez(source, **arrays)
    found = subprocess.run(
        [python, "-c", STREAMING, str(folder / "mds"), str(source)], check=True, capture_output=True, text=True
    )
    return store.num_labels / json.loads(found.stdout.strip().splitlines()[-1])


def teacher_speed(width: int, layers: int, classes: int, dtype: torch.dtype, folder: Path) -> dict[str, float]:
    """Tokens a second of a Llama with random weights: the bare forward, and with labels written."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=classes, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).eval()
    tokens = torch.randint(classes, (2, 513), generator=torch.Generator().manual_seed(1))
    keys = [sample_key_array(row.numpy()) for row in tokens]
    with torch.inference_mode():
        probe = [
            ProbeBatch(model(input_ids=row[None, :-1]).logits[0].float(), row[1:].numpy(), label_seeds(key, 512))
            for row, key in zip(tokens, keys, strict=True)
        ]
        codec = learn_codec(ThresholdConfig(draws=24), classes, probe).codec
        schema = store_schema("text", codec, classes)
        open_for_writing(folder, {"codec": codec.spec(), "kind": "text"})

        def forward() -> torch.Tensor:
            return model(input_ids=tokens[:, :-1], use_cache=False).logits

        def label() -> None:
            rows = [labelled(codec, *row) for row in zip(keys, tokens.numpy(), forward(), strict=True)]
            write_shard(folder, "unit", 0, schema, batches_from_rows(schema, rows), unit_digest="none")

        bare, whole = _paired(forward, label, 5)
    count = tokens[:, 1:].numel()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": parameters,
        "forward_tokens_per_s": count / bare,
        "labelled_tokens_per_s": count / whole,
        "label_vs_forward": bare / whole,
    }


def labelled(codec: Codec, key: bytes, tokens: np.ndarray, logits: torch.Tensor) -> ShardRow:
    """A row as a replica makes it."""
    document = Document("row", key, 1, EncodedText(tokens), label_seeds(key, len(logits)))
    document.keep(codec, slice(0, len(logits)), logits, logits)
    encoded, log_probs = document.joined(codec, codec.num_classes)
    columns = codec.pack([encoded], [tokens[1:]])[0]
    return ShardRow(key, "row", 1, {**columns, TOKEN_LOG_PROBS: log_probs}, tokens=tokens)


def _paired(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The fastest of each, run in turns so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(repeats + 1):
        for work, found in zip((first, second), times, strict=True):
            started = time.perf_counter()
            work()
            if number:
                found.append(time.perf_counter() - started)
    return min(times[0]), min(times[1])


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.label_speed", description=__doc__)
    parser.add_argument("--streaming-python", help="a Python that has mosaicml-streaming; without it: not compared")
    parser.add_argument("--rows", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as name:
        folder = Path(name)
        progress("making the store")
        codec, rows = make_rows(arguments.rows)
        store = make_store(folder / "store", codec, [rows], kind="text", vocabulary=codec.num_classes)
        ours = decode_speed(store)
        progress(f"ours: {ours}")
        peers = {"datasets": datasets_speed(folder / "datasets", store)}
        if arguments.streaming_python:
            peers["streaming"] = streaming_speed(folder, store, arguments.streaming_python)
        progress(f"peers: {peers}")
        teachers = {}
        for size, width, layers, classes in TEACHERS:
            for dtype in (torch.float32, torch.bfloat16):
                label = f"{size} {str(dtype).removeprefix('torch.')}"
                teachers[label] = teacher_speed(width, layers, classes, dtype, folder / label.replace(" ", "-"))
                progress(f"{label}: {teachers[label]}")
    headline = {
        "decode_mtok_per_s": round(ours["labels_per_s"] / 1e6, 3),
        "label_vs_forward": round(teachers["100M float32"]["label_vs_forward"], 4),
        **{f"vs_{peer}": round(ours["labels_per_s"] / speed, 2) for peer, speed in peers.items()},
    }
    command = ["python", "-m", "tests.benchmarks.label_speed"]
    command += ["--streaming-python", "PYTHON"] if arguments.streaming_python else []
    emit("label_speed", headline, command, decode=ours, peers_labels_per_s=peers, teachers=teachers)


if __name__ == "__main__":
    main()
