"""The stages of a run, each timed in RUN/stages.json; this process only directs, the work is done in Ray's."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import say
from kdcore.config.recipe import Recipe
from kdcore.runs import stage

if TYPE_CHECKING:
    from kdcore.training.arms import Arm

_CHECKED = "labels-checked.json"

__all__ = [
    "check_documents",
    "check_labels",
    "cluster",
    "fit_teacher",
    "label",
    "live_teacher",
    "report",
    "train_arms",
    "train_in_place",
]


def cluster(recipe: Recipe) -> AbstractContextManager[None]:
    """The Ray session of this recipe, shared by its stages."""
    from cluster.connect import cluster_session

    return cluster_session(recipe.cluster)


def live_teacher(recipe: Recipe) -> str | None:
    """Why the teacher runs while students are trained, so that no store is made: in words; None where it does not.

    ConfigError for `losses` that need what will not be there. Without any, nothing is imported for it.
    """
    if not any(training is not None and training.losses for training in (recipe.training, recipe.fit)):
        return None
    from kdcore.training.needs import check_losses

    return check_losses(recipe)


def fit_teacher(recipe: Recipe) -> None:
    """Train the teacher on hard labels first, where the recipe asks for it."""
    if recipe.fit is None:
        return
    from cluster.training import fit_on_ray
    from kdcore.training.arms import teacher_arm

    arm = teacher_arm(recipe)
    if _pending(recipe, [arm]):
        with stage(recipe.run_dir, "teacher"):
            say("stage: train the teacher")
            fit_on_ray(recipe, [arm])


def check_documents(recipe: Recipe) -> None:
    """DataError for documents that training would refuse for their length: said before hours of labelling."""
    from cluster.ray_map import run_one
    from kdcore.store.manifest import is_finished

    training, student = recipe.training, recipe.student
    if training is None or student is None or student.type != "causal_lm" or training.long_documents != "refuse":
        return
    if not is_finished(recipe.store_path):
        run_one(_refuse_long, recipe.model_dump_json(), cpus=1)


def _refuse_long(recipe_json: str) -> None:
    from cluster.estimate.lengths import refuse_long

    refuse_long(Recipe.model_validate_json(recipe_json))


def label(recipe: Recipe) -> str:
    """The label store, made or continued; returns its directory or URL."""
    from cluster.labelling.run import label_store

    with stage(recipe.run_dir, "labels"):
        say("stage: label")
        path = label_store(recipe)
    _note_checked(recipe)
    return path


def check_labels(recipe: Recipe) -> None:
    """IdentityMismatch when the labels to train on are another teacher's, codec's or input's than the recipe's.

    A store that this run labelled, or checked before, is not checked again while its manifest stays the same.
    """
    if recipe.labels.mix is not None:
        _check_mix(recipe)
        return
    if recipe.labels_come_with_samples:
        _check_made(recipe)
        return
    noted = recipe.run_dir / _CHECKED
    if noted.exists() and json.loads(noted.read_text()) == _manifest_digest(recipe):
        return
    from cluster.labelling.run import check_store

    say(f"checking whose labels '{recipe.store_path}' holds")
    check_store(recipe)
    _note_checked(recipe)


def _check_made(recipe: Recipe) -> None:
    """RunMismatch unless the labels came with the samples that the recipe asks for."""
    from kdcore.data.synthesised.gathering import read_generation
    from kdcore.data.synthesised.places import samples_folder
    from kdcore.errors import RunMismatch
    from kdcore.synthesis.units import asked_of

    assert recipe.synthesis is not None
    found, wanted = read_generation(samples_folder(recipe), 0), asked_of(recipe.synthesis)
    if found is None or found.asked != wanted:
        raise RunMismatch(
            f"students learn from the samples that `synthesis` asks for ({wanted}), in '{samples_folder(recipe)}' are "
            f"{'none' if found is None else found.asked}: run `kd synthesize` first"
        )


def _check_mix(recipe: Recipe) -> None:
    """RunMismatch when a store of the mix is not what it was when the run began; what opening it raises."""
    from kdcore.errors import RunMismatch
    from kdcore.training.stored_labels import open_labels

    noted, found = recipe.run_dir / _CHECKED, _mix_digests(recipe)
    before = json.loads(noted.read_text()) if noted.exists() else found
    changed = [path for path in found if before.get(path) != found[path]]
    if changed:
        raise RunMismatch(
            f"this run began to learn from a mix with another store at '{changed[0]}': its manifest was "
            f"{before.get(changed[0])}, now it is {found[changed[0]]}. Put that store back, or begin another run "
            f"(name={recipe.name}-2)"
        )
    say(f"labels: {open_labels(recipe).described}")
    _note_checked(recipe)


def _note_checked(recipe: Recipe) -> None:
    from kdcore.runs import write_json

    mixed = recipe.labels.mix is not None
    write_json(recipe.run_dir / _CHECKED, _mix_digests(recipe) if mixed else _manifest_digest(recipe))


def _mix_digests(recipe: Recipe) -> dict[str, str]:
    from kdcore.store import load_manifest

    return {path: load_manifest(path).to_json()["digest"] for path in recipe.store_paths}


def _manifest_digest(recipe: Recipe) -> dict[str, str]:
    from kdcore.store import load_manifest

    return {"manifest": load_manifest(recipe.store_path).to_json()["digest"]}


def train_arms(recipe: Recipe) -> None:
    """Train every arm on Ray workers."""
    from cluster.training import fit_on_ray
    from kdcore.training.arms import plan_arms

    arms = _pending(recipe, plan_arms(recipe))
    if arms:
        with stage(recipe.run_dir, "training"):
            say(f"stage: train {', '.join(arm.name for arm in arms)}")
            fit_on_ray(recipe, arms)


def _pending(recipe: Recipe, arms: "list[Arm]") -> "list[Arm]":
    """The arms that are not finished: without any, no worker is started."""
    pending = [arm for arm in arms if not (arm.directory(recipe) / "result.json").exists()]
    for arm in arms:
        if arm not in pending:
            say(f"{arm.name}: finished before, nothing to do")
    return pending


def train_in_place(recipe: Recipe, begun: Recipe | None = None) -> None:
    """Train every arm in this process, one rank of those that torchrun or deepspeed started.

    `begun`: the run's recipe, where the one to learn by is another: samples were made in between.
    """
    import os

    from kdcore.runs import begin_run
    from kdcore.training.arms import plan_arms
    from kdcore.training.run import run_arms

    if os.environ.get("RANK", "0") == "0":
        begin_run(begun or recipe)
        if recipe.has_labels and live_teacher(recipe) is None:
            check_labels(recipe)
    run_arms(recipe, plan_arms(recipe))


def report(recipe: Recipe) -> Path:
    """Measure everything on a worker and write the report; returns report.md."""
    from cluster.ray_map import run_one
    from kdcore.evaluation.report import write_report

    settings = recipe.cluster
    cpus = max(settings.cpus_per_worker * settings.workers, settings.cpus_per_replica)
    gpus = max(settings.gpus_per_worker, settings.gpus_per_replica)
    with stage(recipe.run_dir, "evaluation"):
        say("stage: evaluate")
        # In a worker: torch and the models stay out of this process.
        results = run_one(_evaluate, recipe.model_dump_json(), cpus, gpus)
    return write_report(recipe.run_dir, json.loads(results))


def _evaluate(recipe_json: str) -> str:
    from kdcore.evaluation.run import evaluate_run

    return json.dumps(evaluate_run(Recipe.model_validate_json(recipe_json)))
