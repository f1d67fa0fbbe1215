"""Small stores of every codec, for tests of the tools that read stores or make others of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs.store import app
from kdcore.identity import digest_samples, sample_key_text
from kdcore.labels import Codec, DenseCodec, FeatureCodec, TopKCodec, label_seeds
from kdcore.store import (
    ShardRow,
    batches_from_rows,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_probe,
    publish_receipt,
    read_journal,
    store_schema,
    write_shard,
)
from tests.support import labels as labels_fixtures

Store = TypeVar("Store", str, Path)
CLASSES = 40
LAYERS = (("layers.1", 3), ("pooled", 2))
NAMES = ("topk", "dense16", "dense8", "threshold", "sampled", "feature16", "feature8")
DISTRIBUTIONS = NAMES[:5]
A = [{"alpha": 1, "beta beta": 2}, {"gamma": 1, "d": 1}]
B = [{"delta": 3, "epsilon": 1}, {"beta beta": 1, "zeta": 1}, {"gamma": 4}]
UNION = {"alpha": 1, "beta beta": 3, "gamma": 5, "d": 1, "delta": 3, "epsilon": 1, "zeta": 1}
FIDELITY = {"labels": 10, "bytes_per_label": {"codes": 3.0, "total": 3.0}, "entries": 4.5, "bias": 0.1, "made_up": 7.25}


def codec_named(name: str) -> Codec:
    """One codec of each layout."""
    if name in ("threshold", "sampled"):
        return labels_fixtures.codec_of(name, 12, CLASSES)
    features = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    return {
        "topk": TopKCodec(6, CLASSES),
        "dense16": DenseCodec(CLASSES, 16),
        "dense8": DenseCodec(CLASSES, 8),
        "feature16": FeatureCodec(LAYERS),
        "feature8": FeatureCodec.learn(LAYERS, features),
    }[name]


def logits_of(text: str, labels: int, width: int) -> torch.Tensor:
    """Of a sample: a function of its text alone."""
    generator = torch.Generator().manual_seed(sum(text.encode()) * 7919 % (1 << 31))
    return torch.randn(labels, width, generator=generator) * 2


def row_named(codec: Codec, text: str, kind: str, occurrences: int = 1, target: int | None = 3) -> ShardRow:
    """The row of a sample; a text has as many tokens as characters."""
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64) % CLASSES
    count = max(0, len(ids) - 1) if kind == "text" else 1
    logits = logits_of(text, count, codec.num_classes or 5)
    hard = ids[1:] if kind == "text" else None
    key = sample_key_text(text)
    columns = codec.pack([codec.encode(logits, label_seeds(key, count))], [hard])[0]
    if kind == "image":
        return ShardRow(key, text, occurrences, columns, target=target)
    columns["token_log_probs"] = np.linspace(-4, -1, count).astype(np.float16)
    return ShardRow(key, text, occurrences, columns, tokens=ids)


def identity_of(codec: Codec, kind: str, samples: Mapping[str, int], **changes: Any) -> dict[str, Any]:
    """The identity of a store of these samples, its input digested as a plan does."""
    keyed = sorted((sample_key_text(text), times) for text, times in samples.items())
    identity = {
        "format": 2,
        "kind": kind,
        "teacher": {"path": "models/x", "weights": "aa"},
        "tokenizer": "t" if kind == "text" else None,
        "numerics": {"context": 128},
        "codec": codec.spec(),
        "vocabulary": CLASSES,
        "input": digest_samples(keyed),
        "versions": {"torch": "2"},
    }
    return {**identity, **changes}


def make_codec_store(
    path: Store,
    name: str,
    units: Sequence[Mapping[str, int]],
    kind: str = "text",
    codec: Codec | None = None,
    extra: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Store:
    """A store of one codec: each unit is {text: occurrences}."""
    codec = codec or codec_named(name)
    identity = identity_of(codec, kind, {text: times for unit in units for text, times in unit.items()}, **changes)
    publish_probe(path, b"{}")
    open_for_writing(path, identity)
    schema, plan = store_schema(kind, codec, CLASSES), {}
    for number, unit in enumerate(units):
        rows = [row_named(codec, text, kind, times) for text, times in unit.items()]
        plan[f"unit-{number:06d}"] = digest = digest_samples((row.key, row.occurrences) for row in rows)
        batches = batches_from_rows(schema, rows)
        publish_receipt(path, write_shard(path, f"unit-{number:06d}", 0, schema, batches, unit_digest=digest))
    figures = {"fidelity": FIDELITY, "statistics": {"nll": 1.5}} if extra is None else extra
    publish_manifest(path, identity, read_journal(path, plan), figures, codec.state())
    return path


def kd(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, " ".join(done.output.split())


def rows_of(path: Path | str) -> dict[str, tuple]:
    """All that a store says of each sample."""
    store = open_store(path, verify="full")
    found = {}
    for row in range(store.num_rows):
        columns = {name: (values.dtype, values.tobytes()) for name, values in store.row_view(row).columns.items()}
        tokens = store.tokens(row).tolist() if store.kind == "text" else int(store.targets()[row])
        path_of = store.token_log_probs(row).tolist() if store.kind == "text" else None
        found[store.name(row)] = (int(store.occurrences()[row]), store.key(row), tokens, path_of, columns)
    return found


def memory_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in a filesystem of its own, its cache in `tmp_path`."""
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    return f"memory://{tmp_path.name}/stores"
