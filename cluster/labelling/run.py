"""Label the training split of a recipe: plan, replicas, receipts, manifest."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.labelling.admission import Admission, Ahead, Begun, whole_identity
from cluster.labelling.controller import Pool, run_units
from cluster.labelling.events import events_file
from cluster.labelling.patience import Patience
from cluster.labelling.planning import input_of_finished, plan_work
from cluster.labelling.policy.state import Rules
from cluster.labelling.pool import ray_pool
from cluster.labelling.replica.replica import Replica
from cluster.labelling.tally import Tally, totals
from cluster.labelling.unfinished import unfinished
from cluster.labelling.watch import Watch
from cluster.paths import absolute_paths
from cluster.progress import ProgressReport
from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.config.models import TeacherImageConfig
from kdcore.data.viewed import view_spec
from kdcore.errors import ConfigError
from kdcore.identity import compare_identity
from kdcore.planning.plan import Input, Plan, WorkUnit
from kdcore.store import (
    Receipt,
    is_finished,
    load_manifest,
    publish_manifest,
    publish_receipt,
    read_journal,
)
from kdcore.training.arms import with_fitted_teacher

__all__ = ["PoolMaker", "check_store", "label_store", "labelling_rules"]


class PoolMaker(Protocol):
    """Opens a pool of `replicas` for the time of a `with` block."""

    def __call__(self, recipe: Recipe, replicas: int) -> AbstractContextManager[Pool]:
        """The pool."""
        ...


def label_store(recipe: Recipe, on_note: Callable[[str], None] = print, make_pool: PoolMaker = ray_pool) -> str:
    """Make the label store of a recipe's training split, or continue it; returns its path or URL.

    A finished store of the same identity is returned as it is. Raises IdentityMismatch when the store is another's,
    ResourceError when the cluster is too small, UnitFailed when a unit fails for good, and the replicas' own KDErrors.
    """
    if recipe.teacher is None:
        raise ConfigError(f"labelling needs a teacher, but recipe '{recipe.name}' has none: add `teacher`")
    job = _Job(with_fitted_teacher(absolute_paths(recipe)), on_note, make_pool)
    if job.is_finished():
        on_note(f"labels: {job.path} is finished; nothing to do")
    else:
        _run(job, plan_work(job.recipe, on_note))
    return job.path


def labelling_rules(recipe: Recipe, units: int) -> Rules:
    """What the policy keeps to, with so many units."""
    labels, cluster = recipe.labels, recipe.cluster
    return Rules(
        max_attempts=labels.max_attempts,
        retry_seconds=labels.retry_seconds,
        lowest=cluster.replicas.min,
        highest=cluster.replicas.max,
        load_seconds=cluster.load_seconds,
        stuck_seconds=labels.stuck_seconds,
        starved_seconds=cluster.starved_seconds,
    ).at_most(units)


def check_store(recipe: Recipe) -> None:
    """IdentityMismatch unless the recipe's finished store is what labelling it now would give.

    Reads the input for its digest, unless a plan of it is there, and loads the teacher for its identity.
    """
    _Job(with_fitted_teacher(absolute_paths(recipe)), print, ray_pool).is_finished()


@dataclass(frozen=True)
class _Job:
    """What was asked for."""

    recipe: Recipe
    on_note: Callable[[str], None]
    make_pool: PoolMaker

    @property
    def path(self) -> str:
        return self.recipe.store_path

    @property
    def patience(self) -> Patience:
        return Patience.of(self.recipe.labels, self.on_note)

    def is_finished(self) -> bool:
        """Whether there is a manifest; IdentityMismatch when it is another's.

        The teacher is loaded here to ask for its identity, which is faster than a cluster; a split one is too large.
        """
        if not is_finished(self.path):
            return False
        given = input_of_finished(self.recipe, self.on_note)

        def compare(answer: Mapping[str, Any]) -> None:
            wanted = whole_identity(answer, given)
            compare_identity(load_manifest(self.path).identity, wanted, what=f"the label store {self.path}")

        if self.recipe.ranks == 1:
            compare(Replica(self.recipe.model_dump_json(), str(self.path), given.probe).identity())
        else:
            with self.make_pool(self.recipe, 1) as pool:
                run_units((), pool, labelling_rules(self.recipe, 0), lambda receipt: None, compare)
        return True


@dataclass(frozen=True)
class _Work:
    """What a plan asks for, and what of it no receipt in the journal shows to be done."""

    given: Input
    units: Sequence[WorkUnit]
    todo: Sequence[WorkUnit]

    @classmethod
    def left(cls, job: _Job, plan: Plan) -> "_Work":
        return cls(plan.input, plan.units, unfinished(job.path, plan.units, "labels", job.on_note))

    @property
    def sizes(self) -> dict[str, int]:
        return {unit.id: unit.num_bytes for unit in self.units}

    @property
    def ahead(self) -> Ahead:
        whole, left = (sum(unit.num_bytes for unit in units) for units in (self.units, self.todo))
        return Ahead(left, left / max(1, whole))


def _run(job: _Job, plan: Plan) -> None:
    began = time.monotonic()
    work = _Work.left(job, plan)
    whole = sum(work.sizes.values())
    with ProgressReport("labels", whole, "B", whole - work.ahead.num_bytes) as progress:
        begun = _label(job, work, progress)
    _finish(job, work, begun, time.monotonic() - began)


def _label(job: _Job, work: _Work, progress: ProgressReport) -> Begun:
    """Every unit has a receipt in the journal then."""
    rules = labelling_rules(job.recipe, len(work.todo))
    tally = Tally(len(work.units), len(work.units) - len(work.todo), _counted(job.recipe))
    log = events_file(job.recipe.run_dir)
    watch = Watch(job.recipe.name, log, work.sizes, tally, progress, job.on_note)
    admission = Admission(job.path, job.recipe.data, work.given, work.ahead, job.patience)

    def publish(receipt: Receipt) -> None:
        winner = job.patience(lambda: publish_receipt(job.path, receipt))
        count(winner, ours=winner == receipt)

    def count(receipt: Receipt, ours: bool = False) -> None:
        watch.unit_done(receipt, ours)
        admission.begun.statistics.add(receipt)

    with job.make_pool(job.recipe, rules.lowest) as pool:
        run_units(work.todo, pool, rules, publish, admission.admit, watch.record, watch.look, found=count)
    return admission.begun


def _finish(job: _Job, work: _Work, begun: Begun, seconds: float) -> None:
    """The manifest, from the receipts of all units: those of other jobs too."""
    receipts = job.patience(lambda: read_journal(job.path, {unit.id: unit.digest for unit in work.units}))
    whole = Begun.of(begun.identity, begun.probe)
    for receipt in receipts:
        whole.statistics.add(receipt)
    whole.statistics.check()
    figures = {**whole.statistics.summary(), **totals(list(receipts), work.given), "seconds": round(seconds, 1)}
    extra, codec = {"statistics": figures, "fidelity": begun.probe.fidelity}, begun.probe.codec.state()
    manifest = job.patience(lambda: publish_manifest(job.path, begun.identity, receipts, extra, codec))
    job.on_note(
        f"labels: {manifest.num_rows:,} samples, {manifest.num_labels:,} labels, {manifest.num_bytes:,} bytes "
        f"in {job.path}"
    )


def _counted(recipe: Recipe) -> str:
    """What a label is to a person: a token, where each has one; an image, or a view of it."""
    if isinstance(recipe.teacher, TeacherImageConfig):
        return "images" if view_spec(recipe.data) is None else "views"
    return "labels" if isinstance(recipe.data, RowData) and recipe.data.labelled != "all" else "tokens"
