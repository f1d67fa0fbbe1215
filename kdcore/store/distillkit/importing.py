"""DistillKit's Parquet files into a label store of codec `topk`.

The files hold token ids, not texts: a sample's key is the digest of its ids (`identity.sample_key_tokens`), so that the
store serves training from its own tokens, and joins no text by key. What the k classes leave of the mass is the tail.
A row of a packed file is cut into its documents where its attention_mask changes. A label after the last token of a
document is left out, since no token of it follows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kdcore.facts import package_versions
from kdcore.identity import digest_samples, sample_key_tokens
from kdcore.labels import TopKCodec
from kdcore.store.derive.derive import Derived, DerivedUnit, Making, Progress, derive_store
from kdcore.store.distillkit.columns import DistillKitConfig
from kdcore.store.distillkit.files import ParquetFile, parquet_files
from kdcore.store.distillkit.labels import label_columns, measure
from kdcore.store.schema import FORMAT, ShardRow, batches_from_rows, store_schema
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import Location, open_place
from kdcore.store.writer import Receipt, write_shard

__all__ = ["import_distillkit"]

_NOTE = (
    "keys are digests of token ids; the tail is what the stored classes leave; token_log_probs of tokens that are not "
    "among these spread the tail evenly"
)


def import_distillkit(
    folder: Location,
    out: Location,
    config: DistillKitConfig,
    teacher: str,
    tokenizer_digest: str,
    vocabulary: int,
    progress: Progress | None = None,
) -> Derived:
    """A store `out` of the labels in the Parquet files of `folder`; a killed run continues.

    The files are read twice, first for their tokens. StoreError when they are not of this layout, or their labels no
    distributions over `vocabulary` classes (as of another configuration), IdentityMismatch when `out` is another store.
    """
    place = open_place(folder)
    files = parquet_files(place)
    codec = TopKCodec(min(config.k, vocabulary), vocabulary)
    _try_first(files, config, codec)
    plan = _plan(files)
    identity = {
        "format": FORMAT,
        "kind": "text",
        "teacher": {"type": "causal_lm", "name": teacher, "weights": None},
        "tokenizer": tokenizer_digest,
        "numerics": {"captured_by": "distillkit", "compression": _as_json(config)},
        "codec": codec.spec(),
        "vocabulary": vocabulary,
        "input": digest_samples(sorted(plan.occurrences.items())),
        "versions": package_versions(),
    }
    units = [_unit(number, file, plan, config, codec) for number, file in enumerate(files)]
    made = Making(
        {"how": "import distillkit", "note": _NOTE},
        lambda at, receipts: {"statistics": measure(at, receipts, codec, store_schema("text", codec, vocabulary))},
    )
    return derive_store(out, identity, units, made, progress)


def _try_first(files: Sequence[ParquetFile], config: DistillKitConfig, codec: TopKCodec) -> None:
    """Decode the first document with labels, so that a wrong configuration is refused before a store is begun."""
    documents = (document for file in files for document in file.documents(with_labels=True))
    first = next((document for document in documents if len(document.values)), None)
    if first is not None:
        label_columns(config, codec, first.values, first.ids, first.tokens, f"'{first.name}'")


def _as_json(config: DistillKitConfig) -> dict[str, Any]:
    return {**vars(config), "residual_bins": [vars(part) for part in config.residual_bins]}


@dataclass(frozen=True)
class _Plan:
    """How often each key occurs, and the digest of each file's samples: those that no earlier file has."""

    occurrences: dict[bytes, int]
    first: dict[bytes, int]
    digests: list[str]


def _plan(files: Sequence[ParquetFile]) -> _Plan:
    occurrences: dict[bytes, int] = {}
    first: dict[bytes, int] = {}
    for number, file in enumerate(files):
        for document in file.documents(with_labels=False):
            key = sample_key_tokens(document.tokens)
            occurrences[key] = occurrences.get(key, 0) + 1
            first.setdefault(key, number)
    keys: list[list[bytes]] = [[] for _ in files]
    for key, number in first.items():
        keys[number].append(key)
    return _Plan(occurrences, first, [digest_samples((key, occurrences[key]) for key in of_file) for of_file in keys])


def _unit(number: int, file: ParquetFile, plan: _Plan, config: DistillKitConfig, codec: TopKCodec) -> DerivedUnit:
    name = f"unit-{number:06d}"

    def write(out: Place) -> Receipt:
        schema = store_schema("text", codec, codec.num_classes)
        rows = _shard_rows(number, file, plan, config, codec)
        batches = batches_from_rows(schema, rows)
        return write_shard(out, name, 0, schema, batches, unit_digest=plan.digests[number], codec=codec)

    return DerivedUnit(name, plan.digests[number], file.size, write)


def _shard_rows(
    number: int, file: ParquetFile, plan: _Plan, config: DistillKitConfig, codec: TopKCodec
) -> Iterator[ShardRow]:
    done: set[bytes] = set()
    for document in file.documents(with_labels=True):
        key = sample_key_tokens(document.tokens)
        if plan.first[key] != number or key in done:
            continue
        done.add(key)
        where = f"{file.place.where(file.name)}: '{document.name}'"
        columns = label_columns(config, codec, document.values, document.ids, document.tokens, where)
        yield ShardRow(key, document.name, plan.occurrences[key], columns, tokens=document.tokens)
