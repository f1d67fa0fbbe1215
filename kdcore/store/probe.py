"""What a codec learnt on a probe, kept before there is a manifest: the first job's probe counts for all."""

import base64
import binascii
import json

from kdcore.errors import StoreError
from kdcore.identity import digest_bytes
from kdcore.store.layout import PROBE
from kdcore.store.storage.places import Location, open_place

__all__ = ["probe_text", "read_probe"]


def probe_text(content: bytes) -> bytes:
    """The text of probe.json: the content and its digest."""
    value = {"content": base64.b64encode(content).decode(), "digest": digest_bytes(content)}
    return json.dumps(value, sort_keys=True).encode()


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
