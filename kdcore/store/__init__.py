"""Label stores on disk: layout, writer, journal, reader, verifier. FORMAT.md describes the bytes."""

from kdcore.store.journal import publish_receipt, read_journal, read_receipts
from kdcore.store.manifest import Manifest, load_manifest, publish_manifest
from kdcore.store.reader import LabelStore, open_store
from kdcore.store.schema import ShardRow, batches_from_rows, image_schema, store_schema, text_schema, token_dtype
from kdcore.store.verify import VerifyReport, verify_store
from kdcore.store.writer import Receipt, open_for_writing, write_shard

__all__ = [
    "LabelStore",
    "Manifest",
    "Receipt",
    "ShardRow",
    "VerifyReport",
    "batches_from_rows",
    "image_schema",
    "load_manifest",
    "open_for_writing",
    "open_store",
    "publish_manifest",
    "publish_receipt",
    "read_journal",
    "read_receipts",
    "store_schema",
    "text_schema",
    "token_dtype",
    "verify_store",
    "write_shard",
]
