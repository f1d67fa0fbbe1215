"""An encoder's answers as rows of a store: one label for each text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cluster.labelling.replica.answers import OnRead, Samples
from kdcore.config.models import TeacherTextClassifierConfig
from kdcore.data.document import ClassifiedText, Sample, SampleRef
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source
from kdcore.labels import Codec, check_logits, label_seeds
from kdcore.labels.feature import ShapedLayers
from kdcore.labels.learn import ProbeBatch
from kdcore.store.schema import ShardRow
from kdcore.teachers.text_classifier import TextClassifierTeacher

__all__ = ["ClassifiedTextAnswers"]


@dataclass(frozen=True)
class ClassifiedTextAnswers:
    """Texts, one label each; with `feature_paths`, features of those modules instead of distributions."""

    teacher: TextClassifierTeacher
    config: TeacherTextClassifierConfig
    feature_paths: Sequence[str]
    seed: int

    masked = False
    """A text has one label."""

    def numerics(self) -> dict[str, Any]:
        """Nothing beyond the weights and what the teacher's identity says."""
        return {}

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
            texts = [sample for _, sample in part if isinstance(sample, ClassifiedText)]
            inputs = self._encode(texts)
            on_read(int(inputs["attention_mask"].sum()))
            outputs = self._outputs(inputs)
            seeds = [label_seeds(key, 1, self.seed) for (_, key, _), _ in part]
            for ((ref, _, _), _), row in zip(part, outputs, strict=True):
                if not self.feature_paths:
                    check_logits(row[None], f"{unit}, text '{ref.name}'")
            encoded = [codec.encode(row[None], seed) for row, seed in zip(outputs, seeds, strict=True)]
            packed = codec.pack(encoded, [None] * len(encoded))
            for ((ref, key, times), _), text, columns in zip(part, texts, packed, strict=True):
                yield ShardRow(key, ref.name, times, columns, target=text.target)

    def probe(self, name: str, sample: Sample) -> Iterator[ProbeBatch]:
        """The answer to one text, for a probe."""
        assert isinstance(sample, ClassifiedText)
        outputs = self._outputs(self._encode([sample]))
        if not self.feature_paths:
            check_logits(outputs, f"the probe, text '{name}'")
        yield ProbeBatch(outputs.float().cpu(), None, label_seeds(sample_key(sample), 1, self.seed))

    def _encode(self, texts: Sequence[ClassifiedText]) -> dict[str, Tensor]:
        return self.teacher.encode([(text.text, text.pair) for text in texts])

    def _outputs(self, inputs: dict[str, Tensor]) -> Tensor:
        paths = self.feature_paths
        return self.teacher.features(inputs, paths) if paths else self.teacher.logits(inputs)
