"""A writer that dies before or after any step that makes something durable; then another run finishes the store."""

import itertools
import os

import pytest
from store_fixtures import UNITS, codec_of, identity_of, rows_of

from kdcore.errors import IncompleteStore
from kdcore.store import (
    batches_from_rows,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_receipt,
    read_journal,
    read_receipts,
    store_schema,
    verify_store,
    write_shard,
)

STEPS = ("fsync", "link", "rename", "replace")
KILLED = 9


@pytest.fixture(scope="module")
def shards():
    """Schema and batches of each unit, made before any fork."""
    schema = store_schema("text", codec_of())
    return {unit: (schema, list(batches_from_rows(schema, rows_of(n)))) for n, unit in enumerate(UNITS)}


def _label(path, shards):
    store = open_for_writing(path, identity_of())
    done = read_receipts(store, UNITS)
    for unit, digest in UNITS.items():
        if unit not in done:
            publish_receipt(store, write_shard(store, unit, 0, *shards[unit], unit_digest=digest))
    return publish_manifest(store, identity_of(), read_journal(store, UNITS))


def _die_at(step, after):
    """Let `step` durable calls pass; the process ends before the next one, or right after it."""
    calls = itertools.count()
    for name in STEPS:
        original = getattr(os, name)

        def call(*args, original=original):
            last = next(calls) == step
            if last and not after:
                os._exit(KILLED)
            original(*args)
            if last:
                os._exit(KILLED)

        setattr(os, name, call)


def _in_child(path, shards, step, after):
    child = os.fork()
    if child == 0:
        try:
            _die_at(step, after)
            _label(path, shards)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("after", [False, True])
def test_a_writer_that_dies_at_any_step(tmp_path, shards, after):
    expected = {row.key: row.columns["ids"].tolist() for unit in range(3) for row in rows_of(unit)}
    deaths = 0
    for step in itertools.count():
        path = tmp_path / str(step)
        if _in_child(path, shards, step, after) == 0:
            break
        deaths += 1
        try:
            finished = open_store(path, identity_of(), verify="full")
            assert finished.num_rows == len(expected)
        except IncompleteStore:
            pass
        _label(path, shards)
        store = open_store(path, identity_of(), verify="full")
        keys = list(store.keys())
        assert {key: store.labels_for_key(key).ids.flatten().tolist() for key in keys} == expected
        assert store.num_rows == len(expected)
        assert verify_store(path).ok
    assert deaths > 25
