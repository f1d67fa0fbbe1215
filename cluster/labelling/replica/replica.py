"""One copy of a teacher: reads the documents of a unit itself, labels them, and writes the shard itself."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, TypeVar

import torch

from cluster.labelling.disk_room import free_bytes
from cluster.labelling.probe import Learn, learn_on, settle_codec
from cluster.labelling.replica.answers import Probed, TextAnswers
from cluster.labelling.replica.classified_answers import ClassifiedTextAnswers
from cluster.labelling.replica.endpoint_answers import EndpointAnswers, EndpointBatch
from cluster.labelling.replica.image_answers import ImageAnswers
from cluster.labelling.replica.loading import asked_of, load_answers
from cluster.labelling.replica.speed import ForwardClock, pass_flops, peak_flops
from cluster.labelling.statistics import Statistics
from kdcore.config import Recipe
from kdcore.data.document import Sample, SampleRef
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source, open_source
from kdcore.errors import ConfigError, DataError, LabelError, UnreadableDocument
from kdcore.facts import package_versions
from kdcore.identity import digest_json
from kdcore.labels import Codec
from kdcore.labels.learn import ProbeBatch
from kdcore.planning import Asked, planned_input, read_unit
from kdcore.planning.plan import WorkUnit
from kdcore.precision import bfloat16_note
from kdcore.store import find_receipt
from kdcore.store.schema import batches_from_rows, store_schema
from kdcore.store.writer import Receipt, write_shard
from kdcore.teachers.base import pick_device
from kdcore.teachers.split import LeadingTeacher

__all__ = ["Replica", "probe_batches"]

_Batch = TypeVar("_Batch", ProbeBatch, EndpointBatch)
_NAMED = 256
_WEIGHED = 64
_FROM_ONE = 512


class Replica:
    """The teacher of a recipe, loaded. Its labels of a unit depend on nothing but the unit and the store's codec.

    `probe` are the samples of the plan's probe, read from the store's folder when not given.
    """

    def __init__(self, recipe_json: str, store_path: str, probe: Sequence[SampleRef] | None = None) -> None:
        recipe = Recipe.model_validate_json(recipe_json)
        if recipe.teacher is None:
            raise ConfigError(f"labelling needs a teacher, but recipe '{recipe.name}' has none: add `teacher`")
        self._recipe, self._store_path = recipe, store_path
        self._source: Source = open_source(recipe.data)
        self._teacher = load_answers(recipe, self._source)
        self._given_probe = probe

    @cached_property
    def _probe(self) -> Sequence[SampleRef]:
        given = self._given_probe
        return planned_input(self._store_path, Asked.of(self._recipe)).probe if given is None else given

    @cached_property
    def _clock(self) -> ForwardClock | None:
        if isinstance(self._teacher, EndpointAnswers):
            return None
        return _forward_clock(self._teacher, self._source, self._probe)

    @cached_property
    def _codec(self) -> Codec:
        """The store's, or what a probe by this replica says it should be."""
        recipe, probe = self._recipe, self._probe
        # The first names stand for the corpus: another one has others.
        names = digest_json([ref.name for ref in probe[:_NAMED]])
        asked = {**asked_of(self._teacher), "probe_labels": recipe.labels.probe_labels, "probe": names}
        return settle_codec(self._store_path, asked, recipe.codec, self._learn(recipe, probe))

    def _learn(self, recipe: Recipe, probe: Sequence[SampleRef]) -> Learn:
        teacher = self._teacher
        if isinstance(teacher, EndpointAnswers):
            return teacher.learn_on(probe_batches(probe, self._source, teacher, recipe))
        layers = teacher.layers(self._source, probe)
        batches = probe_batches(probe, self._source, teacher, recipe)
        return learn_on(batches, recipe.codec, teacher.teacher.num_classes, layers)

    def identity(self) -> dict[str, Any]:
        """Kind, teacher, tokenizer, numerics, mask, codec and versions; the driver adds the digest of the input.

        The first call settles the codec: it is read from the store, or a probe is made and published.
        """
        return {**asked_of(self._teacher), "codec": self._codec.spec(), "versions": package_versions()}

    def outlook(self) -> dict[str, float | None]:
        """Labels and tokens a byte of input, on the first readable samples of the probe, and the free bytes here."""
        size, found = 0, [(0, 0)]
        for ref in self._probe[:_WEIGHED]:
            with suppress(UnreadableDocument):
                found.append(self._teacher.amounts(self._source.read(ref)))
                size += ref.num_bytes
        labels, tokens = (sum(column) / max(1, size) for column in zip(*found, strict=True))
        return {"labels": labels, "tokens": tokens, "free": free_bytes(self._store_path)}

    @property
    def note(self) -> str:
        """What a person should know before it begins: that its numerics are slow here."""
        return bfloat16_note(self._recipe, ("teacher.dtype",), pick_device(None))

    def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        """Label a unit and write its shard; the receipt is not published yet. `batch_divisor` makes batches smaller.

        A unit that has a valid receipt meanwhile, which only another job can have published, is answered with that one.
        Raises LabelError naming unit and sample when the teacher's outputs are not finite, UnreadableDocument or
        DataError when a sample cannot be read or has changed since it was planned, OutOfSpace when the disk is full.
        """
        there = find_receipt(self._store_path, unit.id, unit.digest)
        if there is not None:
            return there
        if self._clock is not None:
            self._clock.take()
        samples = [(planned, self._read(unit, *planned[:2])) for planned in read_unit(self._store_path, unit)]
        kind, vocabulary = self._teacher.teacher.kind, self._teacher.teacher.num_classes
        read: list[int] = []
        with torch.inference_mode():
            rows = self._teacher.rows(unit.id, samples, self._codec, batch_divisor, read.append)
            reading = self._teacher.reading()
            schema = store_schema(kind, self._codec, vocabulary, self._teacher.masked, reading.get("views"))
            statistics = Statistics(kind, self._codec, vocabulary)
            batches = statistics.watch(batches_from_rows(schema, rows))
            receipt = write_shard(
                self._store_path, unit.id, attempt, schema, batches, unit_digest=unit.digest, codec=self._codec
            )
            receipt = statistics.noted(receipt)
            return receipt if self._clock is None else self._clock.noted(receipt, sum(read))

    @property
    def torn(self) -> bool:
        """Whether the processes of a split teacher are no longer at the same call, so that it can label no more."""
        teacher = self._teacher.teacher
        return isinstance(teacher, LeadingTeacher) and teacher.torn

    def rest(self) -> None:
        """Let the other processes of a split teacher go until the next call."""
        teacher = self._teacher.teacher
        if isinstance(teacher, LeadingTeacher):
            teacher.rest()

    def _read(self, unit: WorkUnit, ref: SampleRef, key: bytes) -> Sample:
        sample = self._source.read(ref)
        if sample_key(sample) != key:
            raise DataError(
                f"{unit.id}: '{ref.name}' changed since the work was planned. Leave the input as it is while "
                "labels are made; label what is there now into a new store (labels.path)"
            )
        return sample


def _forward_clock(
    answers: "TextAnswers | ImageAnswers | ClassifiedTextAnswers", source: Source, refs: Sequence[SampleRef]
) -> ForwardClock:
    model = answers.teacher.model
    weights, image, ranks = next(model.parameters()), None, 1
    if isinstance(answers, ImageAnswers):
        image = answers.example(source, refs)
        if image is None:
            return ForwardClock(model, 0.0)
        image = image.to(weights)
    elif isinstance(answers, TextAnswers):
        ranks = answers.config.tensor_parallel
    return ForwardClock(model, pass_flops(model, image) / (ranks * peak_flops(weights.device, weights.dtype)))


@torch.inference_mode()
def probe_batches(
    refs: Sequence[SampleRef], source: Source, teacher: Probed[_Batch], recipe: Recipe
) -> Iterator[_Batch]:
    """Up to labels.probe_labels labels of `refs`, as the plan has them for a probe.

    Samples that cannot be read or labelled are left out: they are refused, or skipped, by name with their unit. Raises
    the LabelError of the last one when there is no other.
    """
    wanted, found, failure = recipe.labels.probe_labels, 0, None
    for ref in refs:
        # A long document is left before it fills the probe.
        stop = min(wanted, found + max(wanted // 8, _FROM_ONE))
        try:
            for batch in teacher.probe(ref.name, source.read(ref)):
                yield batch
                found += len(batch.seeds)
                if found >= stop:
                    break
        except UnreadableDocument:
            continue
        except LabelError as error:
            failure = error
        if found >= wanted:
            return
    if failure is not None and not found:
        raise failure
