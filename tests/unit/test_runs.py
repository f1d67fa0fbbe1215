"""Run directories: entered again by the same recipe, refused to another."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdcore.config.load import parse_recipe
from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError, LabelError, OutOfSpace, RunMismatch
from kdcore.runs import begin_run, is_finished, read_stages, stage, write_json


def make(folder: Path, **changes: Any) -> Recipe:
    tree = {"name": "x", "data": {"type": "python_stdlib"}, "training": {"steps": 3}, **changes}
    return parse_recipe(tree, base=folder)


def test_a_run_records_what_it_is(tmp_path: Path) -> None:
    run_dir = begin_run(make(tmp_path), ["kd", "distill", "x.yaml"])
    assert run_dir == tmp_path / "runs" / "x"
    record = json.loads((run_dir / "run.json").read_text())
    assert record["command"] == ["kd", "distill", "x.yaml"]
    assert record["versions"]["torch"]
    assert record["machine"]["cpus"] >= 1
    assert not is_finished(run_dir)


def test_the_same_recipe_enters_again(tmp_path: Path) -> None:
    assert begin_run(make(tmp_path)) == begin_run(make(tmp_path))


def test_other_resources_are_the_same_run(tmp_path: Path) -> None:
    begin_run(make(tmp_path))
    begin_run(make(tmp_path, cluster={"replicas": 7, "workers": 5}))


@pytest.mark.parametrize(
    "changed",
    [
        {"micro_batch_size": 2},
        {"engine": {"type": "deepspeed", "zero_stage": 2}},
        {"on_bad_step": "skip", "max_skipped_steps": 3, "spike_factor": 4.0},
        {"checkpoint": {"every_steps": 7}, "log_every_steps": 3, "activation_checkpointing": True},
    ],
)
def test_how_steps_are_split_saved_and_judged_may_change_within_a_run(tmp_path: Path, changed: dict[str, Any]) -> None:
    begin_run(make(tmp_path))
    begin_run(make(tmp_path, training={"steps": 3, **changed}))


def test_another_configuration_is_refused_with_each_difference(tmp_path: Path) -> None:
    begin_run(make(tmp_path))
    with pytest.raises(RunMismatch) as caught:
        begin_run(make(tmp_path, training={"steps": 4, "optimizer": {"learning_rate": 0.5}}))
    message = str(caught.value)
    assert "training.steps: 3 in the run, 4 now" in message
    assert "training.optimizer.learning_rate: 0.001 in the run, 0.5 now" in message
    assert "name=x-2" in message
    assert "batch_size" not in message


def test_a_moved_checkout_is_the_same_run(tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "model").mkdir(parents=True)
    teacher = {"type": "causal_lm", "path": "model"}
    begin_run(make(old, teacher=teacher))
    new = old.rename(tmp_path / "new")
    begin_run(make(new, teacher=teacher))
    (new / "model2").mkdir()
    with pytest.raises(RunMismatch, match=r"teacher\.path"):
        begin_run(make(new, teacher={"type": "causal_lm", "path": "model2"}))


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match="`runs`"):
        begin_run(make(tmp_path))


def test_stages_add_up_over_interruptions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), stage(tmp_path, "labels"):
        raise ValueError("stop")
    interrupted = read_stages(tmp_path)["labels"]
    assert not interrupted["finished"]
    with stage(tmp_path, "labels"):
        pass
    with stage(tmp_path, "training"):
        pass
    stages = read_stages(tmp_path)
    assert list(stages) == ["labels", "training"]
    assert stages["labels"]["finished"]
    assert stages["labels"]["parts"] == 2
    assert stages["labels"]["seconds"] >= interrupted["seconds"]


def test_a_stage_that_fails_on_a_full_disk_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OutOfSpace("the disk is full")

    monkeypatch.setattr("kdcore.runs.write_json", full)
    with pytest.raises(LabelError, match="NaN"), stage(tmp_path, "labels"):
        raise LabelError("NaN")
    with pytest.raises(OutOfSpace), stage(tmp_path, "labels"):
        pass


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "stages.json", {"a": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OutOfSpace, match=r"the disk is full: .*stages\.json"):
            write_json(tmp_path / "stages.json", {"a": "b" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["stages.json"]
    assert json.loads((tmp_path / "stages.json").read_text()) == {"a": 1}


def test_a_run_from_before_a_setting_goes_on(tmp_path: Path) -> None:
    """What a stored recipe lacks has its default; a setting that it has otherwise is still another run."""
    run = begin_run(make(tmp_path, training={"steps": 3, "loss": {"hard_weight": 0.5}}))
    stored = yaml.safe_load((run / "config.yaml").read_text())
    del stored["training"]["loss"]["gradient_filter"], stored["training"]["prefetch"], stored["training"]["precision"]
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    begin_run(make(tmp_path, training={"steps": 3, "loss": {"hard_weight": 0.5, "chunk_tokens": 7}, "prefetch": 0}))
    with pytest.raises(RunMismatch, match=r"training\.precision"):
        begin_run(make(tmp_path, training={"steps": 3, "loss": {"hard_weight": 0.5}, "precision": "bfloat16"}))
