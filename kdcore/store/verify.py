"""Prove a store, or say everything that is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdcore.errors import CorruptShard, KDError
from kdcore.identity import differences, digest_file
from kdcore.labels import Codec, codec_from_spec
from kdcore.store.index import ShardPart, build_index, read_part
from kdcore.store.layout import shard_file
from kdcore.store.manifest import Manifest, load_manifest
from kdcore.store.schema import store_schema
from kdcore.store.shard import Shard, list_values
from kdcore.store.writer import Receipt, read_identity

__all__ = ["VerifyReport", "check_digest", "verify_store"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found; `problems` is empty when the store is right."""

    path: str
    full: bool
    shards: int
    rows: int
    labels: int
    bytes: int
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def check_digest(store: Path, receipt: Receipt) -> None:
    """Read a shard whole; CorruptShard when its bytes are not those of its receipt."""
    path = shard_file(store, receipt.shard)
    try:
        found = digest_file(path)
    except OSError as error:
        raise CorruptShard(f"shard {path} cannot be read ({error}): restore it from a copy") from error
    if found != receipt.digest:
        raise CorruptShard(
            f"shard {path} was altered: its digest must be {receipt.digest}, it is {found}. Restore it from a copy, or "
            f"remove it and manifest.json, and label its unit again"
        )


def verify_store(path: str | Path, full: bool = True, progress: Progress | None = None) -> VerifyReport:
    """Check every shard and go on after a problem; `full` also compares digests and decodes every label.

    `progress(done, total)` is called after each shard. Raises IncompleteStore or CorruptShard only for the manifest.
    """
    store = Path(path)
    manifest = load_manifest(store)
    codec = codec_from_spec(manifest.codec)
    problems = _identity_problems(store, manifest)
    parts = []
    for number, receipt in enumerate(manifest.shards):
        try:
            parts.append(_check_shard(store, manifest, receipt, codec, full))
        except KDError as error:
            problems.append(str(error))
        if progress is not None:
            progress(number + 1, len(manifest.shards))
    keys = build_index(parts).keys
    repeated = len(keys) - len(np.unique(keys, axis=0))
    if repeated:
        problems.append(f"{repeated} keys occur in several rows of {store}")
    return VerifyReport(
        str(store), full, len(manifest.shards), manifest.num_rows, manifest.num_labels, manifest.num_bytes, problems
    )


def _identity_problems(store: Path, manifest: Manifest) -> list[str]:
    try:
        found = differences(read_identity(store), manifest.identity)
    except KDError as error:
        return [str(error)]
    return [f"identity.json and the manifest differ at {name}: {old!r}, {new!r}" for name, old, new in found]


def _check_shard(store: Path, manifest: Manifest, receipt: Receipt, codec: Codec, full: bool) -> ShardPart:
    if full:
        check_digest(store, receipt)
    shard = Shard(store, receipt, store_schema(manifest.kind, codec, manifest.identity.get("vocabulary")))
    part = read_part(shard, codec.widths())
    if full:
        _check_values(shard, codec, manifest.identity.get("vocabulary") or codec.num_classes)
        _decode_all(shard, codec)
    return part


def _check_values(shard: Shard, codec: Codec, vocabulary: int) -> None:
    """Ids and counts are in their ranges; CorruptShard otherwise."""
    for batch in shard.batches:
        bounds = {"occurrences": (1, 1 << 31), "target": (0, codec.num_classes)}
        ranges = [(name, batch.column(name), *bound) for name, bound in bounds.items() if name in batch.schema.names]
        if "tokens" in batch.schema.names:
            ranges.append(("tokens", batch.column("tokens").values, 0, vocabulary))
        for name, values, low, high in ranges:
            found = values.drop_null().to_numpy()
            if len(found) and not low <= found.min() <= found.max() < high:
                raise CorruptShard(
                    f"{shard.path}: column '{name}' must be in [{low}, {high}), it has {found.min()} to {found.max()}"
                )


def _decode_all(shard: Shard, codec: Codec) -> None:
    """Every label is a distribution over the codec's classes; LabelError otherwise."""
    widths = codec.widths()
    first, width = next(iter(widths.items()))
    for batch in shard.batches:
        columns = {name: list_values(batch, name) for name in widths}
        count = len(columns[first]) // width
        step = max(1, (1 << 22) // max(widths.values()))
        for start in range(0, count, step):
            stop = min(start + step, count)
            part = {name: values[start * widths[name] : stop * widths[name]] for name, values in columns.items()}
            codec.decode(part, stop - start)
