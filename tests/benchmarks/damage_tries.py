"""Every kind of damage that `label_damage` tries on a store."""

import copy
import json
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdcore.identity import digest_bytes, digest_json
from kdcore.store.manifest import manifest_text
from tests.benchmarks.damage_children import Damage, Files

MANIFEST, IDENTITY = "manifest.json", "identity.json"
Contents = Mapping[str, bytes]


def cuts(contents: Contents, names: Iterable[str], step: int = 1) -> list[Damage]:
    """Each file at every `step`-th length."""
    return [
        Damage(f"{name} cut to {size}", lambda name=name, size=size: {name: contents[name][:size]})
        for name in names
        for size in range(0, len(contents[name]), step)
    ]


def cuts_with_right_size(contents: Contents, names: Iterable[str], step: int = 1) -> list[Damage]:
    """Shards at every `step`-th length, in a manifest made anew that calls their size and digest right."""
    return [
        Damage(f"{name} cut to {size}, sealed", partial(_resealed, contents, name, contents[name][:size]))
        for name in names
        for size in range(0, len(contents[name]), step)
    ]


def flips(contents: Contents, names: Sequence[str], count: int, seed: int = 0) -> list[Damage]:
    """`count` different bits, each file in proportion to its size."""
    bits = [(name, bit) for name in names for bit in range(8 * len(contents[name]))]
    chosen = random.Random(seed).sample(bits, min(count, len(bits)))
    return [Damage(f"{name}: bit {bit} flipped", partial(_flipped, contents, name, bit)) for name, bit in chosen]


def _flipped(contents: Contents, name: str, bit: int) -> Files:
    damaged = bytearray(contents[name])
    damaged[bit // 8] ^= 1 << (bit % 8)
    return {name: bytes(damaged)}


def zeroed_tails(contents: Contents, names: Iterable[str], step: int) -> list[Damage]:
    """Each file with zeros from every `step`-th byte to its end."""
    return [
        Damage(f"{name}: zeros from {start}", partial(_zeroed, contents, name, start))
        for name in names
        for start in range(0, len(contents[name]), step)
        if any(contents[name][start:])
    ]


def _zeroed(contents: Contents, name: str, start: int) -> Files:
    return {name: contents[name][:start] + bytes(len(contents[name]) - start)}


def missing(names: Iterable[str]) -> list[Damage]:
    """Each file taken away."""
    return [Damage(f"{name} missing", lambda name=name: {name: None}) for name in names]


def doubled(contents: Contents, shards: Sequence[str]) -> list[Damage]:
    """A shard's bytes under the name of another."""
    return [
        Damage(f"{left} over {right}", lambda left=left, right=right: {right: contents[left]})
        for left, right in permutations(shards, 2)
    ]


def swapped(contents: Contents, shards: Sequence[str]) -> list[Damage]:
    """Two shards' bytes exchanged; and with their sizes and digests exchanged in the manifest as well."""
    pairs = [(left, right) for left, right in permutations(shards, 2) if left < right]

    def files(left: str, right: str) -> Files:
        return {left: contents[right], right: contents[left]}

    def sealed(left: str, right: str) -> Files:
        value = _manifest(contents)
        first, second = (_receipt(value, name) for name in (left, right))
        first["shard"], second["shard"] = right, left
        return {MANIFEST: seal(value)}

    return [Damage(f"{a} and {b} exchanged, {f.__name__}", partial(f, a, b)) for a, b in pairs for f in (files, sealed)]


def extra(contents: Contents, shards: Sequence[str], foreign: Contents) -> list[Damage]:
    """Files in data/ that nobody names."""
    strays = [*(contents[name] for name in shards), *foreign.values(), b"", b"ARROW1 torn"]
    return [Damage(f"stray {n}", lambda n=n, c=c: {f"data/unit-9-{n}.arrow": c}) for n, c in enumerate(strays)]


def foreign_shards(contents: Contents, shards: Sequence[str], foreign: Contents) -> list[Damage]:
    """Shards of another store in the place of ours, their size and digest called right."""
    return [
        Damage(f"{other} of another store as {name}", partial(_resealed, contents, name, content))
        for name in shards
        for other, content in foreign.items()
    ]


def seal(value: dict[str, Any]) -> bytes:
    """A manifest's text, with the digest that belongs to it."""
    value = {name: item for name, item in value.items() if name != "digest"}
    return manifest_text({**value, "digest": digest_json(value)})


def _manifest(contents: Contents) -> dict[str, Any]:
    return json.loads(contents[MANIFEST])


def _receipt(value: dict[str, Any], shard: str) -> dict[str, Any]:
    return next(receipt for receipt in value["shards"] if receipt["shard"] == shard)


def _resealed(contents: Contents, name: str, content: bytes) -> Files:
    """A shard or the index replaced, and a manifest that calls its size and digest right."""
    value = _manifest(contents)
    entry = value["index"] if name == value["index"]["file"] else _receipt(value, name)
    entry.update(bytes=len(content), digest=digest_bytes(content))
    value["bytes"] = sum(receipt["bytes"] for receipt in value["shards"])
    return {name: content, MANIFEST: seal(value)}


_ODD = (None, True, -1, 0, 1, 7, 1.5, 2**62, 2**64, "", "x", "../x", "text", [], {}, [1], {"a": 1})
_FREE = ("created", "extra", "columns")
_FREE_OF_A_SHARD = ("unit", "unit_digest")


def edits(contents: Contents, sealed: bool) -> tuple[list[Damage], list[Damage]]:
    """Every value of the manifest replaced by odd ones, taken away, doubled: those that readers rest on, and others.

    The others are what no reader uses and no file repeats: notes, dates, byte counts of columns, names of units.
    """
    value = _manifest(contents)
    value.pop("digest")
    bearing: list[Damage] = []
    free: list[Damage] = []
    for path in _paths(value):
        kept = path[0] not in _FREE and path[-1] not in _FREE_OF_A_SHARD
        changes = [partial(_with, value, path, odd) for odd in _ODD if json.dumps(odd) != json.dumps(_at(value, path))]
        changes.append(partial(_without, value, path))
        for number, change in enumerate(changes if sealed else changes[:1]):
            make = partial(_edited, contents, change, sealed)
            (bearing if kept else free).append(Damage(f"manifest {path}, change {number}", make))
    return bearing + [
        Damage(f"manifest: {what}", partial(_edited, contents, c, sealed)) for what, c in _sums(value)
    ], free


def _edited(contents: Contents, change: Callable[[], dict[str, Any]], sealed: bool) -> Files:
    value = change()
    return {MANIFEST: seal(value) if sealed else manifest_text({**value, "digest": _manifest(contents)["digest"]})}


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _paths(value[key], (*path, key))


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: dict[str, Any], path: Sequence[Any], new: Any) -> dict[str, Any]:
    result = copy.deepcopy(value)
    _at(result, path[:-1])[path[-1]] = new
    return result


def _without(value: dict[str, Any], path: Sequence[Any]) -> dict[str, Any]:
    result = copy.deepcopy(value)
    del _at(result, path[:-1])[path[-1]]
    return result


def _sums(value: dict[str, Any]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Lists of shards cut, doubled and turned round, with sums that fit."""
    shards = value["shards"]
    lists = [shards[:n] + shards[n + 1 :] for n in range(len(shards))]
    lists += [[*shards, shard] for shard in shards] + [shards[::-1], shards[1:] + shards[:1], []]
    for number, chosen in enumerate(lists):
        sums = {name: sum(shard[name] for shard in chosen) for name in ("rows", "labels", "bytes")}
        yield f"shards {number}", partial(dict, value, shards=chosen, **sums)


def hostile(contents: Contents, shards: Sequence[str], outside: Path) -> list[Damage]:
    """Names in the manifest that lead elsewhere (to files that are whole), and symbolic links to them."""
    value = _manifest(contents)
    found: list[Damage] = []
    for name in [*shards, value["index"]["file"]]:
        entry = ("index", "file") if name == value["index"]["file"] else (*_entry(value, name), "shard")
        for other in _elsewhere(name, outside):
            make = partial(_edited, contents, partial(_with, value, entry, other), True)
            found.append(Damage(f"{name} called {other!r}", make))
    return found + linked(outside, [*shards, value["index"]["file"], "data", MANIFEST])


def linked(outside: Path, names: Iterable[str]) -> list[Damage]:
    """Symbolic links to files (or a folder) that are whole."""
    return [Damage(f"{name} linked", lambda name=name: {name: outside / name}) for name in names]


def _entry(value: dict[str, Any], name: str) -> tuple[str, int]:
    return "shards", value["shards"].index(_receipt(value, name))


def _elsewhere(name: str, outside: Path) -> list[str]:
    file = name.rpartition("/")[2]
    return [
        *(f"{outside}/{name}", f"../{outside.name}/{name}", f"data/../../{outside.name}/{name}"),
        f"file://{outside}/{name}",
        *(f"data/../{name}", f"./{name}", f"data/./{file}", f"data//{file}", f"data/.{file}", f"data\\{file}"),
        *(
            f"{name}\0",
            f"{name}\n",
            f" {name}",
            f"~/{name}",
            f"s3://bucket/{name}",
            f"data/%2e%2e/{name}",
            "..",
            "data",
        ),
    ]


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def payload(trap: Path) -> bytes:
    """A pickle that makes the file `trap` when it is loaded."""
    return pickle.dumps(_Trap(trap))


def springs(trap: Path) -> bool:
    """Whether the trap works, so that nothing else proved that no pickle was loaded."""
    pickle.loads(payload(trap))  # noqa: S301
    return trap.exists()


_EXTENSIONS = (
    "arrow.py_extension_type",
    "datasets.features.features.Array2DExtensionType",
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "ray.data.arrow_variable_shaped_tensor",
    "ray.data.arrow_pickled_object",
)


def pickles(contents: Contents, names: Iterable[str], trap: Path) -> list[Damage]:
    """Extension types whose parameters are a pickle, on each column, on values of lists and on the schema."""
    found: list[Damage] = []
    for name in names:
        table = pa.ipc.open_file(contents[name]).read_all()
        for extension in _EXTENSIONS:
            metadata = {b"ARROW:extension:name": extension.encode(), b"ARROW:extension:metadata": payload(trap)}
            for what, schema in _trapped(table.schema, metadata):
                content = _written(table, schema)
                assert metadata[b"ARROW:extension:metadata"] in content
                make = partial(_resealed, contents, name, content)
                found.append(Damage(f"{extension} on {what} of {name}", make))
    return found


def _trapped(schema: pa.Schema, metadata: dict[bytes, bytes]) -> Iterator[tuple[str, pa.Schema]]:
    yield "the schema", schema.with_metadata({**(schema.metadata or {}), **metadata})
    for place, entry in enumerate(schema):
        yield entry.name, schema.set(place, entry.with_metadata(metadata))
        if pa.types.is_list(entry.type):
            inner = pa.list_(entry.type.value_field.with_metadata(metadata))
            yield f"the values of {entry.name}", schema.set(place, pa.field(entry.name, inner))


def _written(table: pa.Table, schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in table.to_batches():
            columns = [_typed(column, entry.type) for column, entry in zip(batch.columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def _typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The column with metadata on its values, which a cast would drop."""
    if not pa.types.is_list(kind):
        return column
    return pa.ListArray.from_arrays(column.offsets, column.values, type=kind)
