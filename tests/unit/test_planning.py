import hashlib
import json
import os
import tempfile
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.data import ImageFolderData, TextData
from kdcore.data.keys import sample_key
from kdcore.data.sources import open_source
from kdcore.data.splits import probe_order
from kdcore.errors import CorruptShard, DataError, IdentityMismatch, StoreError, UnreadableDocument
from kdcore.identity import digest_input, digest_samples, sample_key_text
from kdcore.planning import Asked, Corpus, Planning, find_input, make_plan, measure, planned_input, read_unit, sketch
from kdcore.store import open_for_writing
from tests.support.planning import Memory, by_workers

TEXT = st.text("ab", min_size=1, max_size=3)
TEXTS = st.lists(st.one_of(TEXT, TEXT, TEXT, st.none(), st.just("")), min_size=10, max_size=30).flatmap(
    lambda texts: st.integers(1, len(texts)).map(lambda count: texts[-count:])
)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """Nothing here is about power cuts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def asked(source, unit_bytes=4, block_bytes=5, probe_size=3, on_unreadable="skip"):
    corpus = Corpus(lambda: source, f"memory {source.max_samples}", "train", on_unreadable, block_bytes)
    return Asked(corpus, unit_bytes, probe_size)


def planned(folder, wanted, run_map=None, part_samples=1 << 24):
    planning = Planning(folder, run_map or by_workers(1), part_samples=part_samples)
    return make_plan(wanted, measure(wanted.corpus), planning)


def digest(value):
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def naive(source, wanted, part_samples):
    """What the plan must say, from a list of all samples: units of (name, key, times) and the input's digest."""
    blocks, held, number = {}, 0, 0
    for extent in source.extents("train"):
        blocks |= {ref.name: number for ref in source.refs(extent, "train")}
        held += extent.num_bytes
        if held >= wanted.corpus.block_bytes:
            held, number = 0, number + 1
    first, times = {}, {}
    for ref in source.list("train"):
        text = source.texts[ref.name]
        if text:
            first.setdefault(text, ref)
            times[text] = times.get(text, 0) + 1
    units, filled = [], None
    for text, ref in first.items():
        key = sample_key_text(text)
        if filled is None or filled + len(text) > wanted.unit_bytes or blocks[ref.name] != blocks[units[-1][-1][0]]:
            units.append([])
            filled = 0
        units[-1].append((ref.name, key, times[text]))
        filled += len(text)
    parts = -(-sum(times.values()) // part_samples)
    keys = [[] for _ in range(parts)]
    for key, count in sorted((sample_key_text(text), count) for text, count in times.items()):
        keys[int.from_bytes(key, "big") * parts >> 128].append([key.hex(), count])
    digests = [digest(part) for part in keys]
    text = json.dumps(digests, separators=(",", ":")).encode()
    return units, digests[0] if parts == 1 else hashlib.blake2b(text, digest_size=16).hexdigest()


@settings(max_examples=40, deadline=None)
@given(
    texts=TEXTS,
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 30), st.integers(1, 12)),
    part_samples=st.sampled_from([1, 3, 1 << 24]),
    workers=st.integers(1, 4),
    seed=st.integers(0, 9),
    max_samples=st.one_of(st.none(), st.integers(1, 30)),
)
def test_a_plan_is_that_of_a_list_of_all_samples(texts, sizes, part_samples, workers, seed, max_samples):
    extent, block_bytes, unit_bytes = sizes
    source = Memory(texts, extent=extent, max_samples=max_samples)
    wanted = asked(source, unit_bytes, block_bytes)
    listed = source.list("train")
    if not any(source.texts[ref.name] for ref in listed):
        return
    units, input_digest = naive(source, wanted, part_samples)
    with tempfile.TemporaryDirectory() as folder:
        plan = planned(folder, wanted, by_workers(workers, seed), part_samples)
        found = [read_unit(folder, unit) for unit in plan.units]
        assert planned(folder, wanted, by_workers(workers, seed), part_samples) == plan  # read from its note
    assert [[(ref.name, key, times) for ref, key, times in part] for part in found] == units
    assert [unit.digest for unit in plan.units] == [digest([[key.hex(), n] for _, key, n in unit]) for unit in units]
    assert [unit.num_bytes for unit in plan.units] == [sum(ref.num_bytes for ref, _, _ in part) for part in found]
    assert [unit.id for unit in plan.units] == [f"unit-{n:06d}" for n in range(len(units))]
    assert plan.input.digest == input_digest
    counted = [source.texts[ref.name] for ref in listed if source.texts[ref.name]]
    assert (plan.input.num_samples, plan.input.num_keys) == (len(counted), len(set(counted)))
    left_out = [ref.name for ref in listed if not source.texts[ref.name]]
    assert ([name for name, _ in plan.input.skipped], plan.input.num_skipped) == (left_out, len(left_out))
    spread = sorted(listed, key=lambda ref: hashlib.blake2b(f"probe:{ref.name}".encode(), digest_size=16).digest())
    assert list(plan.input.probe) == spread[:3]


@settings(max_examples=40, deadline=None)
@given(times=st.lists(st.one_of(st.integers(1, 12), st.integers(1, 2**40)), max_size=8))
def test_arrays_are_digested_as_pairs_are(times):
    keys = [bytes([number * 31 % 256]) * 16 for number in range(len(times))]
    pairs = list(zip(keys, times, strict=True))
    array = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    assert digest_samples(pairs) == digest([[key.hex(), count] for key, count in pairs])
    if sum(times) < 1 << 24:
        assert digest_input(array, np.array(times, np.int64)) == digest_samples(pairs)


def test_a_job_that_died_goes_on_where_it_was(tmp_path):
    source = Memory([f"text {number:02d}" for number in range(40)], extent=1)
    wanted = asked(source, unit_bytes=20, block_bytes=30)  # 8 blocks of 5 samples
    for dies_after, reads in ((3, 15), (12, 25), (None, 0)):
        source.reads = 0
        if dies_after is None:
            plan = planned(tmp_path, wanted)
        else:
            with pytest.raises(KeyboardInterrupt):
                planned(tmp_path, wanted, by_workers(1, dies_after=dies_after))
        assert source.reads == reads
    calm = tmp_path / "calm"
    other = planned(calm, wanted, by_workers(3, seed=5))
    assert plan.input == other.input
    assert [read_unit(tmp_path, unit) for unit in plan.units] == [read_unit(calm, unit) for unit in other.units]
    assert [replace(unit, rows=None) for unit in plan.units] == [replace(unit, rows=None) for unit in other.units]


def files(folder):
    config = TextData(path=str(folder / "*.txt"), heldout_fraction=0)
    return Asked(replace(Corpus.of(config), block_bytes=1), 100, 10)


def test_a_changed_file_is_surveyed_anew_and_the_others_are_not(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    wanted, reads = files(tmp_path), []
    before = planned(tmp_path / "store", wanted)
    monkeypatch.setattr(
        "kdcore.planning.survey.sample_key", lambda sample: reads.append(sample.name) or sample_key(sample)
    )
    assert planned(tmp_path / "store", files(tmp_path)) == before
    state = (tmp_path / "b.txt").stat()
    (tmp_path / "b.txt").write_text("text B")
    os.utime(tmp_path / "b.txt", ns=(state.st_atime_ns, state.st_mtime_ns + 1))  # of the same size, and at once
    key = measure(wanted.corpus).key
    assert find_input(tmp_path / "store", wanted, key) is None
    after = planned(tmp_path / "store", files(tmp_path))
    assert reads == ["b.txt"]
    assert after.input.digest != before.input.digest
    assert find_input(tmp_path / "store", wanted, key) == after.input == planned_input(tmp_path / "store", wanted)


def test_an_image_that_changed_in_its_folder_is_noticed(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"one")
    source = open_source(ImageFolderData(path=str(tmp_path)))
    stamps = [source.stamp(extent) for extent in source.extents("train")]
    (tmp_path / "dog" / "1.png").write_bytes(b"other")
    assert [source.stamp(extent) == old for extent, old in zip(source.extents("train"), stamps, strict=True)] == [
        True,
        False,
    ]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"key": 1}', None])
def test_a_damaged_plan_is_made_anew_and_a_lost_one_is_missed(tmp_path, damage):
    source = Memory(["a", "b", "b"])
    wanted = asked(source)
    plan = planned(tmp_path, wanted)
    for note in (tmp_path / "plan").glob("*.json"):
        note.unlink() if damage is None else note.write_bytes(damage)
    with pytest.raises(StoreError, match="the job that plans"):
        planned_input(tmp_path, wanted)
    again = planned(tmp_path, wanted)
    assert again.input == plan.input
    for file in (tmp_path / "plan").glob("cut-*.arrow"):
        file.unlink()
    with pytest.raises(CorruptShard):
        read_unit(tmp_path, again.units[0])
    source.reads = 0
    assert planned(tmp_path, wanted).input == plan.input
    assert source.reads == 0


@pytest.mark.parametrize("place", [0.02, 0.5, 0.97])
def test_a_damaged_file_is_refused_or_gives_the_same_samples(tmp_path, place):
    plan = planned(
        tmp_path, asked(Memory([f"text {number}" for number in range(9)]), unit_bytes=1000, block_bytes=1000)
    )
    whole = read_unit(tmp_path, plan.units[0])
    path = tmp_path / plan.units[0].rows.file.name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * place)])
    with pytest.raises(CorruptShard):
        read_unit(tmp_path, plan.units[0])
    path.write_bytes(content.replace(whole[4][1], whole[5][1]))  # a key that is another's, in a file of the right size
    with pytest.raises(CorruptShard, match="not what was planned"):
        read_unit(tmp_path, plan.units[0])
    path.write_bytes(content)
    assert read_unit(tmp_path, plan.units[0]) == whole


def test_an_unreadable_document_ends_the_survey_by_name(tmp_path):
    with pytest.raises(UnreadableDocument, match="0003"):
        planned(tmp_path, asked(Memory(["a", "b", "c", None, "d"]), on_unreadable="error"))


def test_blocks_do_not_depend_on_who_reads_them_and_ids_sort_as_the_corpus_does(tmp_path):
    source = Memory([f"{number:03d}" for number in range(60)], extent=1)
    wanted = asked(source, unit_bytes=7, block_bytes=20)
    plans = [planned(tmp_path / str(workers), wanted, by_workers(workers, workers)) for workers in (1, 4)]
    first, second = ([(unit.id, unit.digest, unit.num_bytes) for unit in plan.units] for plan in plans)
    assert first == second
    ids = [unit.id for unit in plans[0].units]
    assert all(a < b for a, b in pairwise(ids))
    names = [ref.name for unit in plans[0].units for ref, _, _ in read_unit(tmp_path / "1", unit)]
    assert names == sorted(source.texts)


def test_the_note_of_a_store_is_not_replaced_by_a_job_with_another_input(tmp_path):
    first = planned(tmp_path, asked(Memory(["a", "b"])))
    open_for_writing(tmp_path, {"input": first.input.digest})
    with pytest.raises(IdentityMismatch, match="input"):
        planned(tmp_path, asked(Memory(["a", "b", "c"])))
    assert planned_input(tmp_path, asked(Memory([]))) == first.input


@pytest.mark.parametrize("max_samples", [None, 30])
def test_a_sketch_is_exact_for_few_blocks_and_near_for_many(max_samples, monkeypatch):
    for count, exact in ((8, True), (400, False)):
        source, listed = Memory([f"text {number:03d}" for number in range(count)], max_samples=max_samples), []
        refs = source.refs
        monkeypatch.setattr(source, "refs", lambda *args, refs=refs, listed=listed: listed.append(1) or refs(*args))
        found = sketch(Corpus(lambda source=source: source, "", block_bytes=30), 5)  # four texts to a block
        wanted = min(count, max_samples or count)
        assert (found.num_samples, found.num_bytes) == (wanted, 8 * wanted)
        assert source.reads == 0
        assert len(listed) == (count // 2 if exact else 8)
        if exact:
            assert list(found.some) == probe_order(Memory(source.texts.values()).list("train"))[:5]
    with pytest.raises(DataError, match="train split"):
        sketch(Corpus(lambda: Memory([]), ""), 5)
