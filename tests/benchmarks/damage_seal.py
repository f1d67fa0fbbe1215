"""Manifests made anew: with a digest that is right, whatever they say."""

import json
from collections.abc import Mapping
from typing import Any

from kdcore.identity import digest_bytes, digest_json
from kdcore.store.manifest import manifest_text
from tests.benchmarks.damage_children import Files

__all__ = ["IDENTITY", "MANIFEST", "Contents", "manifest_of", "receipt_of", "resealed", "seal"]

MANIFEST, IDENTITY = "manifest.json", "identity.json"
Contents = Mapping[str, bytes]
"""Every file of a store by its name."""


def seal(value: dict[str, Any]) -> bytes:
    """A manifest's text, with the digest that belongs to it."""
    value = {name: item for name, item in value.items() if name != "digest"}
    return manifest_text({**value, "digest": digest_json(value)})


def manifest_of(contents: Contents) -> dict[str, Any]:
    """The manifest's JSON."""
    return json.loads(contents[MANIFEST])


def receipt_of(value: dict[str, Any], shard: str) -> dict[str, Any]:
    """What a manifest says of a shard."""
    return next(receipt for receipt in value["shards"] if receipt["shard"] == shard)


def resealed(contents: Contents, name: str, content: bytes) -> Files:
    """A shard or the index replaced, and a manifest that calls its size and digest right."""
    value = manifest_of(contents)
    entry = value["index"] if name == value["index"]["file"] else receipt_of(value, name)
    entry.update(bytes=len(content), digest=digest_bytes(content))
    value["bytes"] = sum(receipt["bytes"] for receipt in value["shards"])
    return {name: content, MANIFEST: seal(value)}
