"""Prove a store, or say everything that is wrong with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from kdcore.errors import CorruptShard, KDError
from kdcore.identity import differences, new_hash
from kdcore.labels import Codec, RowView
from kdcore.labels.views import UNMIXED
from kdcore.labels.views.fields import PARTNER_BITS
from kdcore.store.beginning import identity_text, read_identity
from kdcore.store.columns import batch_views, key_prefixes, labels_per_row
from kdcore.store.index import Index, read_part
from kdcore.store.keys import KeyTable
from kdcore.store.layout import DATA, IDENTITY, check_shard
from kdcore.store.manifest import Manifest, load_manifest
from kdcore.store.opening import open_index
from kdcore.store.part import ShardPart
from kdcore.store.shard import Shard
from kdcore.store.storage.parallel import in_order
from kdcore.store.storage.place import Place, Source, altered
from kdcore.store.storage.places import Location, open_place
from kdcore.store.views import column_views, row_view
from kdcore.store.writer import Receipt

__all__ = ["VerifyReport", "check_digest", "check_digests", "verify_store"]

Progress = Callable[[int, int], None]
"""Told how many shards are done, and of how many."""
_PIECE_VALUES = 1 << 21


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found; `problems` is empty when the store is right. `notes` are no faults."""

    path: str
    full: bool
    shards: int
    rows: int
    labels: int
    bytes: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems


def check_digest(store: Location, receipt: Receipt, others: Sequence[Receipt] = ()) -> Source:
    """Read a shard whole; CorruptShard when its bytes are not those of its receipt. Returns what it read.

    When they are the bytes of one of `others`, the message says of which.
    """
    place = open_place(store)
    source, where = place.load(check_shard(receipt.shard, str(place)), receipt.bytes), place.where(receipt.shard)
    state = new_hash()
    state.update(source.buffer)  # of a large buffer, without the interpreter's lock
    found = state.hexdigest()
    if found == receipt.digest:
        return source
    other = next((item.shard for item in others if item.digest == found), None)
    if other is None:
        raise altered(where, receipt.digest, found)
    raise CorruptShard(
        f"{where} has the bytes of {other}: the shards were swapped or doubled; restore them from a copy"
    )


def check_digests(store: Location, manifest: Manifest, threads: int | None = None) -> None:
    """Compare the digests of all shards, as they will be mapped, in threads; the first that differs is raised."""
    place = open_place(store)

    def check(receipt: Receipt) -> None:
        place.local_file(receipt.shard, receipt.bytes, receipt.digest, verify=True)

    for _ in in_order(check, manifest.shards, threads or place.threads):
        pass


def verify_store(
    path: Location, full: bool = True, progress: Progress | None = None, threads: int | None = None
) -> VerifyReport:
    """Check every shard and go on after a problem; `full` also compares digests and decodes every label.

    `progress(done, total)` is called after each shard. Raises IncompleteStore or CorruptShard only for the manifest.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    codec = manifest.make_codec()
    problems = _identity_problems(place, manifest)
    index = _index_of(place, manifest, codec, problems)
    check = partial(_check_shard, place, manifest, codec, full)
    seen: dict[int, _Shard] = {}
    total = len(manifest.shards)
    for number, found in enumerate(in_order(check, manifest.shards, threads or place.threads)):
        if isinstance(found, _Shard):
            seen[number] = found
            problems += _index_problems(place, manifest, index, number, found.part)
        else:
            problems.append(found)
        if progress is not None:
            progress(number + 1, total)
    keys = np.concatenate([np.empty((0, 2), np.uint64), *(shard.part.keys for shard in seen.values())])
    repeated = len(KeyTable(keys).repeated())
    if repeated:
        problems.append(f"{repeated} keys occur in several rows of {place}: a sample is labelled once in a store")
    if len(seen) == total:  # else a partner may be in the shard that is damaged
        problems += _partner_problems(place, manifest, keys, seen)
    return VerifyReport(
        str(place),
        full,
        total,
        manifest.num_rows,
        manifest.num_labels,
        manifest.num_bytes,
        problems,
        _notes(place, manifest),
    )


@dataclass(frozen=True)
class _Shard:
    """A shard that is right: its part of the index, and the partners of its mixed views, uint64."""

    part: ShardPart
    partners: np.ndarray


def _partner_problems(place: Place, manifest: Manifest, keys: np.ndarray, seen: Mapping[int, _Shard]) -> Iterator[str]:
    there = key_prefixes(keys)
    for number, shard in seen.items():
        missing = shard.partners[~np.isin(shard.partners, there)]
        if len(missing):
            yield (
                f"{place.where(manifest.shards[number].shard)}: views are mixed with images that are in no row of the "
                f"store: {len(missing)}, the first with a key that begins {missing[0]:0{PARTNER_BITS // 4}x}"
            )


def _identity_problems(place: Place, manifest: Manifest) -> list[str]:
    try:
        found = differences(read_identity(place), manifest.identity)
        as_written = place.read(IDENTITY) == identity_text(manifest.identity)
    except KDError as error:
        return [str(error)]
    if not (found or as_written):
        return [f"{place.where(IDENTITY)} is not in the form that it is written in: it was altered"]
    return [f"{IDENTITY} and the manifest differ at {name}: {old!r}, {new!r}" for name, old, new in found]


def _index_of(place: Place, manifest: Manifest, codec: Codec, problems: list[str]) -> Index | None:
    try:
        return open_index(place, manifest, codec)[1]
    except KDError as error:
        problems.append(str(error))
        return None


def _index_problems(
    place: Place, manifest: Manifest, index: Index | None, number: int, found: ShardPart
) -> Sequence[str]:
    contradiction = None if index is None else found.differs(index.part(number))
    if index is None or contradiction is None:
        return []
    where = place.where(manifest.shards[number].shard)
    if contradiction == "keys" and len(found.keys):
        row = KeyTable(index.keys).find(found.keys[0].tobytes())
        owner = int(index.shard[row]) if row >= 0 else number
        if owner != number:
            return [f"{where} holds the rows of {manifest.shards[owner].shard}: the shards were swapped or doubled"]
    return [f"{where} and {manifest.index.file} differ in {contradiction}: one of them was altered or swapped"]


def _notes(place: Place, manifest: Manifest) -> list[str]:
    listed = {receipt.shard for receipt in manifest.shards}
    extra = sorted(set(place.sizes(DATA)) - listed)
    if not extra:
        return []
    return [
        f"{len(extra)} files in {DATA}/ are not in the manifest and are ignored (first: {extra[0]}): losers of two "
        f"attempts, or the last work of a killed job; `kd store gc` removes them"
    ]


def _check_shard(place: Place, manifest: Manifest, codec: Codec, full: bool, receipt: Receipt) -> _Shard | str:
    """What the shard holds, or what is wrong with it."""
    try:
        return _checked(place, manifest, codec, full, receipt)
    except KDError as error:
        return str(error)


def _checked(place: Place, manifest: Manifest, codec: Codec, full: bool, receipt: Receipt) -> _Shard:
    source = check_digest(place, receipt, manifest.shards) if full else None
    shard = Shard(place, receipt, manifest.schema(codec), keep=False, source=source)
    part, partners = read_part(shard, codec), [np.empty(0, np.uint64)]
    if full:
        if manifest.views is not None:
            partners += [views.partner[views.mixed != UNMIXED] for views in map(batch_views, shard.batches)]
        _check_values(shard, codec, manifest.identity.get("vocabulary") or codec.num_classes)
        _decode_all(shard, codec)
    return _Shard(part, np.unique(np.concatenate(partners)))


def _check_values(shard: Shard, codec: Codec, vocabulary: int) -> None:
    """Ids and counts are in their ranges; CorruptShard otherwise."""
    for batch in shard.batches:
        bounds = {"occurrences": (1, 1 << 31), "target": (0, codec.num_classes or 1 << 31)}
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
    """Every label is one that the codec can have written; LabelError otherwise."""
    for piece in _pieces(shard, codec):
        views, starts, stops = zip(*piece, strict=True)
        try:
            codec.decode(views, starts, stops)
        except KDError as error:
            raise CorruptShard(f"{shard.path}: {error}") from error


def _pieces(shard: Shard, codec: Codec) -> Iterator[list[tuple[RowView, int, int]]]:
    """All labels of a shard, as slices of rows, few enough values at a time to be decoded in bounded memory."""
    names = [entry.name for entry in codec.fields()]
    piece: list[tuple[RowView, int, int]] = []
    room = _PIECE_VALUES
    for batch in shard.batches:
        columns = column_views(batch)
        for row, num_labels in enumerate(labels_per_row(batch).tolist()):
            view = row_view(columns, row, names, num_labels)
            weight = 1 + sum(values.size for values in view.columns.values()) // max(1, num_labels)
            step = max(1, _PIECE_VALUES // weight)
            for start in range(0, max(1, num_labels), step):
                stop = min(start + step, num_labels)
                if piece and room < (stop - start) * weight:
                    yield piece
                    piece, room = [], _PIECE_VALUES
                piece.append((view, start, stop))
                room -= (stop - start) * weight
    if piece:
        yield piece
