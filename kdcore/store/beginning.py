"""Begin a store, or continue it: only where there is nothing, or a store; and only where the first writer wins."""

import contextlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from kdcore.errors import StoreError
from kdcore.identity import canonical_json, compare_identity
from kdcore.store.layout import DATA, IDENTITY, JOURNAL, PLAN, PROBE, is_plan_file, is_temporary
from kdcore.store.probe import probe_text, read_probe
from kdcore.store.storage.places import Location, Place, open_place

__all__ = [
    "begin_or_continue",
    "identity_text",
    "is_begun",
    "open_for_writing",
    "prepare_store",
    "publish_probe",
    "read_identity",
]


def is_begun(place: Place) -> bool:
    """Whether a store was begun here: there is an identity.json or a probe.json of ours; StoreError for an altered one.

    Other names prove nothing: a data/ beside a README.md is how other people's datasets look too.
    """
    if place.size(IDENTITY) is not None:
        read_identity(place)
        return True
    return read_probe(place) is not None


def prepare_store(store: Location) -> Place:
    """Make the place of a store; StoreError when it holds something that is not one, or lets two first writers win."""
    place = open_place(store)
    # First what lies here, then whether it is ours: another job may begin the store in between.
    foreign = _foreign(place)
    if not is_begun(place):
        if foreign:
            raise StoreError(
                f"{place} is not a label store (it has neither {IDENTITY} nor a probe of ours) and not empty (it has "
                f"{foreign[:5]}): set labels.path to a new or empty place"
            )
        if place.trusts_nobody:
            _try_conditional_puts(place)
    place.prepare(DATA, JOURNAL)
    return place


def _foreign(place: Place) -> list[str]:
    """What lies here that is neither an empty folder of ours, nor a plan, nor a temporary file of a killed job."""
    found = [name for name in place.entries() if not is_temporary(name)]
    ours = {DATA: is_temporary, JOURNAL: is_temporary, PLAN: is_plan_file}
    inside = [
        f"{folder}/{name}"
        for folder, is_ours in ours.items()
        if folder in found
        for name in place.entries(folder)
        if not is_ours(name)
    ]
    return [name for name in found if name not in ours] + inside


def _try_conditional_puts(place: Place) -> None:
    """StoreError when the storage takes a second file of one name: the protocol of stores rests on its refusal."""
    name = f".trial.{secrets.token_hex(8)}.tmp"
    place.put_if_absent(name, b"trial")
    taken_twice = place.put_if_absent(name, b"trial")
    with contextlib.suppress(StoreError):  # who may write but not remove leaves a hidden file of five bytes
        place.delete(name)
    if taken_twice:
        raise StoreError(
            f"{place} was written twice where only the first writer may win: this storage ignores conditional puts "
            f"(If-None-Match), so two jobs could mix their labels. Set labels.path to a storage that heeds them"
        )


def open_for_writing(store: Location, identity: Mapping[str, Any]) -> Place:
    """Create the store or continue it; IdentityMismatch when it is of another identity, StoreError if not a store."""
    begin_or_continue(store, identity)
    return open_place(store)


def begin_or_continue(store: Location, identity: Mapping[str, Any]) -> bool:
    """As `open_for_writing`; whether the store was begun here. Of several jobs that begin it at once, one hears so."""
    place = prepare_store(store)
    if place.put_if_absent(IDENTITY, identity_text(identity)):
        return True
    compare_identity(read_identity(place), identity, what=f"the label store {place}")
    return False


def publish_probe(store: Location, content: bytes) -> bytes:
    """Publish a probe's result unless there is one; returns the one that counts, which may be another job's.

    Begins the store: StoreError when the place holds something else.
    """
    place = prepare_store(store)
    if place.put_if_absent(PROBE, probe_text(content)):
        return content
    found = read_probe(place)
    if found is None:
        raise StoreError(f"{place.where(PROBE)} was removed while this job began: start it again")
    return found


def identity_text(identity: Mapping[str, Any]) -> bytes:
    """The text of identity.json: one identity has one text, so that no bit of it can change unseen."""
    return json.dumps(identity, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def read_identity(store: Location) -> dict[str, Any]:
    """The identity that the store was begun with; StoreError when it cannot be read."""
    place = open_place(store)
    try:
        value = json.loads(place.read(IDENTITY))
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"{place.where(IDENTITY)} cannot be read ({error}): restore it, or label into a new path"
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{place.where(IDENTITY)} must hold an object, got {canonical_json(value)[:80]}")
    return value
