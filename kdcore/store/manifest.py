"""The manifest: the only proof that a store is complete. Published last, whole, once."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.errors import CorruptShard, IncompleteStore, StoreError
from kdcore.identity import compare_identity, digest_json
from kdcore.labels import codec_from_spec
from kdcore.store.card import dataset_card
from kdcore.store.journal import receipt_from_json
from kdcore.store.layout import CARD, MANIFEST, publish_file
from kdcore.store.schema import FORMAT, store_schema
from kdcore.store.shard import Shard
from kdcore.store.writer import Receipt

__all__ = ["Manifest", "load_manifest", "publish_manifest"]

_KINDS = ("text", "image")


@dataclass(frozen=True)
class Manifest:
    """What a finished store holds; `extra` carries statistics and what the codec loses on a probe."""

    identity: dict[str, Any]
    shards: tuple[Receipt, ...]
    created: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`text` or `image`."""
        return self.identity["kind"]

    @property
    def codec(self) -> dict[str, Any]:
        """The codec's spec."""
        return self.identity["codec"]

    @property
    def num_rows(self) -> int:
        """Samples."""
        return sum(shard.rows for shard in self.shards)

    @property
    def num_labels(self) -> int:
        """Soft labels."""
        return sum(shard.labels for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """The file's content, with a digest over the rest of it."""
        value = {
            "format": FORMAT,
            "created": self.created,
            "rows": self.num_rows,
            "labels": self.num_labels,
            "bytes": self.num_bytes,
            "identity": self.identity,
            "shards": [asdict(shard) for shard in self.shards],
            "extra": self.extra,
        }
        return {**value, "digest": digest_json(value)}


def publish_manifest(
    store_path: str | Path,
    identity: Mapping[str, Any],
    receipts: Sequence[Receipt],
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Finish a store: open every shard, refuse a key that two rows share, write the card, then the manifest.

    Of two jobs that finish the same store, the first one's manifest counts and is returned.
    """
    store = Path(store_path)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    # Through JSON, so that what is digested is what is read back.
    plain = json.loads(json.dumps({"identity": identity, "extra": extra or {}}, allow_nan=False))
    manifest = _checked(Manifest(plain["identity"], tuple(receipts), created, plain["extra"]), str(store))
    if len({receipt.unit for receipt in receipts}) != len(receipts):
        raise StoreError(f"every unit may be in the manifest of {store} once, some are there twice")
    _refuse_duplicate_keys(store, manifest)
    publish_file(store / CARD, dataset_card(manifest.to_json()).encode(), replace=True)
    content = json.dumps(manifest.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
    if publish_file(store / MANIFEST, content.encode()):
        return manifest
    winner = load_manifest(store)
    compare_identity(winner.identity, manifest.identity, what=f"the label store {store}")
    publish_file(store / CARD, dataset_card(winner.to_json()).encode(), replace=True)
    return winner


def _refuse_duplicate_keys(store: Path, manifest: Manifest) -> None:
    schema = store_schema(manifest.kind, codec_from_spec(manifest.codec), manifest.identity.get("vocabulary"))
    parts: list[np.ndarray] = []
    for receipt in manifest.shards:
        parts.append(Shard(store, receipt, schema).keys())
    keys = np.concatenate(parts) if parts else np.empty((0, 2), np.uint64)
    _, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        key = keys[first[counts > 1][0]].tobytes().hex()
        raise StoreError(
            f"a sample may be labelled once in a store, but {int((counts > 1).sum())} keys of {store} occur in several "
            f"rows (first: {key}): its units were planned from different inputs; label into a new path"
        )


def load_manifest(store_path: str | Path) -> Manifest:
    """IncompleteStore when there is none, CorruptShard when it is damaged or not ours."""
    path = Path(store_path) / MANIFEST
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IncompleteStore(
            f"{store_path} has no {MANIFEST}: it was never finished, or it is not a label store. Run `kd precompute` "
            f"again, it continues where it stopped; or check labels.path"
        ) from error
    except (OSError, ValueError) as error:
        raise CorruptShard(f"{path} cannot be read ({error}): restore it from a copy, or label anew") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise CorruptShard(f"{path} must be of format {FORMAT}, got {found!r}: another version of kdcore wrote it")
    if value.pop("digest", None) != digest_json(value):
        raise CorruptShard(f"{path} does not match its own digest: it was altered; restore it from a copy")
    return _parse(value, str(path))


def _parse(value: dict[str, Any], where: str) -> Manifest:
    shards, extra = value.get("shards"), value.get("extra")
    if not isinstance(shards, list) or not isinstance(extra, dict):
        raise CorruptShard(f"{where} needs a list `shards` and an object `extra`")
    receipts = tuple(receipt_from_json(shard, f"a shard of {where}") for shard in shards)
    return _checked(Manifest(value.get("identity", {}), receipts, str(value.get("created")), extra), where)


def _checked(manifest: Manifest, where: str) -> Manifest:
    identity = manifest.identity
    if not isinstance(identity, dict) or identity.get("kind") not in _KINDS:
        raise CorruptShard(f"the identity in {where} needs a `kind`, one of {_KINDS}")
    if not isinstance(identity.get("codec"), dict):
        raise CorruptShard(f"the identity in {where} needs an object `codec`")
    codec_from_spec(identity["codec"])
    return manifest
