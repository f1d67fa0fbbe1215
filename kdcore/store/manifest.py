"""The manifest: the only proof that a store is complete."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, get_args

import pyarrow as pa

from kdcore.config.data import Kind
from kdcore.errors import CorruptShard, IncompleteStore
from kdcore.identity import digest_json
from kdcore.labels import Codec, codec_from_spec
from kdcore.labels.views.spec import ViewSpec
from kdcore.store.journal import from_json, receipt_from_json, receipt_to_json
from kdcore.store.layout import MANIFEST, check_index, check_shard
from kdcore.store.schema import FORMAT, check_format, store_schema
from kdcore.store.storage.places import Location, open_place
from kdcore.store.writer import Receipt

__all__ = ["IndexFile", "Manifest", "is_finished", "load_manifest", "manifest_text"]

_KINDS = get_args(Kind)
_FIELDS = frozenset(
    {
        *("format", "created", "rows", "labels", "bytes", "identity", "codec_state", "index", "columns", "shards"),
        *("extra",),
    }
)


@dataclass(frozen=True)
class IndexFile:
    """The store's index: its file at the root, its bytes and digest."""

    file: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What a finished store holds; `extra` carries statistics and what the codec loses on a probe.

    `columns` are the bytes of each column over all shards; `codec_state` is what the codec learnt on a probe.
    """

    identity: dict[str, Any]
    shards: tuple[Receipt, ...]
    created: str
    index: IndexFile
    columns: dict[str, int]
    codec_state: bytes | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`text` or `image`."""
        return self.identity["kind"]

    @property
    def masked(self) -> bool:
        """Whether only some tokens of a text are labelled: its identity then says which (`mask`)."""
        return "mask" in self.identity

    @property
    def views(self) -> dict[str, Any] | None:
        """What the views of the images are (`ViewSpec.to_json`); None where a label is of the image as it is."""
        return self.identity.get("views")

    @property
    def codec(self) -> dict[str, Any]:
        """The codec's spec."""
        return self.identity["codec"]

    @cached_property
    def num_rows(self) -> int:
        """Samples."""
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def num_labels(self) -> int:
        """Soft labels."""
        return sum(shard.labels for shard in self.shards)

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def make_codec(self) -> Codec:
        """The codec that wrote the labels."""
        return codec_from_spec(self.codec, self.codec_state)

    def schema(self, codec: Codec) -> pa.Schema:
        """What every shard's schema is."""
        return store_schema(self.kind, codec, self.identity.get("vocabulary"), self.masked, self.views)

    def to_json(self) -> dict[str, Any]:
        """The file's content, with a digest over the rest of it."""
        state = None if self.codec_state is None else base64.b64encode(self.codec_state).decode()
        value = {
            "format": FORMAT,
            "created": self.created,
            "rows": self.num_rows,
            "labels": self.num_labels,
            "bytes": self.num_bytes,
            "identity": self.identity,
            "codec_state": state,
            "index": asdict(self.index),
            "columns": self.columns,
            "shards": [receipt_to_json(shard) for shard in self.shards],
            "extra": self.extra,
        }
        return {**value, "digest": digest_json(value)}


def manifest_text(value: Mapping[str, Any]) -> bytes:
    """The manifest's JSON as it is written: a line for each field and for each shard, readable by a person."""

    def compact(item: Any) -> str:
        return json.dumps(item, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def of(name: str, item: Any) -> str:
        if name == "shards" and isinstance(item, list):
            return "[\n  " + ",\n  ".join(map(compact, item)) + "\n ]" if item else "[]"
        return compact(item)

    lines = [f" {compact(name)}: {of(name, value[name])}" for name in sorted(value)]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def is_finished(store: Location) -> bool:
    """Whether there is a manifest, whatever it says."""
    return open_place(store).size(MANIFEST) is not None


def load_manifest(store: Location) -> Manifest:
    """IncompleteStore when there is none, CorruptShard when it is damaged or not ours."""
    place = open_place(store)
    where = place.where(MANIFEST)
    try:
        content = place.read(MANIFEST)
        value = json.loads(content)
    except FileNotFoundError as error:
        raise IncompleteStore(
            f"{place} has no {MANIFEST}: it was never finished, or it is not a label store. Run `kd precompute` "
            f"again, it continues where it stopped; or check labels.path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptShard(f"{where} cannot be read ({error}): restore it from a copy, or label anew") from error
    check_format(value, where)
    _check_digest(value, content, where)
    return _parse(value, where)


def _check_digest(value: dict[str, Any], content: bytes, where: str) -> None:
    """CorruptShard unless the manifest is, to the byte, what its writer wrote; takes the digest out of `value`."""
    try:
        # JSON has several ways to write one value, and the digest is of the value.
        as_written = manifest_text(value) == content
        same = value.pop("digest", None) == digest_json(value)
    except (ValueError, TypeError) as error:  # NaN, or half a surrogate pair
        raise CorruptShard(f"{where} cannot be digested ({error}): it was altered; restore it from a copy") from error
    if not (same and as_written):
        what = "its own digest" if not same else "the form that it is written in"
        raise CorruptShard(f"{where} does not match {what}: it was altered; restore it from a copy")


def _parse(value: dict[str, Any], where: str) -> Manifest:
    if set(value) != _FIELDS:
        raise CorruptShard(f"{where} must have the fields {sorted(_FIELDS)}, it has {sorted(value)}")
    shards, extra, columns = value["shards"], value["extra"], value["columns"]
    if not isinstance(shards, list) or not isinstance(extra, dict) or not isinstance(value["created"], str):
        raise CorruptShard(f"{where} needs a list `shards`, an object `extra` and a text `created`")
    if not isinstance(columns, dict) or not all(type(size) is int and size >= 0 for size in columns.values()):
        raise CorruptShard(f"{where} needs an object `columns` of byte counts, it has {str(columns)[:80]}")
    receipts = tuple(receipt_from_json(shard, f"a shard of {where}") for shard in shards)
    index = from_json(IndexFile, value["index"], f"`index` of {where}")
    check_index(index.file, where)
    state = _state(value["codec_state"], where)
    manifest = check_manifest(
        Manifest(value["identity"], receipts, value["created"], index, columns, state, extra), where
    )
    for name, sum_of in (("rows", manifest.num_rows), ("labels", manifest.num_labels), ("bytes", manifest.num_bytes)):
        if value[name] != sum_of:
            raise CorruptShard(f"{where} says {value[name]!r} {name}, its shards have {sum_of}: it was altered")
    return manifest


def _state(text: Any, where: str) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise CorruptShard(f"`codec_state` of {where} must be base64 or null: {error}") from error


def check_manifest(manifest: Manifest, where: str) -> Manifest:
    """The manifest, when its identity has what reading needs and every shard is in it once."""
    identity = manifest.identity
    if not isinstance(identity, dict) or identity.get("kind") not in _KINDS:
        raise CorruptShard(f"the identity in {where} needs a `kind`, one of {_KINDS}")
    if not isinstance(identity.get("codec"), dict):
        raise CorruptShard(f"the identity in {where} needs an object `codec`")
    vocabulary = identity.get("vocabulary")
    if vocabulary is not None and (type(vocabulary) is not int or vocabulary < 1):
        raise CorruptShard(f"`vocabulary` of the identity in {where} must be a positive integer, it is {vocabulary!r}")
    if manifest.masked and (manifest.kind != "text" or not isinstance(identity["mask"], str)):
        raise CorruptShard(
            f"`mask` of the identity in {where} is a word, and of text alone; it is {identity['mask']!r}"
        )
    if "views" in identity:
        if manifest.kind != "image":
            raise CorruptShard(f"`views` of the identity in {where} are of images, its kind is '{manifest.kind}'")
        ViewSpec.from_json(identity["views"], f"the identity in {where}")
    for name in ("unit", "shard"):
        _refuse_twice([getattr(receipt, name) for receipt in manifest.shards], name, where)
    for receipt in manifest.shards:
        check_shard(receipt.shard, where)
    manifest.make_codec()
    return manifest


def _refuse_twice(values: list[str], name: str, where: str) -> None:
    if len(set(values)) == len(values):
        return
    seen: set[str] = set()
    twice = next(value for value in values if value in seen or seen.add(value))
    raise CorruptShard(f"every {name} may be in {where} once, but {twice!r} is there twice")
