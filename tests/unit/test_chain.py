"""Recipes of recipes: what each stage is, what is refused, and the report that compares them."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jobs.chain import run_chain
from jobs.distill import distill
from kdcore.config.chain import load_chain
from kdcore.config.load import dump_recipe, load_recipe
from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError

REPO = Path(__file__).resolve().parent.parent.parent
CHAIN = REPO / "configs" / "many" / "takd-digits.yaml"


def written(folder: Path, **changes: Any) -> Path:
    tree = yaml.safe_load(CHAIN.read_text()) | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}))
    return path


def test_the_student_of_a_stage_teaches_the_next(tmp_path):
    chain = load_chain(CHAIN, [f"runs={tmp_path}", "training.epochs=2", "teacher.batch_size=32"])
    assert chain is not None
    first, second = chain.stages
    assert (chain.folder, first.run_dir) == (tmp_path / "takd-digits", tmp_path / "takd-digits" / "assistant")
    assert [stage.training.epochs for stage in chain.stages if stage.training] == [2, 2]
    assert first.fit is not None
    assert second.fit is None
    assert (first.student.kwargs, second.student.kwargs) == ({"width": 12, "depth": 3}, {"width": 4, "depth": 3})  # pyright: ignore
    teacher = second.teacher
    assert teacher is not None
    assert teacher.kwargs == first.student.kwargs  # pyright: ignore
    assert teacher.path == str(first.run_dir / "arms" / "student-seed0" / "student")  # pyright: ignore
    assert teacher.batch_size == 32, "a teacher is run as the chain's own is"  # pyright: ignore


def test_a_stage_of_text_is_taught_by_an_exported_directory(tmp_path):
    recipe = yaml.safe_load((REPO / "configs" / "quickstart-text.yaml").read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"runs": str(tmp_path), "chain": [{"name": "a"}, {"name": "b"}]}))
    chain = load_chain(path)
    assert chain is not None
    assert chain.stages[1].teacher is not None
    assert chain.stages[1].teacher.path == str(chain.stages[0].run_dir / "arms/student-seed0/student")  # pyright: ignore


def test_settings_of_an_endpoint_are_not_those_of_its_student(tmp_path):
    recipe = yaml.safe_load((REPO / "configs" / "quickstart-text.yaml").read_text())
    recipe["teacher"] = {"type": "endpoint", "url": "http://x/v1", "model": "m", "revision": "1"}
    recipe["teacher"]["tokenizer"] = "models/stdlib-lm-4m"
    recipe |= {"labels": {}, "runs": str(tmp_path), "chain": [{"name": "a"}, {"name": "b"}]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    chain = load_chain(path)
    assert chain is not None
    assert [stage.teacher.type for stage in chain.stages if stage.teacher] == ["endpoint", "causal_lm"]


def test_every_chain_of_configs_is_one():
    for path in sorted((REPO / "configs" / "many").glob("*.yaml")):
        found = load_chain(path)
        if found is None:
            load_recipe(path)
        else:
            assert all(Recipe.model_validate(yaml.safe_load(dump_recipe(stage))) == stage for stage in found.stages)


def test_a_recipe_is_no_chain(tmp_path):
    assert load_chain(written(tmp_path, chain=None)) is None
    with pytest.raises(ConfigError, match="is a chain of recipes, which `kd distill` runs"):
        load_recipe(CHAIN)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([{"name": "one"}], "lists two stages or more"),
        ([{"name": "one"}, {"name": "one"}], "with a `name` of its own"),
        ([{"student": {}}, {"name": "two"}], "lists two stages or more"),
        ({"name": "one"}, "lists two stages or more"),
        ([{"name": "one"}, {"name": "two", "runs": "elsewhere"}], "leave `runs` and `labels.mix` out"),
        ([{"name": "one"}, {"name": "two", "trainig": {}}], r"chain\.1 \('two'\): unknown key 'trainig'"),
    ],
)
def test_what_is_no_chain_is_told(tmp_path, chain, message):
    with pytest.raises(ConfigError, match=message):
        load_chain(written(tmp_path, chain=chain))


def test_stages_do_not_share_a_store(tmp_path):
    with pytest.raises(ConfigError, match="a store of their own"):
        load_chain(written(tmp_path, labels={"path": str(tmp_path / "labels")}))


def test_what_the_last_stage_refuses_is_said_before_the_first_begins(tmp_path, capsys):
    losses = [{"type": "cross_entropy"}, {"type": "fitnet", "at": "0"}]
    last = {"name": "student", "training": {"loss": None, "losses": losses, "live_teacher": False}}
    path = written(tmp_path, runs=str(tmp_path / "runs"), chain=[{"name": "assistant"}, last])
    with pytest.raises(typer.Exit):
        distill(str(path))
    assert "lack something: fitnet needs features" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


def test_the_report_has_every_stage(tmp_path, capsys):
    chain = load_chain(CHAIN, [f"runs={tmp_path}"])
    assert chain is not None
    loss = {"mean": 0.5, "std": 0.1, "values": [0.4, 0.6]}

    def run_one(stage: Recipe) -> Path:
        roles = {
            role: {"loss": loss, "accuracy": {"mean": 0.9, "std": 0, "values": [0.9]}}
            for role in ("teacher", "student")
        }
        models = {"teacher": {"parameters": 1000}, "student-seed0": {"parameters": 10}}
        stage.run_dir.mkdir(parents=True)
        (stage.run_dir / "report.json").write_text(
            json.dumps({"roles": roles, "models": models, "verdict": stage.name})
        )
        return stage.run_dir

    run_chain(chain, run_one)
    assert "| assistant | student | 10 | 0.5000 ± 0.1000 | 0.9000 |" in capsys.readouterr().out
    assert [stage["stage"] for stage in json.loads((chain.folder / "chain.json").read_text())["stages"]] == [
        "assistant",
        "student",
    ]
