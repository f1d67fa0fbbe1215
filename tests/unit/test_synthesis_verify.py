"""Labels of written texts, made again by the live teacher: equal within the codec's error, and others are found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.labelling.against_teacher import verify_against_teacher
from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError, IdentityMismatch
from kdcore.store import ShardRow, open_store
from tests.support.altered_stores import rewritten, with_columns
from tests.support.tiny_teacher import write_teacher
from tests.support.written_texts import recipe, write

pytest.importorskip("transformers")

CODECS: dict[str, dict[str, Any]] = {
    "dense": {"type": "dense"},
    "topk": {"type": "topk", "k": 4, "bits": 8},
    "threshold": {"type": "threshold", "draws": 200},
}


def asked(folder: Path, name: str, **synthesis: Any) -> Recipe:
    labels = {"codec": CODECS[name.split("-")[0]], "probe_labels": 100}
    # Windows of four tokens, which no text is cut into: who writes sees all of it.
    teacher = {"type": "causal_lm", "path": str(folder / "teacher"), "context": 4, "overlap": 2}
    return recipe(folder, name, {"labels": labels, "teacher": teacher}, **synthesis)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    write_teacher(folder / "teacher")
    for name in CODECS:
        write(asked(folder, name))
    return folder


@pytest.mark.parametrize("name", CODECS)
def test_every_label_is_what_the_teacher_says_of_the_whole_text(folder: Path, name: str) -> None:
    made = asked(folder, name)
    store, seen = open_store(made.store_path), []
    report = verify_against_teacher(made.store_path, made, progress=lambda *done: seen.append(done))
    assert report.problems == []
    assert (report.rows, report.labels) == (store.num_rows, store.num_labels)
    assert 0 <= report.largest <= 1
    assert seen[-1] == (store.num_rows, store.num_rows)


def test_labels_of_what_was_written_alone_in_two_generations(folder: Path) -> None:
    student = {"student": {"type": "causal_lm", "architecture": {"model_type": "llama"}}, "training": {"steps": 1}}
    labels = {"codec": CODECS["threshold"], "probe_labels": 100}
    made = recipe(folder, "both", {**student, "labels": labels}, generations=2, labelled="written")
    for generation in range(2):
        write(made, generation)
    store = open_store(made.store_path)
    assert store.masked
    assert store.name(store.num_rows - 1).startswith("generation-001/")
    report = verify_against_teacher(made.store_path, made)
    assert report.problems == []
    assert report.labels == store.num_labels


def test_how_texts_were_drawn_does_not_matter_but_who_labelled_them(folder: Path, tmp_path: Path) -> None:
    made, store = asked(folder, "dense"), asked(folder, "dense").store_path
    assert verify_against_teacher(store, asked(folder, "dense", temperature=0.5), rows=3).problems == []
    write_teacher(tmp_path / "teacher", seed=1)
    assert made.teacher is not None
    other = made.model_copy(update={"teacher": made.teacher.model_copy(update={"path": str(tmp_path / "teacher")})})
    with pytest.raises(IdentityMismatch, match=r"teacher\.weights"):
        verify_against_teacher(store, other)
    with pytest.raises(IdentityMismatch, match=r"codec\.type"):
        verify_against_teacher(store, asked(folder, "topk"))
    images = Recipe.model_validate(
        {
            "name": "x",
            "data": {"type": "digits"},
            "teacher": {"type": "image_classifier", "source": "lenet", "path": "x"},
        }
    )
    with pytest.raises(ConfigError, match="of type causal_lm"):
        verify_against_teacher(store, images)


def reversed_labels(rows: list[ShardRow]) -> list[ShardRow]:
    labels = rows[5].columns["log_probs"].reshape(len(rows[5].columns["token_log_probs"]), -1)
    rows[5] = with_columns(rows[5], log_probs=labels[::-1].reshape(-1))
    return rows


def exchanged_texts(rows: list[ShardRow]) -> list[ShardRow]:
    """Two rows of equally many tokens change them, one more has a name that was never given."""
    sizes = [len(row.tokens) for row in rows if row.tokens is not None]
    one, other = next((a, b) for a in range(len(rows)) for b in range(a) if sizes[a] == sizes[b])
    rows[one], rows[other] = (replace(rows[a], tokens=rows[b].tokens) for a, b in ((one, other), (other, one)))
    third = next(row for row in range(len(rows)) if row not in (one, other))
    rows[third] = replace(rows[third], name="from elsewhere")
    return rows


def test_other_labels_or_texts_are_named_by_row(folder: Path, tmp_path: Path) -> None:
    made = asked(folder, "dense")
    found = verify_against_teacher(rewritten(made.store_path, tmp_path / "labels", reversed_labels), made)
    assert found.largest > 2
    assert found.problems
    assert all(problem.startswith("row 5 ('generation-000/unit-00000") for problem in found.problems)
    assert "position 0: the stored label is" in found.problems[0]
    found = verify_against_teacher(rewritten(made.store_path, tmp_path / "texts", exchanged_texts), made)
    assert sorted(problem.split("): ")[1] for problem in found.problems) == [
        "its tokens are another text than its key says",
        "its tokens are another text than its key says",
        "no text that a teacher wrote has such a name",
    ]
    assert found.rows == open_store(made.store_path).num_rows - 3
