"""Small stores of several invented teachers over the same samples, for tests of mixes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcore.identity import digest_samples, sample_key_text
from kdcore.labels import Codec, FeatureCodec, label_seeds
from kdcore.store import (
    LabelStore,
    ShardRow,
    batches_from_rows,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_receipt,
    read_journal,
    store_schema,
    write_shard,
)

CLASSES = 50


def name_of(number: int) -> str:
    """The even samples are code."""
    return f"{'text' if number % 2 else 'code'}/{number}.txt"


def tokens_of(number: int) -> np.ndarray:
    return (np.arange(3 + 2 * number) * 7 + number) % CLASSES


def logits_of(teacher: int, number: int, classes: int, kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * teacher + number)
    return 2 * torch.randn(len(tokens_of(number)) - 1 if kind == "text" else 1, classes, generator=generator)


def write_store(
    path: Path,
    teacher: int,
    codec: Codec,
    numbers: Sequence[int] = range(4),
    kind: str = "text",
    targets: bool = True,
    **identity: Any,
) -> LabelStore:
    """What an invented teacher says of samples `numbers`, in two shards; keywords change the identity."""
    keys = [(sample_key_text(str(number)), 1 + number % 2) for number in numbers]
    made = {
        "format": 2,
        "kind": kind,
        "teacher": {"weights": str(teacher)},
        "tokenizer": "t",
        "numerics": {},
        "codec": codec.spec(),
        "input": digest_samples(sorted(keys)),
        "vocabulary": max(1, codec.num_classes),
        "versions": {},
        **identity,
    }
    open_for_writing(path, made)
    schema, half = store_schema(kind, codec, codec.num_classes), len(numbers) // 2
    units = {"unit-000000": numbers[:half], "unit-000001": numbers[half:]}
    for unit, part in units.items():
        rows = [_row(teacher, number, codec, kind, targets) for number in part]
        batches = batches_from_rows(schema, rows)
        publish_receipt(path, write_shard(path, unit, 0, schema, batches, unit_digest=unit, codec=codec))
    publish_manifest(path, made, read_journal(path, {unit: unit for unit in units}), {}, codec.state())
    return open_store(path)


def _row(teacher: int, number: int, codec: Codec, kind: str, targets: bool) -> ShardRow:
    key, times = sample_key_text(str(number)), 1 + number % 2
    logits = logits_of(teacher, number, codec.width if isinstance(codec, FeatureCodec) else codec.num_classes, kind)
    hard = tokens_of(number)[1:] if kind == "text" else None
    columns = codec.pack([codec.encode(logits, label_seeds(key, len(logits)))], [hard])[0]
    if hard is None:
        return ShardRow(key, name_of(number), times, columns, target=number % CLASSES if targets else None)
    of_tokens = logits.log_softmax(1).gather(1, torch.from_numpy(hard)[:, None]).squeeze(1)
    columns["token_log_probs"] = of_tokens.numpy().astype(np.float16)
    return ShardRow(key, name_of(number), times, columns, tokens=tokens_of(number))
