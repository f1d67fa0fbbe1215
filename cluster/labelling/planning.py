"""What there is to label, planned in this process where that is soon done, else by tasks on the job's cluster."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from cluster.connect import cluster_session
from cluster.labelling.events import EventLog, events_file
from cluster.labelling.patience import Patience
from cluster.progress import ProgressReport, duration
from cluster.ray_map import ray_map
from kdcore.config import Recipe
from kdcore.planning import Asked, Extents, Planning, find_input, make_plan, measure, survey_input
from kdcore.planning.plan import Input, Plan
from kdcore.store import prepare_store

__all__ = ["input_of_finished", "plan_work"]

OnNote = Callable[[str], None]

# Tasks of a cluster that is only just started take longer than that.
_SMALL_BYTES = 64_000_000


def plan_work(recipe: Recipe, on_note: OnNote) -> Plan:
    """The units of a recipe's training split, in files of its store; those of an earlier job with the same input.

    Raises StoreError where no store may begin, UnreadableDocument and DataError as `make_plan` does.
    """
    began = time.monotonic()
    # Blocks that were surveyed before a storage went away are not read again.
    plan = Patience.of(recipe.labels, on_note)(lambda: _plan(recipe))
    found, seconds = plan.input, time.monotonic() - began
    figures = {"samples": found.num_samples, "distinct": found.num_keys, "units": len(plan.units)}
    EventLog(events_file(recipe.run_dir))({"event": "Planned", **figures, "seconds": round(seconds, 1)})
    told = ", ".join(f"{value:,} {name}" for name, value in figures.items())
    on_note(f"plan: {told} in {duration(seconds)}")
    for note in found.notes:
        on_note(note)
    return plan


def _plan(recipe: Recipe) -> Plan:
    asked = Asked.of(recipe)
    extents = measure(asked.corpus)
    with _planning(recipe, extents, str(prepare_store(recipe.store_path))) as planning:
        return make_plan(asked, extents, planning)


def input_of_finished(recipe: Recipe, on_note: OnNote) -> Input:
    """The input of a recipe whose store is finished: as noted there, else read again.

    The replicas of a split teacher read their probe from the note, so that it is made again for them.
    """
    asked = Asked.of(recipe)
    extents = measure(asked.corpus)
    found = find_input(recipe.store_path, asked, extents.key)
    if found is not None:
        return found
    if recipe.ranks > 1:
        return plan_work(recipe, on_note).input
    with ExitStack() as stack:
        place = str(recipe.store_path)
        if _is_small(extents):  # a finished store is left as it is where that can be
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="kdcore-plan-"))
        found = survey_input(asked, extents, stack.enter_context(_planning(recipe, extents, place)))
    for note in found.notes:
        on_note(note)
    return found


@contextmanager
def _planning(recipe: Recipe, extents: Extents, place: str) -> Iterator[Planning]:
    if _is_small(extents):
        yield Planning(place)
        return
    with cluster_session(recipe.cluster), ProgressReport("plan", extents.num_bytes, "B") as progress:
        yield Planning(place, ray_map, progress.advance)


def _is_small(extents: Extents) -> bool:
    return extents.num_bytes < _SMALL_BYTES
