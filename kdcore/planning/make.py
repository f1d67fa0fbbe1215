"""From a corpus to a plan: the steps in turn."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from kdcore.data.document import SampleRef
from kdcore.errors import ConfigError, DataError
from kdcore.identity import PART_SAMPLES, join_input, num_parts
from kdcore.planning.corpus import Corpus, Extents, cut_blocks
from kdcore.planning.cut import Cut, CutTask, cut
from kdcore.planning.files import PlanTable
from kdcore.planning.least import Least
from kdcore.planning.limit import find_limit
from kdcore.planning.note import Asked, read_plan, write_plan
from kdcore.planning.plan import Input, Plan, PlanRows, WorkUnit
from kdcore.planning.repeats import Repeats, RepeatsTask, find_repeats
from kdcore.planning.rows import ROWS, name_of
from kdcore.planning.run_map import RunMap, in_process
from kdcore.planning.survey import SKIPPED_LISTED, Survey, SurveyTask, survey
from kdcore.store.layout import PLAN
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import Location, open_place

Result = TypeVar("Result")


@dataclass(frozen=True)
class Planning:
    """How to plan: where the files go, how tasks are run, and who hears of the bytes of each block that is surveyed."""

    place: Location
    run_map: RunMap = in_process
    on_block: Callable[[int], object] = lambda num_bytes: None
    part_samples: int = PART_SAMPLES


def make_plan(asked: Asked, extents: Extents, planning: Planning) -> Plan:
    """All units of a corpus, or those that an earlier job planned of the same files.

    Each distinct sample is planned once, at its first place; its copies are counted. Reads every sample once, in
    tasks. Raises UnreadableDocument (on_unreadable="error"), DataError when nothing is left to label and for identical
    samples of several classes (on_conflict="error"), IdentityMismatch in a store that was begun with another input.
    """
    if asked.unit_bytes < 1:
        raise ConfigError(f"labels.unit_bytes must be at least 1, got {asked.unit_bytes}")
    place = open_place(planning.place)
    place.prepare(PLAN)
    found = read_plan(place, asked, extents.key)
    if found is not None:
        return found
    surveyed = _survey_all(asked, extents, planning)
    repeats = [item.file for item in surveyed.repeats]
    tasks = (
        CutTask(place, extents.key, number, block.rows, repeats, asked.unit_bytes)
        for number, block in enumerate(surveyed.blocks)
    )
    plan = Plan(surveyed.input, _numbered(_in_order(planning.run_map(cut, tasks))))
    write_plan(place, asked, extents.key, plan)
    return plan


def survey_input(asked: Asked, extents: Extents, planning: Planning) -> Input:
    """What `make_plan` says of the input, without any units."""
    open_place(planning.place).prepare(PLAN)
    return _survey_all(asked, extents, planning).input


@dataclass(frozen=True)
class _Surveyed:
    blocks: Sequence[Survey]
    repeats: Sequence[Repeats]
    input: Input


def _survey_all(asked: Asked, extents: Extents, planning: Planning) -> _Surveyed:
    found = _Found(asked.probe_size)
    limit = find_limit(asked.corpus, planning.run_map)
    sizes: dict[int, int] = {}

    def tasks() -> Iterator[SurveyTask]:
        for number, block in enumerate(cut_blocks(asked.corpus)):
            sizes[number] = block.num_bytes
            yield SurveyTask(asked.corpus, planning.place, block, limit, asked.probe_size, found.probe.bound)

    for number, result in planning.run_map(survey, tasks()):
        found.add(number, result)
        planning.on_block(sizes.pop(number))
    blocks = [found.blocks[number] for number in sorted(found.blocks)]
    num_samples = sum(block.num_samples for block in blocks)
    if not num_samples:
        raise _nothing(asked.corpus, found)
    parts, keys = num_parts(num_samples, planning.part_samples), [block.keys for block in blocks]
    comparisons = (RepeatsTask(planning.place, extents.key, keys, part, parts) for part in range(parts))
    repeats = _in_order(planning.run_map(find_repeats, comparisons))
    if asked.corpus.on_conflict == "error":
        _refuse_conflicts(open_place(planning.place), blocks, repeats)
    return _Surveyed(blocks, repeats, found.input(num_samples, repeats))


@dataclass
class _Found:
    """What the surveys say together; of each only what the next steps need is kept."""

    probe_size: int
    blocks: dict[int, Survey] = field(default_factory=dict)
    skipped: Least[tuple[str, str]] = field(default_factory=lambda: Least(SKIPPED_LISTED))
    num_skipped: int = 0

    def __post_init__(self) -> None:
        self.probe = Least[SampleRef](self.probe_size)

    def add(self, number: int, found: Survey) -> None:
        place = number.to_bytes(8, "big")  # surveys come in any order, and samples of one name in the corpus's
        for rank, ref in found.probe:
            self.probe.add(bytes.fromhex(rank) + place, ref)
        for item in found.skipped:
            self.skipped.add(place, item)
        self.num_skipped += found.num_skipped
        self.blocks[number] = replace(found, skipped=(), probe=())

    def input(self, num_samples: int, repeats: Sequence[Repeats]) -> Input:
        return Input(
            digest=join_input([part.digest for part in repeats]),
            num_samples=num_samples,
            num_keys=sum(part.num_keys for part in repeats),
            skipped=tuple(item for _, item in self.skipped.items()),
            num_skipped=self.num_skipped,
            probe=tuple(ref for _, ref in self.probe.items()),
            num_conflicts=sum(part.num_conflicts for part in repeats),
        )


def _refuse_conflicts(place: Place, blocks: Sequence[Survey], repeats: Sequence[Repeats]) -> None:
    found = next((part.conflict for part in repeats if part.conflict is not None), None)
    if found is None:
        return
    names = (name_of(PlanTable(place, blocks[block].rows, ROWS), row) for block, row in found.places)
    told = " and ".join(
        f"'{name}' {'without a class' if target < 0 else f'of class {target}'}"
        for name, target in zip(names, found.targets, strict=True)
    )
    conflicts, keys = sum(part.num_conflicts for part in repeats), sum(part.num_keys for part in repeats)
    raise DataError(
        f"Identical samples must have one class, since a label is of the content alone: {conflicts:,} of {keys:,} "
        f"distinct samples have several, such as {told}. Likely some were labelled twice, or what tells them apart is "
        "not read (data.pair_field, data.size). Mend the data, or set data.on_conflict: first, by which all have the "
        "class of the first"
    )


def _nothing(corpus: Corpus, found: _Found) -> DataError:
    if not found.num_skipped:
        return corpus.open().no_samples(corpus.split)
    name, reason = found.skipped.items()[0][1]
    return DataError(
        f"At least one sample of the {corpus.split} split must be readable and not empty; all {found.num_skipped} were "
        f"skipped ({name}: {reason}). Likely `data.path` matches files of another format."
    )


def _in_order(results: Iterable[tuple[int, Result]]) -> list[Result]:
    return [result for _, result in sorted(results, key=lambda item: item[0])]


def _numbered(cuts: Sequence[Cut]) -> tuple[WorkUnit, ...]:
    """Units whose ids sort as the corpus does."""
    digits = max(6, len(str(sum(len(block.units) for block in cuts) - 1)))
    found = ((block.file, unit) for block in cuts for unit in block.units)
    return tuple(
        WorkUnit(f"unit-{number:0{digits}d}", PlanRows(file, start, stop), num_bytes, digest)
        for number, (file, (start, stop, num_bytes, digest)) in enumerate(found)
    )
