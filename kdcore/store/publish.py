"""Finish a store: join what the receipts know of their shards, write the index, the card, and last the manifest."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.identity import compare_identity
from kdcore.labels import Codec
from kdcore.store.beginning import read_identity
from kdcore.store.card import dataset_card
from kdcore.store.index import Index, build_index, index_batch, index_schema
from kdcore.store.keys import KeyTable
from kdcore.store.layout import CARD, MANIFEST
from kdcore.store.manifest import IndexFile, Manifest, check_manifest, load_manifest, manifest_text
from kdcore.store.moments import joined_moments
from kdcore.store.part import unpack_part
from kdcore.store.storage.places import Location, Place, open_place
from kdcore.store.writer import HashingSink, Receipt

__all__ = ["publish_manifest"]


def publish_manifest(
    store: Location,
    identity: Mapping[str, Any],
    receipts: Sequence[Receipt],
    extra: Mapping[str, Any] | None = None,
    codec_state: bytes | None = None,
) -> Manifest:
    """Finish a store: join the parts of the index, refuse a key that two rows share, write index, card, manifest.

    No shard is opened: each receipt carries its part, CorruptShard when one has none (as those of a manifest), and the
    statistics of its features, which are joined in `extra`.

    Of two jobs that finish the same store, the first one's manifest counts and is returned. Its identity is that of
    identity.json; when this job runs other package versions, `extra` says so as `finished_with`.
    """
    place = open_place(store)
    begun = read_identity(place)
    compare_identity(begun, identity, what=f"the label store {place}")
    if begun.get("versions") != identity.get("versions"):
        extra = {**(extra or {}), "finished_with": identity.get("versions")}
    extra = {**(extra or {}), **joined_moments([receipt.moments for receipt in receipts])}
    # Through JSON, so that what is digested is what is read back.
    plain = json.loads(json.dumps({"identity": begun, "extra": extra}, allow_nan=False))
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    name = f"index-{secrets.token_hex(8)}.arrow"
    draft = Manifest(
        plain["identity"],
        tuple(receipt.listed() for receipt in receipts),
        created,
        IndexFile(name, 0, ""),
        {},
        codec_state,
        plain["extra"],
    )
    codec = check_manifest(draft, str(place)).make_codec()
    index, columns = _join_index(place, draft, receipts, codec)
    _refuse_repeated_keys(place, index)
    file = _write_index(place, name, index, index_schema(draft.kind, codec, draft.masked, draft.views))
    manifest = Manifest(draft.identity, draft.shards, created, file, columns, codec_state, draft.extra)
    place.put(CARD, dataset_card(manifest.to_json()).encode())
    if place.put_if_absent(MANIFEST, manifest_text(manifest.to_json())):
        return manifest
    return _yield_to_winner(place, manifest)


def _yield_to_winner(place: Place, manifest: Manifest) -> Manifest:
    winner = load_manifest(place)
    compare_identity(winner.identity, manifest.identity, what=f"the label store {place}")
    if winner.index.file != manifest.index.file:  # else the put was retried after it had worked
        place.delete(manifest.index.file)
    place.put(CARD, dataset_card(winner.to_json()).encode())
    return winner


def _join_index(
    place: Place, manifest: Manifest, receipts: Sequence[Receipt], codec: Codec
) -> tuple[Index, dict[str, int]]:
    parts = (
        unpack_part(receipt.part, receipt.digest, receipt.rows, f"the receipt of {place.where(receipt.shard)}")
        for receipt in receipts
    )
    index, columns = build_index(parts, manifest.num_rows, manifest.masked)
    return index, columns or {entry.name: 0 for entry in manifest.schema(codec)}


def _write_index(place: Place, name: str, index: Index, schema: pa.Schema) -> IndexFile:
    with place.writer(name) as file:
        sink = HashingSink(file)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
            writer.write_batch(index_batch(index, schema))
    return IndexFile(name, sink.size, sink.hash.hexdigest())


def _refuse_repeated_keys(place: Place, index: Index) -> None:
    repeated = KeyTable(index.keys).repeated()
    if len(repeated):
        key = index.keys[repeated[0]].tobytes().hex()
        raise StoreError(
            f"a sample may be labelled once in a store, but {len(repeated)} keys of {place} occur in several "
            f"rows (first: {key}): its units were planned from different inputs; label into a new path"
        )
