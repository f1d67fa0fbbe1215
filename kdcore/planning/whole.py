"""A plan of a corpus that is held in memory anyway: training without a teacher, images."""

import tempfile
from typing import Literal

from kdcore.config.data import OnConflict
from kdcore.data.document import Split
from kdcore.data.sources import Source
from kdcore.planning.corpus import BLOCK_BYTES, Corpus, measure
from kdcore.planning.make import Planning, make_plan
from kdcore.planning.note import Asked
from kdcore.planning.plan import Plan, PlannedSample
from kdcore.planning.units import read_unit

Samples = tuple[PlannedSample, ...]
"""Those of one work unit."""


def plan_units(
    source: Source,
    split: Split,
    unit_bytes: int,
    on_unreadable: Literal["error", "skip"] = "error",
    block_bytes: int = BLOCK_BYTES,
    on_conflict: OnConflict = "error",
) -> tuple[Plan, tuple[Samples, ...]]:
    """The plan of a split, and the samples of each unit; errors as those of `make_plan`.

    The same steps as for a large corpus, in this process and over a folder that is gone afterwards.
    """
    corpus = Corpus(lambda: source, "", split, on_unreadable, block_bytes, on_conflict)
    with tempfile.TemporaryDirectory(prefix="kdcore-plan-") as folder:
        plan = make_plan(Asked(corpus, unit_bytes, 1), measure(corpus), Planning(folder))
        return plan, tuple(tuple(read_unit(folder, unit)) for unit in plan.units)
