"""Texts from a tiny teacher to a label store: died, continued, gathered, learnt from in generations."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.synthesis.text_replica import TextReplica
from kdcore import LabelledText, open_mix
from kdcore.config.data import TextData
from kdcore.config.recipe import Recipe
from kdcore.data.synthesised.gathering import Generation
from kdcore.data.synthesised.places import labels_folder
from kdcore.errors import ConfigError, StoreError, TeacherError
from kdcore.evaluation.markdown import _made
from kdcore.evaluation.synthesis import measure_made
from kdcore.identity import sample_key_text
from kdcore.models.tokenizer import load_tokenizer
from kdcore.store import open_store, verify_store
from kdcore.training.text_samples import text_samples
from tests.support.labelling_runs import content, label
from tests.support.tiny_teacher import write_documents, write_teacher
from tests.support.written_texts import LABELS, recipe, write

pytest.importorskip("transformers")

STUDENT = {"type": "causal_lm", "architecture": {"model_type": "llama"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_teacher(folder / "teacher")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[Recipe, Generation]:
    asked = recipe(folder, "whole")
    return asked, write(asked)


def test_texts_and_their_labels_are_an_ordinary_store(whole: tuple[Recipe, Generation], folder: Path) -> None:
    asked, made = whole
    assert verify_store(asked.store_path, full=True).ok
    store, tokenizer = open_store(asked.store_path), load_tokenizer(str(folder / "teacher"))
    files = sorted((asked.run_dir / "samples").glob("*.parquet"))
    lines = [line for file in files for line in pq.read_table(file).to_pylist()]
    assert (made.made, made.kept) == (14, store.num_rows)
    assert store.num_rows == len(lines) > 10
    assert store.manifest.extra["derived"]["how"] == "self_generation"
    assert store.manifest.extra["fidelity"]
    assert store.manifest.extra["statistics"]["measured_labels"] == store.manifest.num_labels
    for line in lines:
        assert line["text"].startswith(("the cat", "the dog", "the old log", "a "))
        row = store.row_of(sample_key_text(line["text"]))
        assert store.name(row) == line["name"]
        assert len(store.tokens(row)) == line["tokens"] == line["step"] + 1
        assert line["perplexity"] == pytest.approx(np.exp(-store.token_log_probs(row).mean()), rel=1e-3)
        assert tokenizer.decode(store.tokens(row), skip_special_tokens=True) == line["text"]
        labels = store.labels(row)
        assert labels.num_labels == line["step"]
    assert {(line["method"], line["generation"]) for line in lines} == {("self_generation", 0)}


def test_students_learn_from_them_without_a_document(whole: tuple[Recipe, Generation], folder: Path) -> None:
    asked, _ = whole
    samples = text_samples(asked, load_tokenizer(str(folder / "teacher")), True, 32)
    batch = samples.batch(np.arange(3))
    assert batch.labels is not None
    assert batch.labels.num_labels == len(batch.targets)


def test_a_report_shows_them_beside_real_ones(whole: tuple[Recipe, Generation], folder: Path) -> None:
    asked, made = whole
    (folder / "real.jsonl").write_text('{"text": "the cat sat | on"}\n{"text": "a dog"}\n')
    data = TextData(path=str(folder / "real.jsonl"), heldout=str(folder / "real.jsonl"))
    (found,) = measure_made(asked.model_copy(update={"data": data}))
    assert found["kept"] == made.kept
    assert found["texts"]["real"] == ["the cat sat | on", "a dog"]
    assert 0 <= found["likest_made"] <= 1
    page = "\n".join(_made([found]))
    assert "the cat sat \\| on" in page
    assert found["texts"]["made"][0][:8] in page
    assert "samples.png" not in page


def test_prompts_may_go_without_labels(whole: tuple[Recipe, Generation], folder: Path) -> None:
    asked = recipe(folder, "written", labelled="written")
    made = write(asked)
    ours, theirs = open_store(asked.store_path), open_store(whole[0].store_path)
    assert verify_store(asked.store_path, full=True).ok
    assert made.kept == ours.num_rows == theirs.num_rows
    for row in range(ours.num_rows):
        other = theirs.row_of(ours.key(row))
        np.testing.assert_array_equal(ours.tokens(row), theirs.tokens(other))
        first = int(ours.label_positions(row)[0])
        assert ours.label_positions(row).tolist() == list(range(first, len(ours.tokens(row)) - 1))
        np.testing.assert_array_equal(ours.token_log_probs(row), theirs.token_log_probs(other)[first:])
    tokenizer = load_tokenizer(str(folder / "teacher"))
    prompt = tokenizer.decode(ours.tokens(0)[: int(ours.label_positions(0)[0]) + 1], skip_special_tokens=True)
    assert prompt in ("the cat", "the dog", "the old log", "a ")


def test_a_unit_whose_writer_died_is_written_again_to_the_bit(whole: tuple[Recipe, Generation], folder: Path) -> None:
    torn = recipe(folder, "torn")
    made = write(torn, deaths=[("unit-000000", 0), ("unit-000002", 0)])
    # The codec was learnt on the same texts by another process, with the same tables.
    assert content(torn.store_path) == content(whole[0].store_path)
    assert made.figures == whole[1].figures


def test_a_text_that_ends_as_the_model_says_is_finished(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher" / "generation_config.json"
    ends = list(range(5, 60))  # letters, of which the tokenizer does not know that they end a text
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))
    made = write(recipe(tmp_path, "ended", filters={"min_tokens": 2, "near_duplicates": None}))
    assert made.figures["finished"] > 0.5
    assert set(made.identity["synthesis"]["ends"]) == set(ends)


def test_statistics_are_of_what_is_kept(whole: tuple[Recipe, Generation], folder: Path) -> None:
    asked = recipe(folder, "likely", filters={"max_perplexity": whole[1].figures["perplexity"][1]})
    shutil.copytree(whole[0].run_dir / "synthesis", asked.run_dir / "synthesis")
    made = write(asked)
    store = open_store(asked.store_path)
    assert 0 < made.kept < whole[1].kept
    log_probs = np.concatenate([store.token_log_probs(row) for row in range(store.num_rows)])
    found = store.manifest.extra["statistics"]
    assert found["measured_labels"] == len(log_probs)
    assert found["teacher_mean_nll"] == pytest.approx(-log_probs.mean(), rel=1e-3)


def test_other_filters_sieve_what_is_written(whole: tuple[Recipe, Generation], folder: Path) -> None:
    asked = recipe(folder, "strict", filters={"min_tokens": 30})
    shutil.copytree(whole[0].run_dir / "synthesis", asked.run_dir / "synthesis")
    made = write(asked, deaths=[("unit-000000", 0)])  # nobody was asked, so that nobody died
    assert made.kept == 0
    assert "none of" in made.notes[0]


def test_another_temperature_is_another_set(whole: tuple[Recipe, Generation], folder: Path) -> None:
    with pytest.raises(StoreError, match=r"cut differently.*Set `synthesis` back"):
        write(recipe(folder, "whole", temperature=0.5))


def test_a_later_generation_keeps_the_codec_and_what_the_student_knows_least(
    whole: tuple[Recipe, Generation], folder: Path
) -> None:
    student = {"student": str(folder / "teacher"), "weak_spots": 0.5}
    later = recipe(folder, "later", {"student": STUDENT, "training": {"steps": 1}}, generations=2, **student)
    first, second = write(later), write(later, 1)
    assert first.made == second.made == 7
    before, both = (open_store(labels_folder(later, number)) for number in (0, 1))
    assert both.path == later.store_path
    assert (before.num_rows, both.num_rows) == (first.kept, first.kept + second.kept)
    assert both.codec.spec() == before.codec.spec()
    assert set(before.keys().tolist()) < set(both.keys().tolist())
    assert both.name(before.num_rows).startswith("generation-001/unit-000000/")


def test_a_student_of_fewer_positions_is_asked_about_texts_that_fit(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "teacher", tmp_path / "student")
    path = tmp_path / "student" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 64}))
    teacher = {"teacher": {"type": "causal_lm", "path": str(folder / "teacher"), "context": 128, "overlap": 8}}
    asked = {"student": str(tmp_path / "student"), "weak_spots": 0.5}
    short, long = (recipe(folder, "fits", teacher, max_tokens=tokens, **asked) for tokens in (24, 64))
    assert "student" in TextReplica(short.model_dump_json(), str(tmp_path / "short")).identity()["synthesis"]
    with pytest.raises(TeacherError, match=r"max_tokens .* within the student's positions: \d+ is more than 64"):
        TextReplica(long.model_dump_json(), str(tmp_path / "long")).identity()


def test_labels_that_cannot_be_taken_while_writing(folder: Path) -> None:
    asked = recipe(folder, "bytes", {"labels": {"codec": {"type": "span"}}})
    with pytest.raises(ConfigError, match=r"labels.codec.type 'span' is something else"):
        TextReplica(asked.model_dump_json(), str(folder / "span"))


def test_a_prompt_that_leaves_no_room_is_told_before_anything_is_written(folder: Path) -> None:
    asked = recipe(folder, "long", max_tokens=100, prompts=["a", "the cat {who}"], slots={"who": ["sat", "mat " * 40]})
    with pytest.raises(TeacherError, match=r"more than 128"):
        TextReplica(asked.model_dump_json(), str(folder / "long"))


def test_a_few_real_documents_and_written_ones_are_one_mix(whole: tuple[Recipe, Generation], folder: Path) -> None:
    write_documents(folder / "docs", 5)
    real = label(folder, "few", labels={**LABELS, "unit_bytes": 600})
    written = whole[0].store_path
    mix = open_mix([written, real], missing="rest")
    stores = [open_store(path) for path in (written, real)]
    assert mix.num_rows == sum(store.num_rows for store in stores)
    data = LabelledText(mix, load_tokenizer(str(folder / "teacher")), 128, "cut")
    batch = data.collate([data[number] for number in range(len(data))])
    assert batch.labels is not None
    learnt = [int((store.num_labels_per_row() * store.occurrences()).sum()) for store in stores]
    assert batch.labels.num_labels == len(batch.targets) == sum(learnt)
