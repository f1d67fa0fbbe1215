"""A writer that dies before or after any step that makes something durable; then another run finishes the store."""

import itertools
import os

import pytest

from kdcore.errors import IncompleteStore
from kdcore.store import (
    batches_from_rows,
    collect_garbage,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_probe,
    publish_receipt,
    read_journal,
    read_probe,
    read_receipts,
    store_schema,
    verify_store,
    write_shard,
)
from tests.support.stores import UNITS, codec_of, identity_of, rows_of

STEPS = ("fsync", "link", "rename", "replace")
KILLED = 9
PROBE = b"what a probe learnt"


@pytest.fixture(scope="module")
def shards():
    """Schema and batches of each unit, made before any fork."""
    schema = store_schema("text", codec_of())
    return {unit: (schema, list(batches_from_rows(schema, rows_of(n)))) for n, unit in enumerate(UNITS)}


def _label(path, shards):
    if read_probe(path) is None:
        publish_probe(path, PROBE)
    store = open_for_writing(path, identity_of())
    done = read_receipts(store, UNITS)
    for unit, digest in UNITS.items():
        if unit not in done:
            publish_receipt(store, write_shard(store, unit, 0, *shards[unit], unit_digest=digest))
    return publish_manifest(store, identity_of(), read_journal(store, UNITS))


def _die_at(step, after, log):
    """Let `step` durable calls pass; the process ends before the next one, or right after it."""
    calls = itertools.count()
    for name in STEPS:
        original = getattr(os, name)

        def call(*args, name=name, original=original):
            last = next(calls) == step
            if last:
                with open(log, "a") as file:
                    file.write(f"{name} {args}\n")
            if last and not after:
                os._exit(KILLED)
            original(*args)
            if last:
                os._exit(KILLED)

        setattr(os, name, call)


def _in_child(path, shards, step, after, log):
    child = os.fork()
    if child == 0:
        try:
            _die_at(step, after, log)
            _label(path, shards)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _orphans(path, manifest):
    """Files that a finished store does not need, found without asking the collector."""
    needed = {manifest.index.file, *(receipt.shard for receipt in manifest.shards)}
    needed |= {"manifest.json", "identity.json", "README.md", "probe.json", *(f"journal/{unit}.json" for unit in UNITS)}
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert needed <= files
    return files - needed


@pytest.mark.parametrize("after", [False, True])
def test_a_writer_that_dies_at_any_step(tmp_path, shards, after):
    expected = {row.key: row.columns["ids"].tolist() for unit in range(3) for row in rows_of(unit)}
    log = tmp_path / "log"
    orphans = 0
    for step in itertools.count():
        path = tmp_path / str(step)
        if _in_child(path, shards, step, after, log) == 0:
            break
        try:
            finished = open_store(path, identity_of(), verify="full")
            assert finished.num_rows == len(expected)
        except IncompleteStore:
            pass
        manifest = _label(path, shards)
        store = open_store(path, identity_of(), verify="full")
        keys = list(store.keys())
        assert {key: store.labels_for_key(key).ids.flatten().tolist() for key in keys} == expected
        assert store.num_rows == len(expected)
        assert read_probe(path) == PROBE
        found = _orphans(path, manifest)
        assert set(collect_garbage(path, min_age_seconds=0)) == found
        assert _orphans(path, manifest) == set()
        assert verify_store(path).ok
        orphans += len(found)
    # Every file of a store was killed on its way, in each of its steps.
    steps = log.read_text().splitlines()
    for name in ("probe.json", "identity.json", "index-", "README.md", "manifest.json", "journal/unit-", "data/unit-"):
        assert any(name in line and not line.startswith("fsync") for line in steps), name
    assert sum(line.startswith("fsync") for line in steps) > 20
    assert orphans > 5
