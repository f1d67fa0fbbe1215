"""Label stores: layout, writer, journal, reader, verifier, over directories and buckets. FORMAT.md has the bytes."""

from kdcore.store.beginning import begin_or_continue, open_for_writing, prepare_store, publish_probe
from kdcore.store.derive.compact import compact_store
from kdcore.store.derive.derive import Derived
from kdcore.store.derive.merge import merge_stores
from kdcore.store.derive.mix import mix_stores
from kdcore.store.distillkit.columns import DistillKitConfig
from kdcore.store.distillkit.importing import import_distillkit
from kdcore.store.export.export import ExportReport, export_store
from kdcore.store.export.ranked import Ranked, ranked
from kdcore.store.export.tables import ExportSettings
from kdcore.store.garbage import collect_garbage
from kdcore.store.journal import find_receipt, publish_receipt, read_journal, read_receipts
from kdcore.store.manifest import Manifest, is_finished, load_manifest
from kdcore.store.probe import read_probe
from kdcore.store.publish import publish_manifest
from kdcore.store.reader import LabelStore, open_store
from kdcore.store.schema import ShardRow, batches_from_rows, image_schema, store_schema, text_schema, token_dtype
from kdcore.store.storage.places import Location, Place, open_place
from kdcore.store.verify import VerifyReport, verify_store
from kdcore.store.writer import Receipt, write_shard

__all__ = [
    "Derived",
    "DistillKitConfig",
    "ExportReport",
    "ExportSettings",
    "LabelStore",
    "Location",
    "Manifest",
    "Place",
    "Ranked",
    "Receipt",
    "ShardRow",
    "VerifyReport",
    "batches_from_rows",
    "begin_or_continue",
    "collect_garbage",
    "compact_store",
    "export_store",
    "find_receipt",
    "image_schema",
    "import_distillkit",
    "is_finished",
    "load_manifest",
    "merge_stores",
    "mix_stores",
    "open_for_writing",
    "open_place",
    "open_store",
    "prepare_store",
    "publish_manifest",
    "publish_probe",
    "publish_receipt",
    "ranked",
    "read_journal",
    "read_probe",
    "read_receipts",
    "store_schema",
    "text_schema",
    "token_dtype",
    "verify_store",
    "write_shard",
]
