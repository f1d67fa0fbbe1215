"""Work units of a corpus of any size: surveyed, freed of repeats and cut by tasks; who asks holds the units alone."""

from kdcore.planning.corpus import Corpus, Extents, measure
from kdcore.planning.make import Planning, make_plan, survey_input
from kdcore.planning.note import Asked, find_input, planned_input
from kdcore.planning.run_map import RunMap, in_process
from kdcore.planning.sketch import Sketch, sketch
from kdcore.planning.units import read_unit
from kdcore.planning.whole import plan_units

__all__ = [
    "Asked",
    "Corpus",
    "Extents",
    "Planning",
    "RunMap",
    "Sketch",
    "find_input",
    "in_process",
    "make_plan",
    "measure",
    "plan_units",
    "planned_input",
    "read_unit",
    "sketch",
    "survey_input",
]
