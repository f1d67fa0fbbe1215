"""Manifests that say something else: of the shards, of the store, of where its files are."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdcore.store.manifest import manifest_text
from tests.benchmarks.damage_children import Damage, Files
from tests.benchmarks.damage_seal import MANIFEST, Contents, manifest_of, receipt_of, seal

_ODD = (None, True, -1, 0, 1, 7, 1.5, 2**62, 2**64, "", "x", "../x", "text", [], {}, [1], {"a": 1})
_FREE = ("created", "extra", "columns")
_FREE_OF_A_SHARD = ("unit", "unit_digest")


def edits(contents: Contents, sealed: bool) -> tuple[list[Damage], list[Damage]]:
    """Every value of the manifest replaced by odd ones, taken away, doubled: those that readers rest on, and others.

    The others are what no reader uses and no file repeats: notes, dates, byte counts of columns, names of units.
    """
    value = manifest_of(contents)
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
    return {MANIFEST: seal(value) if sealed else manifest_text({**value, "digest": manifest_of(contents)["digest"]})}


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
    value = manifest_of(contents)
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
    return "shards", value["shards"].index(receipt_of(value, name))


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
