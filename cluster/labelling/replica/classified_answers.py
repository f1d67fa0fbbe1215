"""An encoder's answers as rows of a store: one label for each text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cluster.labelling.replica.answers import OnRead, Samples
from cluster.labelling.replica.class_answers import ClassAnswers
from kdcore.config.models import TeacherTextClassifierConfig
from kdcore.data.document import ClassifiedText, Sample, SampleRef
from kdcore.data.sources import Source
from kdcore.labels import Codec
from kdcore.labels.feature import ShapedLayers
from kdcore.store.schema import ShardRow
from kdcore.teachers.text_classifier import TextClassifierTeacher

__all__ = ["ClassifiedTextAnswers"]


@dataclass(frozen=True)
class ClassifiedTextAnswers(ClassAnswers[TextClassifierTeacher, TeacherTextClassifierConfig]):
    """Texts, one label each."""

    word = "text"

    def reading(self) -> dict[str, Any]:
        """The tokenizer is in the store's identity; nothing else."""
        return {}

    def layers(self, source: Source, refs: Sequence[SampleRef]) -> ShapedLayers:
        """The widths of the features, from a pass over a text of this program's."""
        inputs = self.teacher.encode([("a", None)])
        return tuple((path, tuple(self.teacher.features(inputs, [path]).shape[1:])) for path in self.feature_paths)

    def amounts(self, sample: Sample) -> tuple[int, int]:
        """One label, no tokens."""
        return 1, 0

    def rows(
        self, unit: str, samples: Samples, codec: Codec, batch_divisor: int = 1, on_read: OnRead = lambda amount: None
    ) -> Iterator[ShardRow]:
        """Labelled rows, in the order of the samples. LabelError names unit and text for outputs not finite.

        `on_read` hears of their tokens. Which texts share a forward pass does not change a label beyond rounding.
        """
        size = max(1, self.config.batch_size // batch_divisor)
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            inputs = self._encode([sample for _, sample in part])
            on_read(int(inputs["attention_mask"].sum()))
            yield from self._labelled(unit, part, self._outputs(inputs), codec)

    def _alone(self, sample: Sample) -> Tensor:
        return self._outputs(self._encode([sample]))

    def _encode(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        texts = [sample for sample in samples if isinstance(sample, ClassifiedText)]
        return self.teacher.encode([(text.text, text.pair) for text in texts])
