"""What answers to samples with classes share, images and texts alike."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from torch import Tensor

from cluster.labelling.replica.answers import Samples
from kdcore.config.models import TeacherImageConfig, TeacherTextClassifierConfig
from kdcore.data.document import ClassifiedText, ImageSample, Sample
from kdcore.data.keys import sample_key
from kdcore.labels import Codec, Encoded, check_logits, label_seeds
from kdcore.labels.learn import ProbeBatch
from kdcore.store.schema import ShardRow
from kdcore.teachers.image_classifier import ImageTeacher
from kdcore.teachers.text_classifier import TextClassifierTeacher

__all__ = ["ClassAnswers"]

_Teacher = TypeVar("_Teacher", ImageTeacher, TextClassifierTeacher)
_Config = TypeVar("_Config", TeacherImageConfig, TeacherTextClassifierConfig)


@dataclass(frozen=True)
class ClassAnswers(ABC, Generic[_Teacher, _Config]):
    """Labels of samples, or of views of them; with `feature_paths`, features of those modules and no distributions."""

    teacher: _Teacher
    config: _Config
    feature_paths: Sequence[str]
    seed: int

    masked = False
    """A sample has all its labels."""

    word: ClassVar[str]
    """What a sample is called."""

    def numerics(self) -> dict[str, Any]:
        """Nothing beyond the weights and what the teacher's identity says."""
        return {}

    def probe(self, name: str, sample: Sample) -> Iterator[ProbeBatch]:
        """The answers to one sample, for a probe; its views are alone, hence not mixed."""
        outputs = self._alone(sample)
        self._check(outputs, "the probe", name)
        yield ProbeBatch(outputs.float().cpu(), None, label_seeds(sample_key(sample), len(outputs), self.seed))

    @abstractmethod
    def _alone(self, sample: Sample) -> Tensor:
        """Logits or features of one sample, of each of its views."""

    def _labelled(
        self, unit: str, part: Samples, outputs: Tensor, codec: Codec, more: Sequence[Mapping[str, np.ndarray]] = ()
    ) -> Iterator[ShardRow]:
        """The rows of some samples; `outputs` has as many rows of each as any other, `more` columns of its row."""
        encoded: list[Encoded] = []
        for ((ref, key, _), _), each in zip(part, outputs.split(len(outputs) // max(1, len(part))), strict=True):
            self._check(each, unit, ref.name)
            encoded.append(codec.encode(each, label_seeds(key, len(each), self.seed)))
        packed = codec.pack(encoded, [None] * len(encoded))
        for ((ref, key, times), sample), columns, own in zip(part, packed, more or [{}] * len(part), strict=True):
            assert isinstance(sample, ImageSample | ClassifiedText)
            yield ShardRow(key, ref.name, times, {**columns, **own}, target=sample.target)

    def _check(self, outputs: Tensor, where: str, name: str) -> None:
        if not self.feature_paths:
            check_logits(outputs, f"{where}, {self.word} '{name}'")

    def _outputs(self, given: Any) -> Tensor:
        paths = self.feature_paths
        return self.teacher.features(given, paths) if paths else self.teacher.logits(given)
