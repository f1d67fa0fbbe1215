"""Damage to the bytes of a store's files, and to which files there are."""

import random
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import permutations

from tests.benchmarks.damage_children import Damage, Files
from tests.benchmarks.damage_seal import MANIFEST, Contents, manifest_of, receipt_of, resealed, seal


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
        Damage(f"{name} cut to {size}, sealed", partial(resealed, contents, name, contents[name][:size]))
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
        value = manifest_of(contents)
        first, second = (receipt_of(value, name) for name in (left, right))
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
        Damage(f"{other} of another store as {name}", partial(resealed, contents, name, content))
        for name in shards
        for other, content in foreign.items()
    ]
