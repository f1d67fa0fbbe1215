"""Labels that are made again by the live teacher: equal within the codec's error, and exchanged ones are found."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.labelling.against_teacher import verify_against_teacher
from cluster.labelling.run import label_store
from jobs.store import app
from kdcore.config import Recipe
from kdcore.config.load import dump_recipe
from kdcore.errors import IdentityMismatch
from kdcore.store import ShardRow, open_store
from tests.support.altered_stores import rewritten, with_columns
from tests.support.labelling_runs import in_process
from tests.support.tiny_teacher import recipe as text_recipe
from tests.support.tiny_teacher import write_documents
from tests.support.tiny_teacher import write_teacher as write_text_teacher
from tests.support.viewed_runs import label, viewed_recipe, write_teacher

VIEWS = 3
CODECS = {
    "dense": {"type": "dense", "bits": 8},
    "dense16": {"type": "dense"},
    "topk": {"type": "topk", "k": 3, "bits": 8},
    "topk16": {"type": "topk", "k": 3, "bits": 16},
    "threshold": {"type": "threshold", "draws": 200},
    "feature": {"type": "feature", "layers": ["blocks.2"], "dtype": "int8"},
}


def recipe_of(root: Path, name: str) -> Recipe:
    labels = {"path": str(root / name), "unit_bytes": 640, "codec": CODECS[name]}
    return viewed_recipe(root, name, labels=labels, training=None)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("against")
    write_teacher(root)
    for name in CODECS:
        label(recipe_of(root, name))
    return root


def exchange_labels(rows: list[ShardRow]) -> list[ShardRow]:
    """The labels of views 0 and 2 of row 7 change places."""
    labels = rows[7].columns["log_probs"].reshape(VIEWS, -1)
    rows[7] = with_columns(rows[7], log_probs=labels[[2, 1, 0]].reshape(-1))
    return rows


def exchange_parameters(rows: list[ShardRow]) -> list[ShardRow]:
    """Rows 3 and 20 change parameters."""
    rows[3], rows[20] = (
        with_columns(rows[one], views=rows[other].columns["views"]) for one, other in ((3, 20), (20, 3))
    )
    return rows


@pytest.mark.parametrize("name", CODECS)
def test_every_label_is_the_teachers(root, name):
    recipe, seen = recipe_of(root, name), []
    report = verify_against_teacher(root / name, recipe, progress=lambda done, total: seen.append((done, total)))
    assert report.problems == []
    assert (report.rows, report.labels) == (40, 40 * VIEWS)
    assert 0 <= report.largest <= 1
    assert seen[-1] == (40, 40)
    assert verify_against_teacher(root / name, recipe, rows=7).rows == 7


def test_exchanged_labels_are_named_by_row_and_view(root, tmp_path):
    bad = rewritten(root / "dense", tmp_path / "bad", exchange_labels)
    report = verify_against_teacher(bad, recipe_of(root, "dense"))
    assert len(report.problems) == 2
    assert report.largest > 2
    name = open_store(bad).name(7)
    for view, problem in zip((0, 2), report.problems, strict=True):
        assert problem.startswith(f"row 7 ('{name}'), view {view}: ")


def test_exchanged_parameters_are_named_by_row_and_view(root, tmp_path):
    bad = rewritten(root / "dense", tmp_path / "bad", exchange_parameters)
    found = verify_against_teacher(bad, recipe_of(root, "dense")).problems
    assert {problem.split(" (")[0] for problem in found} == {"row 3", "row 20"}
    assert all(", view " in problem for problem in found)


def test_another_teacher_or_policy_is_refused(root, tmp_path):
    recipe = recipe_of(root, "dense")
    data = recipe.data.model_copy(update={"views": recipe.data.views.model_copy(update={"flip": 0.1})})
    write_teacher(tmp_path, seed=1)
    teacher = recipe.teacher.model_copy(update={"path": str(tmp_path / "teacher.safetensors")})
    for other, where in (
        (recipe.model_copy(update={"data": data}), r"views\.policy\.flip"),
        (recipe.model_copy(update={"teacher": teacher}), r"teacher\.weights"),
        (recipe_of(root, "topk"), r"codec\.type"),
    ):
        with pytest.raises(IdentityMismatch, match=where):
            verify_against_teacher(root / "dense", other)


def test_data_that_are_not_there_are_a_problem(root):
    recipe = recipe_of(root, "dense")
    held = recipe.model_copy(update={"data": recipe.data.model_copy(update={"heldout_fraction": 0.9})})
    report = verify_against_teacher(root / "dense", held)
    assert report.rows < 40
    assert "are not in the recipe's data" in report.problems[0]


def test_the_command_says_so_and_ends_with_1(root, tmp_path):
    bad = rewritten(root / "dense", tmp_path / "bad", exchange_labels)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_of(root, "dense")))
    options = ["--against-teacher", str(tmp_path / "recipe.yaml"), "--rows", "40"]
    right = CliRunner().invoke(app, ["verify", str(root / "dense"), *options])
    assert right.exit_code == 0, right.output
    assert "120" in right.output
    assert right.output.rstrip().endswith("right")
    # Settings that are given take the place of the recipe's.
    other = CliRunner().invoke(app, ["verify", str(root / "dense"), "data.heldout_fraction=0.9", *options])
    assert "are not in the recipe's data" in " ".join(other.output.split())
    assert other.exit_code == 1
    wrong = CliRunner().invoke(app, ["verify", str(bad), *options])
    assert wrong.exit_code == 1
    assert "view 2" in wrong.output


@pytest.mark.parametrize("codec", [{"type": "topk", "k": 4}, {"type": "threshold", "draws": 100}])
def test_labels_of_texts_and_whole_images_are_compared_too(root, tmp_path, codec):
    pytest.importorskip("transformers")
    write_documents(tmp_path / "docs", 6)
    write_text_teacher(tmp_path / "teacher")
    labels = {"unit_bytes": 600, "codec": codec}
    texts = Recipe.model_validate(text_recipe(tmp_path, "texts", labels=labels))
    whole = viewed_recipe(root, f"whole-{codec['type']}", None, labels={**labels, "path": str(tmp_path / "whole")})
    for recipe in (texts, whole):
        store = label_store(recipe, lambda note: None, in_process)
        report = verify_against_teacher(store, recipe)
        assert report.problems == []
        assert report.labels == open_store(store).num_labels
