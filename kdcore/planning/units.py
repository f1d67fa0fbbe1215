"""The samples of a unit, for who labels it."""

from kdcore.errors import CorruptShard
from kdcore.identity import digest_samples
from kdcore.planning.files import PlanTable
from kdcore.planning.plan import PlannedSample, WorkUnit
from kdcore.planning.rows import BATCH_ROWS, CUT, planned_samples
from kdcore.store.storage.places import Location, open_place


def read_unit(location: Location, unit: WorkUnit) -> list[PlannedSample]:
    """The samples that a unit is planned to have, in the order of the corpus.

    CorruptShard when the plan is gone, or lists other samples than the unit's digest says.
    """
    rows = unit.rows
    table = PlanTable(open_place(location), rows.file, CUT)
    samples: list[PlannedSample] = []
    for number in range(rows.start // BATCH_ROWS, -(-rows.stop // BATCH_ROWS)):
        first = number * BATCH_ROWS
        start, stop = max(rows.start, first) - first, min(rows.stop - first, BATCH_ROWS)
        samples += planned_samples(table.batch(number).slice(start, stop - start))
    if digest_samples((key, times) for _, key, times in samples) != unit.digest:
        raise CorruptShard(
            f"{unit.id}: rows {rows.start} to {rows.stop} of {rows.file.name} are not what was planned: the file has "
            "been damaged or replaced: remove that folder of the store, and start the job again, which plans anew"
        )
    return samples
