"""Label stores: layout, writer, journal, reader, verifier, over directories and buckets. FORMAT.md has the bytes."""

from kdcore.store.garbage import collect_garbage
from kdcore.store.journal import publish_receipt, read_journal, read_receipts
from kdcore.store.manifest import Manifest, is_finished, load_manifest
from kdcore.store.places import Location, Place, open_place
from kdcore.store.probe import publish_probe, read_probe
from kdcore.store.publish import publish_manifest
from kdcore.store.reader import LabelStore, open_store
from kdcore.store.schema import ShardRow, batches_from_rows, image_schema, store_schema, text_schema, token_dtype
from kdcore.store.verify import VerifyReport, verify_store
from kdcore.store.writer import Receipt, open_for_writing, write_shard

__all__ = [
    "LabelStore",
    "Location",
    "Manifest",
    "Place",
    "Receipt",
    "ShardRow",
    "VerifyReport",
    "batches_from_rows",
    "collect_garbage",
    "image_schema",
    "is_finished",
    "load_manifest",
    "open_for_writing",
    "open_place",
    "open_store",
    "publish_manifest",
    "publish_probe",
    "publish_receipt",
    "read_journal",
    "read_probe",
    "read_receipts",
    "store_schema",
    "text_schema",
    "token_dtype",
    "verify_store",
    "write_shard",
]
