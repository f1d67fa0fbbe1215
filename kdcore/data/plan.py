"""Work units: what there is to label, each distinct sample once, cut into pieces of about equal size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdcore.data.document import ImageSample, SampleRef, Split, TextDocument
from kdcore.data.sources import Source
from kdcore.errors import ConfigError, DataError, UnreadableDocument
from kdcore.identity import digest_samples, sample_key_array, sample_key_json, sample_key_text

PlannedSample = tuple[SampleRef, bytes, int]
"""A reference, the sample's 16-byte key, and how often the sample occurs in the data."""


@dataclass(frozen=True)
class WorkUnit:
    """The samples of one shard. `digest` names their content, not their files."""

    id: str
    samples: tuple[PlannedSample, ...]
    num_bytes: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """All units of a split; `skipped` holds (name, reason); `num_samples` counts repeated samples each time."""

    units: tuple[WorkUnit, ...]
    skipped: tuple[tuple[str, str], ...]
    input_digest: str
    num_samples: int

    @property
    def num_keys(self) -> int:
        """Distinct samples."""
        return sum(len(unit.samples) for unit in self.units)


def sample_key(sample: TextDocument | ImageSample) -> bytes:
    """The 16-byte key of a sample's content; its name has no part in it."""
    if isinstance(sample, ImageSample):
        return sample_key_array(sample.pixels)
    if sample.conversation is not None:
        return sample_key_json("conversation", sample.conversation.parts())
    if sample.prompt is not None:
        prompt, completion = sample.text[: sample.prompt], sample.text[sample.prompt :]
        return sample_key_json("prompt", {"prompt": prompt, "completion": completion})
    return sample_key_text(sample.text)


def plan_units(
    source: Source, split: Split, unit_bytes: int, on_unreadable: Literal["error", "skip"] = "error"
) -> Plan:
    """Reads every sample of a split once and cuts the distinct ones, in order, into units of about `unit_bytes`.

    Identical samples share a key and are planned once, at their first name. Empty documents are always skipped.
    Raises UnreadableDocument (on_unreadable="error"), or DataError when nothing is left to label.
    """
    if unit_bytes < 1:
        raise ConfigError(f"labels.unit_bytes must be at least 1, got {unit_bytes}")
    samples, skipped = _distinct_samples(source, split, on_unreadable)
    if not samples:
        reason = f"{skipped[0][0]}: {skipped[0][1]}" if skipped else "there were none"
        raise DataError(
            f"At least one sample of the {split} split must be readable and not empty; all {len(skipped)} were skipped "
            f"({reason}). Likely `data.path` matches files of another format."
        )
    units = _fill_units(samples, unit_bytes)
    digest = _content_digest(sorted(samples, key=lambda sample: sample[1]))
    return Plan(units, tuple(skipped), digest, sum(times for _, _, times in samples))


def _distinct_samples(
    source: Source, split: Split, on_unreadable: Literal["error", "skip"]
) -> tuple[list[PlannedSample], list[tuple[str, str]]]:
    first: dict[bytes, SampleRef] = {}
    times: dict[bytes, int] = {}
    skipped: list[tuple[str, str]] = []
    for ref in source.list(split):
        try:
            sample = source.read(ref)
        except UnreadableDocument as error:
            if on_unreadable == "error":
                raise
            skipped.append((ref.name, error.message))
            continue
        if isinstance(sample, TextDocument) and not sample.text:
            skipped.append((ref.name, "empty"))
            continue
        key = sample_key(sample)
        first.setdefault(key, ref)
        times[key] = times.get(key, 0) + 1
    return [(ref, key, times[key]) for key, ref in first.items()], skipped


def _fill_units(samples: list[PlannedSample], unit_bytes: int) -> tuple[WorkUnit, ...]:
    groups: list[list[PlannedSample]] = [[]]
    filled = 0
    for sample in samples:
        size = sample[0].num_bytes
        if groups[-1] and filled + size > unit_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(sample)
        filled += size
    return tuple(_unit(number, group) for number, group in enumerate(groups))


def _unit(number: int, samples: list[PlannedSample]) -> WorkUnit:
    num_bytes = sum(ref.num_bytes for ref, _, _ in samples)
    return WorkUnit(f"unit-{number:06d}", tuple(samples), num_bytes, _content_digest(samples))


def _content_digest(samples: list[PlannedSample]) -> str:
    return digest_samples((key, times) for _, key, times in samples)
