"""One copy of a teacher: reads the documents of a unit itself, labels them, and writes the shard itself."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.config.models import TeacherImageConfig, TeacherLMConfig
from kdcore.data.document import ImageSample, SampleRef, TextDocument
from kdcore.data.plan import WorkUnit, sample_key
from kdcore.data.sources import Source, open_source
from kdcore.data.tokenizer import encode_document
from kdcore.data.windows import Window, windows
from kdcore.errors import ConfigError, DataError
from kdcore.identity import digest_tokenizer, package_versions
from kdcore.labels import Codec, check_logits, make_codec
from kdcore.store.schema import ShardRow, batches_from_rows, store_schema
from kdcore.store.writer import Receipt, write_shard
from kdcore.teachers.base import Teacher
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.image_classifier import ImageTeacher

__all__ = ["Replica", "token_bounded_batches"]


class Replica:
    """The teacher of a recipe, loaded. Its labels of a unit depend on nothing but the unit."""

    def __init__(self, recipe_json: str, store_path: str) -> None:
        recipe = Recipe.model_validate_json(recipe_json)
        if recipe.teacher is None:
            raise ConfigError(f"labelling needs a teacher, but recipe '{recipe.name}' has none: add `teacher`")
        self._store_path = store_path
        self._source: Source = open_source(recipe.data)
        self._config = recipe.teacher
        self._teacher: Teacher = _load(recipe.teacher, self._source)
        self._codec: Codec = make_codec(recipe.labels.codec, self._teacher.num_classes)

    def identity(self) -> dict[str, Any]:
        """Kind, teacher, tokenizer, numerics, codec and versions; the driver adds the digest of the input."""
        tokenizer = self._teacher.tokenizer
        return {
            "kind": self._teacher.kind,
            "teacher": self._teacher.identity(),
            "tokenizer": None if tokenizer is None else digest_tokenizer(tokenizer),
            "numerics": _numerics(self._config),
            "codec": self._codec.spec(),
            "versions": package_versions(),
        }

    def label(self, unit: WorkUnit, attempt: str) -> Receipt:
        """Label a unit and write its shard; the receipt is not published yet.

        Raises LabelError naming unit and sample when the teacher's outputs are not finite, UnreadableDocument or
        DataError when a sample cannot be read or has changed since it was planned, OutOfSpace when the disk is full.
        """
        with torch.inference_mode():
            rows = self._text_rows(unit) if isinstance(self._teacher, CausalLMTeacher) else self._image_rows(unit)
            schema = store_schema(self._teacher.kind, self._codec)
            batches = batches_from_rows(schema, rows)
            return write_shard(self._store_path, unit.id, attempt, schema, batches, unit_digest=unit.digest)

    def _read(self, unit: WorkUnit, ref: SampleRef, key: bytes) -> TextDocument | ImageSample:
        sample = self._source.read(ref)
        if sample_key(sample) != key:
            raise DataError(
                f"{unit.id}: '{ref.name}' changed since the work was planned. Leave the input as it is while "
                "labels are made; label what is there now into a new store (labels.path)"
            )
        return sample

    def _text_rows(self, unit: WorkUnit) -> Iterator[ShardRow]:
        assert isinstance(self._teacher, CausalLMTeacher)
        documents: list[_Document] = []
        for ref, key, occurrences in unit.samples:
            sample = self._read(unit, ref, key)
            assert isinstance(sample, TextDocument)
            tokens = encode_document(self._teacher.tokenizer, sample.text)
            documents.append(_Document(ref.name, key, occurrences, tokens))
        self._label_windows(unit, documents)
        for document in documents:
            yield document.row(self._codec)

    def _label_windows(self, unit: WorkUnit, documents: Sequence["_Document"]) -> None:
        teacher, config = self._teacher, self._config
        assert isinstance(teacher, CausalLMTeacher)
        assert isinstance(config, TeacherLMConfig)
        work = [
            (document, window)
            for document in documents
            for window in windows(len(document.tokens), config.context, config.overlap)
        ]
        for batch in token_bounded_batches([window.num_tokens for _, window in work], config.batch_tokens):
            inputs = [work[index][0].tokens[work[index][1].start : work[index][1].stop] for index in batch]
            for index, logits in zip(batch, teacher.window_logits(inputs), strict=True):
                document, window = work[index]
                kept = logits[window.kept]
                check_logits(kept, f"{unit.id}, document '{document.name}', labels from {window.first_label}")
                document.parts[window.first_label] = _columns(self._codec, kept, document.targets(window))

    def _image_rows(self, unit: WorkUnit) -> Iterator[ShardRow]:
        teacher, config = self._teacher, self._config
        assert isinstance(teacher, ImageTeacher)
        assert isinstance(config, TeacherImageConfig)
        for start in range(0, len(unit.samples), config.batch_size):
            planned = unit.samples[start : start + config.batch_size]
            images: list[ImageSample] = []
            for ref, key, _ in planned:
                sample = self._read(unit, ref, key)
                assert isinstance(sample, ImageSample)
                images.append(sample)
            logits = teacher.logits(torch.from_numpy(np.stack([image.pixels for image in images])))
            for (ref, key, occurrences), image, row in zip(planned, images, logits, strict=True):
                check_logits(row[None], f"{unit.id}, image '{ref.name}'")
                yield ShardRow(key, ref.name, occurrences, self._codec.encode(row[None]), target=image.target)


@dataclass
class _Document:
    name: str
    key: bytes
    occurrences: int
    tokens: np.ndarray
    parts: dict[int, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def targets(self, window: Window) -> np.ndarray:
        return self.tokens[window.first_label + 1 : window.last_label + 1]

    def row(self, codec: Codec) -> ShardRow:
        parts = [self.parts[first] for first in sorted(self.parts)]
        if not parts:  # one token: nothing follows it, so there is nothing to label
            parts = [_columns(codec, torch.empty(0, codec.num_classes), self.tokens[:0])]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return ShardRow(self.key, self.name, self.occurrences, columns, tokens=self.tokens)


def _columns(codec: Codec, logits: torch.Tensor, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The codec's columns and the teacher's log-probability of each hard target."""
    index = torch.from_numpy(targets).to(logits.device)[:, None]
    log_probs = (logits.gather(1, index) - logits.logsumexp(dim=1, keepdim=True)).squeeze(1)
    return {**codec.encode(logits), "token_log_probs": log_probs.half().cpu().numpy()}


def token_bounded_batches(lengths: Sequence[int], batch_tokens: int) -> Iterable[list[int]]:
    """Positions of `lengths`, longest first, in batches whose padded size stays within `batch_tokens`.

    A batch has at least one entry. The order is a function of the lengths alone, so that a unit's labels are too.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _load(config: TeacherLMConfig | TeacherImageConfig, source: Source) -> Teacher:
    if isinstance(config, TeacherLMConfig):
        return CausalLMTeacher(config)
    if source.num_classes is None or source.num_channels is None:
        raise ConfigError("an image teacher needs image data: set `data` to an image source")
    return ImageTeacher(config, source.num_classes, source.num_channels)


def _numerics(config: TeacherLMConfig | TeacherImageConfig) -> dict[str, Any]:
    """What changes the labels beyond the weights. How many windows share a forward pass is not in it, so that a job
    that ran out of memory can go on with smaller batches.
    """
    if isinstance(config, TeacherLMConfig):
        return {"context": config.context, "overlap": config.overlap}
    return {}
