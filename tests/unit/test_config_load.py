"""Recipes: read strictly, answered helpfully, written back faithfully."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.labels import LabelsConfig
from kdcore.config.load import dump_recipe, load_recipe, parse_recipe, require
from kdcore.config.loss import LossConfig
from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError

GOOD = """
name: x
data: {type: python_stdlib}
teacher: {type: causal_lm, path: somebody/model}
student: {type: causal_lm, architecture: {model_type: llama, rms_norm_eps: 1e-5}}
training: {steps: 3, optimizer: {learning_rate: 3e-3}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def error_of(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(folder, text), overrides)
    return str(caught.value)


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.student is not None
    assert recipe.training is not None
    assert recipe.training.optimizer.learning_rate == 0.003
    assert recipe.student.model_dump()["architecture"]["rms_norm_eps"] == 1e-5


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, GOOD + "\ncluster:\n  workers: 1\n  workers: 2\n")
    assert "'workers' is given twice" in message
    assert "line 10" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.stepz=4", "nearest valid key: 'training.steps'"),
        ("teacher.contxt=4", "nearest valid key: 'teacher.context'"),
        ("labels.codec={type: topk, kk: 4}", "nearest valid key: 'labels.codec.k'"),
        ("training.learning_rate=1", "nearest valid key: 'training.optimizer.learning_rate'"),
        ("training.engine={type: deepspeed, zero_stag: 2}", "nearest valid key: 'training.engine.zero_stage'"),
        ("quux=1", "valid keys here: name, runs, data"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(override: str, expected: str, tmp_path: Path) -> None:
    message = error_of(tmp_path, GOOD, override)
    assert override.split("=")[0] in message
    assert expected in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.batch_size=many", ["'training.batch_size' is 'many'", "integer"]),
        ("training.batch_size=0", ["'training.batch_size' is 0", "greater than or equal to 1"]),
        (
            "labels.codec.type=top",
            [
                "'labels.codec.type' is 'top'",
                "valid types: threshold, sampled, topk, dense, feature",
                "nearest: 'topk'",
            ],
        ),
        ("training.engine={zero_stage: 1}", ["'training.engine' needs a `type`: one of torch, deepspeed"]),
        ("training.engine={type: deepspeed, zero_stage: 4}", ["'training.engine.zero_stage' is 4"]),
        (
            "training.losses=[{type: kl}, {type: attention}]",
            ["'training.losses.1.type' is 'attention'; nearest: 'attention_", "types are listed in METHODS.md"],
        ),
        ("training.losses=[{weight: 1}]", ["'training.losses.0' needs a `type`: one of", "listed in METHODS.md"]),
        ("training.epochs=1", ["training: give exactly one of `steps` and `epochs`"]),
        ("data={type: hf_dataset, path: a, kind: image}", ["data.kind 'image' needs 'image_classifier'"]),
        ("data.type=digits", ["teacher.type is 'causal_lm'", "needs 'image_classifier'"]),
        ("training.loss.temperature=2", ["training.loss.temperature"]),
        ("labels.codec={type: feature, layers: [norm]}", ["labels.codec.type 'feature' stores no distribution"]),
        ("teacher.overlap=4096", ["overlap (4096) must be smaller than context (512)"]),
        ("name=../escape", ["'name' is '../escape'"]),
        ("training.seeds=[1, 1]", ["seeds must be different"]),
        ("training", ["path.to.key=value", "'training'"]),
        ("name.inner=1", ["name is 'x', not a group"]),
        ("training.steps=[1", ["not valid YAML"]),
    ],
)
def test_a_wrong_value_is_named_by_its_path(override: str, parts: list[str], tmp_path: Path) -> None:
    message = error_of(tmp_path, GOOD, override)
    for part in parts:
        assert part in message


def test_null_unsets_a_setting(tmp_path: Path) -> None:
    text = GOOD + "labels: {codec: {type: topk, k: 3}, unit_bytes: 5}\n"
    found = load_recipe(write(tmp_path, text), ["labels.codec=null", "labels.unit_bytes=null", "training.loss=null"])
    assert found.labels == LabelsConfig()
    assert found.training is not None
    assert found.training.loss == LossConfig()
    assert load_recipe(write(tmp_path, text), ["labels=null"]).labels == LabelsConfig()
    assert "nearest valid key: 'training.steps'" in error_of(tmp_path, GOOD, "training.stepz=null")
    assert "'data' is required and missing" in error_of(tmp_path, GOOD, "data=null")


def test_a_wrong_loss_is_not_answered_with_all_of_them(tmp_path: Path) -> None:
    message = error_of(tmp_path, GOOD, "training.losses=[{type: rkdd}]")
    assert "nearest: 'rkd', " in message
    assert len(message) < 250


def test_what_a_split_teacher_cannot_be(tmp_path: Path) -> None:
    half = error_of(tmp_path, GOOD, "teacher.tensor_parallel=2", "cluster.gpus_per_replica=0.5")
    assert "2 processes of teacher.tensor_parallel, which needs a whole GPU or none, got 0.5" in half
    alone = "{name: x, data: {type: python_stdlib}, teacher: {type: causal_lm, path: x, tensor_parallel: 2}}"
    feature = error_of(tmp_path, alone, "labels.codec={type: feature, layers: [norm]}")
    assert "'feature' needs teacher.tensor_parallel 1, got 2" in feature
    image = "{name: x, data: {type: digits}, teacher: {type: image_classifier, tensor_parallel: 2}}"
    assert "tensor_parallel splits a teacher of type causal_lm" in (told := error_of(tmp_path, image))
    assert "got 2" in told
    assert "cluster.replicas" in told


def test_a_missing_group_is_named(tmp_path: Path) -> None:
    assert "'data' is required and missing" in error_of(tmp_path, "name: x")
    recipe = load_recipe(write(tmp_path, "{name: x, data: {type: digits}}"))
    with pytest.raises(ConfigError, match="'teacher', 'student'"):
        require(recipe, "teacher", "student")
    require(load_recipe(write(tmp_path, GOOD)), "teacher", "student", "training")


@pytest.mark.parametrize("text", ["", "- a\n- b", "a: [", "{1: 2}", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    error_of(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_paths_that_exist_become_absolute_and_hub_names_stay(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "model").mkdir()
    tree = {
        "name": "x",
        "data": {"type": "text", "path": "corpus/*.txt"},
        "teacher": {"type": "causal_lm", "path": "model", "tokenizer": "somebody/tokenizer"},
        "labels": {"path": "elsewhere/labels"},
    }
    recipe = parse_recipe(tree, base=tmp_path)
    dumped = recipe.model_dump()
    assert dumped["data"]["path"] == str(tmp_path / "corpus/*.txt")
    assert dumped["teacher"]["path"] == str(tmp_path / "model")
    assert dumped["teacher"]["tokenizer"] == "somebody/tokenizer"
    assert recipe.store_path == str(tmp_path / "elsewhere/labels")
    assert recipe.run_dir == tmp_path / "runs" / "x"


def test_a_folder_that_is_called_like_nothing_here_stays_a_name(tmp_path: Path) -> None:
    tree = {"name": "x", "data": {"type": "python_stdlib"}, "teacher": {"type": "causal_lm", "path": "gpt2"}}
    assert parse_recipe(tree, base=tmp_path).model_dump()["teacher"]["path"] == "gpt2"


def test_every_shipped_recipe_reads_and_survives_a_round_trip(repo: Path, tmp_path: Path) -> None:
    recipes = sorted((repo / "configs").glob("*.yaml"))
    assert len(recipes) >= 3
    for path in recipes:
        recipe = load_recipe(path)
        assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@settings(max_examples=12, deadline=None)
@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-12, 10, allow_nan=False),
    seeds=st.lists(st.integers(-5, 2**40), min_size=1, max_size=4, unique=True),
    k=st.integers(1, 10**5),
)
def test_dump_and_load_are_inverse(steps: int, rate: float, seeds: list[int], k: int) -> None:
    tree = {
        "name": "x",
        "data": {"type": "python_stdlib"},
        "labels": {"codec": {"type": "topk", "k": k}},
        "training": {"steps": steps, "seeds": seeds, "optimizer": {"learning_rate": rate}},
    }
    recipe = parse_recipe(tree)
    assert Recipe.model_validate(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_a_store_may_be_a_url_and_stays_one(tmp_path: Path) -> None:
    from cluster.paths import absolute_paths

    tree = {"name": "x", "data": {"type": "python_stdlib"}, "labels": {"path": "s3://bucket/pre/fix"}}
    recipe = parse_recipe(tree, base=tmp_path)
    assert recipe.store_path == "s3://bucket/pre/fix"
    assert absolute_paths(recipe).store_path == "s3://bucket/pre/fix"
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "dumped.yaml").store_path == "s3://bucket/pre/fix"


@pytest.mark.parametrize(
    "path",
    ["s3://key:hunter2@bucket/x", "s3://bucket/x?secret=hunter2", "simplecache::s3://b/hunter2", "s3://b/../hunter2"],
)
def test_a_url_with_credentials_is_refused_without_repeating_them(path: str, tmp_path: Path) -> None:
    tree = {"name": "x", "data": {"type": "python_stdlib"}, "labels": {"path": path}}
    with pytest.raises(ConfigError, match=r"labels\.path") as caught:
        parse_recipe(tree, base=tmp_path)
    assert "hunter2" not in str(caught.value)


def test_replicas_are_a_number_or_a_range(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    found = [load_recipe(path, [f"cluster.replicas={text}"]).cluster.replicas for text in ("3", "{min: 1, max: 8}")]
    assert [(one.min, one.max) for one in found] == [(3, 3), (1, 8)]
    for text, told in (("0", "greater than"), ("{min: 3, max: 2}", "at least min"), ("true", "{min: A, max: B}")):
        assert told in error_of(tmp_path, GOOD, f"cluster.replicas={text}")


def test_a_key_of_another_type_is_not_its_own_nearest() -> None:
    student = {"type": "image_classifier", "source": "convnet", "architecture": {}}
    with pytest.raises(ConfigError, match=r"unknown key 'student\.architecture'") as caught:
        parse_recipe({"name": "x", "data": {"type": "digits"}, "student": student})
    assert "nearest valid key: 'student.architecture'" not in str(caught.value)
