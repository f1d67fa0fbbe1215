"""Label the training split of a recipe: plan, replicas, receipts, manifest."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from cluster.labelling.controller import Pool, run_units
from cluster.labelling.disk_room import OUTLOOK, check_room, store_bytes
from cluster.labelling.events import events_file
from cluster.labelling.patience import patiently
from cluster.labelling.planning import input_of_finished, plan_work
from cluster.labelling.policy.state import Rules
from cluster.labelling.pool import ray_pool
from cluster.labelling.probe import ProbeResult
from cluster.labelling.replica.replica import Replica
from cluster.labelling.statistics import Statistics
from cluster.labelling.tally import Tally, totals
from cluster.labelling.watch import Watch
from cluster.paths import absolute_paths
from cluster.progress import ProgressReport
from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.config.models import TeacherImageConfig
from kdcore.data.viewed import view_spec
from kdcore.errors import ConfigError
from kdcore.identity import compare_identity
from kdcore.labels.views import bytes_per_view
from kdcore.planning.plan import Input, Plan, WorkUnit
from kdcore.store import (
    Receipt,
    begin_or_continue,
    is_finished,
    load_manifest,
    publish_manifest,
    publish_receipt,
    read_journal,
    read_probe,
    read_receipts,
)
from kdcore.store.schema import FORMAT
from kdcore.training.arms import with_fitted_teacher

__all__ = ["PoolMaker", "check_store", "label_store"]

Result = TypeVar("Result")


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
        job.run(plan_work(job.recipe, on_note))
    return job.path


def check_store(recipe: Recipe) -> None:
    """IdentityMismatch unless the recipe's finished store is what labelling it now would give.

    Reads the input for its digest, unless a plan of it is there, and loads the teacher for its identity.
    """
    _Job(with_fitted_teacher(absolute_paths(recipe)), print, ray_pool).is_finished()


class _Job:
    def __init__(self, recipe: Recipe, on_note: Callable[[str], None], make_pool: PoolMaker) -> None:
        self.recipe, self.on_note, self.make_pool = recipe, on_note, make_pool
        self.path = recipe.store_path
        self.input: Input | None = None
        self.identity: dict[str, Any] | None = None
        self.probe: ProbeResult | None = None
        self.statistics: Statistics | None = None
        self.todo_bytes = self.all_bytes = 0

    def is_finished(self) -> bool:
        """Whether there is a manifest; IdentityMismatch when it is another's.

        The teacher is loaded here to ask for its identity, which is faster than a cluster; a split one is too large.
        """
        if not is_finished(self.path):
            return False
        self.input = input_of_finished(self.recipe, self.on_note)

        def compare(answer: Mapping[str, Any]) -> None:
            wanted = self._whole_identity(answer)
            compare_identity(load_manifest(self.path).identity, wanted, what=f"the label store {self.path}")

        if self.recipe.ranks == 1:
            compare(Replica(self.recipe.model_dump_json(), str(self.path), self.input.probe).identity())
        else:
            with self.make_pool(self.recipe, 1) as pool:
                run_units((), pool, self._rules(0), lambda receipt: None, compare)
        return True

    def run(self, plan: Plan) -> None:
        self.input = plan.input
        began = time.monotonic()
        cut = {unit.id: unit.digest for unit in plan.units}
        journal = read_receipts(self.path, cut)
        for note in journal.notes:
            self.on_note(f"labels: {note}; its unit is labelled again")
        todo = [unit for unit in plan.units if unit.id not in journal]
        sizes = {unit.id: unit.num_bytes for unit in plan.units}
        already = sum(sizes[name] for name in journal)
        if journal:
            self.on_note(f"labels: {len(journal)} of {len(cut)} units were there, {len(todo)} to go")
        with ProgressReport("labels", sum(sizes.values()), "B", already) as progress:
            self.todo_bytes, self.all_bytes = sum(sizes.values()) - already, sum(sizes.values())
            self._label(todo, sizes, progress)
        self._finish(cut, time.monotonic() - began)

    def _label(self, todo: Sequence[WorkUnit], sizes: Mapping[str, int], progress: ProgressReport) -> None:
        rules = self._rules(len(todo))
        tally = Tally(len(sizes), len(sizes) - len(todo), _counted(self.recipe))
        log = events_file(self.recipe.run_dir)
        watch = Watch(self.recipe.name, log, sizes, tally, progress, self.on_note)

        def publish(receipt: Receipt) -> None:
            winner = self._patiently(lambda: publish_receipt(self.path, receipt))
            count(winner, ours=winner == receipt)

        def count(receipt: Receipt, ours: bool = False) -> None:
            watch.unit_done(receipt, ours)
            assert self.statistics is not None
            self.statistics.add(receipt)

        with self.make_pool(self.recipe, rules.lowest) as pool:
            run_units(todo, pool, rules, publish, self._admit, watch.record, watch.look, found=count)

    def _patiently(self, action: Callable[[], Result]) -> Result:
        labels = self.recipe.labels
        return patiently(action, labels.max_attempts, labels.retry_seconds, self.on_note)

    def _rules(self, units: int) -> Rules:
        labels, cluster = self.recipe.labels, self.recipe.cluster
        return Rules(
            max_attempts=labels.max_attempts,
            retry_seconds=labels.retry_seconds,
            lowest=cluster.replicas.min,
            highest=cluster.replicas.max,
            load_seconds=cluster.load_seconds,
            stuck_seconds=labels.stuck_seconds,
            starved_seconds=cluster.starved_seconds,
        ).at_most(units)

    def _admit(self, answer: Mapping[str, Any]) -> bool:
        """Begin or continue the store with the first replica's identity; all others must have the same.

        Whether it is continued, so that the job which began it may still be at it.
        """
        wanted = self._whole_identity(answer)
        continued = False
        if self.identity is None:
            continued = not self._patiently(lambda: begin_or_continue(self.path, wanted))
            self.identity = wanted
            content = self._patiently(lambda: read_probe(self.path))
            assert content is not None  # a replica publishes its probe before it answers
            self.probe = ProbeResult.of(content)
            self.statistics = self._statistics()
            if OUTLOOK in answer:
                self._check_room(answer[OUTLOOK])
        else:
            compare_identity(self.identity, wanted, what="another replica of this job")
        return continued

    def _check_room(self, outlook: Mapping[str, Any]) -> None:
        assert self.identity is not None
        assert self.input is not None
        assert self.probe is not None
        size = self.todo_bytes
        rows = self.input.num_keys * size / max(1, self.all_bytes)
        tokens = size * outlook["tokens"]
        per_label, spec = self.probe.codec.bytes_per_label(), view_spec(self.recipe.data)
        labels = size * outlook["labels"] if tokens else rows * (1 if spec is None else spec.per_image)
        per_label += 0 if spec is None else bytes_per_view(spec.policy)
        needed = store_bytes(per_label, rows, labels, tokens, self.identity["vocabulary"])
        check_room(str(self.path), needed, outlook["free"], self.on_note)

    def _statistics(self) -> Statistics:
        assert self.identity is not None
        assert self.probe is not None
        return Statistics(self.identity["kind"], self.probe.codec, self.identity["vocabulary"])

    def _whole_identity(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """What a replica answers, without its outlook, and the input."""
        assert self.input is not None
        identity = {name: value for name, value in answer.items() if name != OUTLOOK}
        return {"format": FORMAT, **identity, "input": self.input.digest}

    def _finish(self, cut: Mapping[str, str], seconds: float) -> None:
        assert self.identity is not None
        assert self.input is not None
        assert self.probe is not None
        receipts = self._patiently(lambda: read_journal(self.path, cut))
        statistics = self._statistics()
        for receipt in receipts:
            statistics.add(receipt)
        statistics.check()
        figures = {**statistics.summary(), **totals(list(receipts), self.input), "seconds": round(seconds, 1)}
        extra = {"statistics": figures, "fidelity": self.probe.fidelity}
        identity, codec = self.identity, self.probe.codec.state()
        manifest = self._patiently(lambda: publish_manifest(self.path, identity, receipts, extra, codec))
        self.on_note(
            f"labels: {manifest.num_rows:,} samples, {manifest.num_labels:,} labels, {manifest.num_bytes:,} bytes "
            f"in {self.path}"
        )


def _counted(recipe: Recipe) -> str:
    """What a label is to a person: a token, where each has one; an image, or a view of it."""
    if isinstance(recipe.teacher, TeacherImageConfig):
        return "images" if view_spec(recipe.data) is None else "views"
    return "labels" if isinstance(recipe.data, RowData) and recipe.data.labelled != "all" else "tokens"
