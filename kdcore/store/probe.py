"""What a codec learnt on a probe, kept before there is a manifest: the first job's probe counts for all."""

import base64
import binascii
import json

from kdcore.errors import StoreError
from kdcore.identity import digest_bytes
from kdcore.store.layout import PROBE
from kdcore.store.places import Location, open_place
from kdcore.store.writer import prepare_store

__all__ = ["publish_probe", "read_probe"]


def publish_probe(store: Location, content: bytes) -> bytes:
    """Publish a probe's result unless there is one; returns the one that counts, which may be another job's.

    Begins the store: StoreError when the place holds something else.
    """
    place = prepare_store(store)
    text = base64.b64encode(content).decode()
    value = {"content": text, "digest": digest_bytes(content)}
    if place.put_if_absent(PROBE, json.dumps(value, sort_keys=True).encode()):
        return content
    found = read_probe(place)
    if found is None:
        raise StoreError(f"{place.where(PROBE)} was removed while this job began: start it again")
    return found


def read_probe(store: Location) -> bytes | None:
    """The result of the store's probe, None while there is none; StoreError when it was altered."""
    place = open_place(store)
    try:
        value = json.loads(place.read(PROBE))
        content = base64.b64decode(value["content"], validate=True)
        if set(value) != {"content", "digest"} or value["digest"] != digest_bytes(content):
            raise ValueError("its content does not match its digest")
        return content
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise StoreError(
            f"{place.where(PROBE)} was altered ({error}): restore it from a copy; if there is none, label into a new "
            f"path (labels.path)"
        ) from error
