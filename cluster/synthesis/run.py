"""Make a generation of a recipe's samples: units, replicas, receipts; then gather what is kept of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.labelling.controller import run_units
from cluster.labelling.disk_room import OUTLOOK
from cluster.labelling.events import EventLog
from cluster.labelling.patience import Patience
from cluster.labelling.pool import ray_pool
from cluster.labelling.run import PoolMaker, labelling_rules
from cluster.labelling.tally import Tally
from cluster.labelling.unfinished import unfinished
from cluster.labelling.watch import Watch
from cluster.paths import absolute_paths
from cluster.progress import ProgressReport
from cluster.synthesis.kinds import Gather, Gathering, gather_on_worker, making_of
from kdcore.config import Recipe
from kdcore.config.synthesis import SynthesisConfig
from kdcore.data.synthesised.gathering import Generation, read_generation
from kdcore.data.synthesised.places import samples_folder, units_folder
from kdcore.errors import ConfigError
from kdcore.identity import compare_identity
from kdcore.store import begin_or_continue, prepare_store, publish_receipt, read_journal
from kdcore.store.schema import FORMAT
from kdcore.store.writer import Receipt
from kdcore.synthesis.units import SynthesisUnit, asked_of, cut_units
from kdcore.training.arms import with_fitted_teacher

__all__ = ["synthesize"]

_REMEDY = "Set `synthesis` back to what this run began with, or give the recipe another name"


def synthesize(
    recipe: Recipe,
    generation: int = 0,
    on_note: Callable[[str], None] = print,
    make_pool: PoolMaker | None = None,
    gather: Gather = gather_on_worker,
) -> Generation:
    """Make a generation of samples, or continue it; what is finished is returned as it is.

    Raises ConfigError without `teacher` or `synthesis`, IdentityMismatch when what is there is another teacher's,
    ResourceError when the cluster is too small, UnitFailed when a unit fails for good, and the replicas' own KDErrors.
    """
    if recipe.teacher is None or recipe.synthesis is None:
        raise ConfigError(f"recipe '{recipe.name}' needs a teacher that makes samples: add `teacher` and `synthesis`")
    job = _Job(with_fitted_teacher(absolute_paths(recipe)), recipe.synthesis, generation, on_note)
    pool = make_pool or partial(ray_pool, store_path=str(job.raw), kind=making_of(recipe).replica)
    found = read_generation(samples_folder(job.recipe), generation)
    if found is not None and found.asked == job.asked:
        _check_made(job, found, pool)
        on_note(f"samples: generation {generation} in {samples_folder(recipe)} is finished; nothing to do")
        return found
    _make(job, pool)
    receipts = job.patience(lambda: read_journal(job.raw, {unit.id: unit.digest for unit in job.units}))
    made = gather(job.recipe, Gathering(generation, job.asked, receipts))
    _tell(made, samples_folder(recipe), on_note)
    return made


@dataclass(frozen=True)
class _Job:
    """What was asked for."""

    recipe: Recipe
    config: SynthesisConfig
    generation: int
    on_note: Callable[[str], None]

    @property
    def units(self) -> Sequence[SynthesisUnit]:
        """All of the generation, in their order."""
        return cut_units(self.config, self.generation)

    @property
    def asked(self) -> str:
        """The digest of all that is asked for."""
        return asked_of(self.config, self.generation)

    @property
    def raw(self) -> Path:
        """Where the units are kept."""
        return units_folder(self.recipe, self.generation)

    @property
    def patience(self) -> Patience:
        """Waits for a storage that is away."""
        return Patience.of(self.recipe.labels, self.on_note)


def _check_made(job: _Job, found: Generation, make_pool: PoolMaker) -> None:
    """IdentityMismatch when finished samples are another teacher's, or were made to teach another student."""

    def compare(answer: Mapping[str, Any]) -> None:
        compare_identity(found.identity, _wanted(job, answer), what=f"the samples in {samples_folder(job.recipe)}")

    with make_pool(job.recipe, 1) as pool:
        run_units((), pool, labelling_rules(job.recipe, 0), lambda receipt: None, compare)


def _make(job: _Job, make_pool: PoolMaker) -> None:
    """Every unit has a receipt in the journal then."""
    units = job.units
    prepare_store(job.raw)
    todo = unfinished(job.raw, units, "samples", job.on_note, _REMEDY)
    whole, left = (sum(unit.samples for unit in some) for some in (units, todo))
    with ProgressReport("samples", whole, "samples", whole - left) as progress:
        _run(
            job,
            todo,
            Tally(len(units), len(units) - len(todo), "images" if job.config.kind == "image" else "tokens"),
            progress,
            make_pool,
        )


def _run(
    job: _Job, todo: Sequence[SynthesisUnit], tally: Tally, progress: ProgressReport, make_pool: PoolMaker
) -> None:
    rules = labelling_rules(job.recipe, len(todo))
    log = job.recipe.run_dir / "samples-events.jsonl"
    watch = Watch(job.recipe.name, log, {unit.id: unit.samples for unit in job.units}, tally, progress, job.on_note)
    began = time.monotonic()

    def publish(receipt: Receipt) -> None:
        watch.unit_done(receipt, job.patience(lambda: publish_receipt(job.raw, receipt)) == receipt)

    def found(receipt: Receipt) -> None:
        watch.unit_done(receipt, ours=False)

    with make_pool(job.recipe, rules.lowest) as pool:
        run_units(todo, pool, rules, publish, _Admission(job), watch.record, watch.look, found)
    EventLog(log)({"event": "Made", "units": len(todo), "seconds": round(time.monotonic() - began, 1)})


class _Admission:
    """Begins or continues a generation when the first replica answers, and compares what others are."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._begun: dict[str, Any] | None = None

    def __call__(self, answer: Mapping[str, Any]) -> bool:
        """Whether it is continued; IdentityMismatch when it, or another replica, is another teacher's or method's."""
        job = self._job
        wanted = _wanted(job, answer)
        if self._begun is not None:
            compare_identity(self._begun, wanted, what="another replica of this job")
            return False
        continued = not job.patience(lambda: begin_or_continue(job.raw, wanted))
        self._begun = wanted
        return continued


def _wanted(job: _Job, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a generation that a replica with this answer makes."""
    own = {name: value for name, value in answer.items() if name != OUTLOOK}
    return {"format": FORMAT, **own, "generation": job.generation}


def _tell(made: Generation, folder: Path, on_note: Callable[[str], None]) -> None:
    size = sum(file.bytes for file in made.files)
    on_note(f"samples: {made.kept:,} of {made.made:,} kept, {size:,} bytes in {folder}")
    for note in made.notes:
        on_note(f"samples: {note}")
