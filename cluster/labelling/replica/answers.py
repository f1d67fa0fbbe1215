"""A teacher's answers as rows of a store: the samples of a unit in, labelled rows out; here for texts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from kdcore.config.models import TeacherEndpointConfig, TeacherLMConfig
from kdcore.data.document import Sample, SampleRef, TextDocument
from kdcore.data.encoding import EncodedText, LabelledWindow, TextEncoder
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source
from kdcore.errors import LabelError
from kdcore.labels import Codec, Encoded, check_logits, join, label_seeds
from kdcore.labels.checks import row_chunks
from kdcore.labels.counts import CountsCodec
from kdcore.labels.feature import ShapedLayers
from kdcore.labels.learn import ProbeBatch
from kdcore.labels.span import span_outputs
from kdcore.planning.plan import PlannedSample
from kdcore.store.schema import LABEL_SPANS, TOKEN_LOG_PROBS, ShardRow
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.endpoint import EndpointTeacher

__all__ = [
    "Document",
    "Probed",
    "Samples",
    "TextAnswers",
    "TextRows",
    "naming",
    "token_bounded_batches",
]

Samples = Sequence[tuple[PlannedSample, Sample]]
"""What there is to label: as planned, and as read."""

OnRead = Callable[[int], object]


_Batch = TypeVar("_Batch", covariant=True)


class Probed(Protocol[_Batch]):
    """What a probe needs of a teacher."""

    def probe(self, name: str, sample: Sample) -> Iterator[_Batch]:
        """The answers to one sample, in batches."""
        ...


_Teacher = TypeVar("_Teacher", CausalLMTeacher, EndpointTeacher)
_Config = TypeVar("_Config", TeacherLMConfig, TeacherEndpointConfig)


@dataclass(frozen=True)
class TextRows(ABC, Generic[_Teacher, _Config]):
    """Texts, in overlapping windows; how a window is labelled is the subclass's."""

    teacher: _Teacher
    config: _Config
    seed: int
    encoder: TextEncoder

    def numerics(self) -> dict[str, Any]:
        """What changes the labels beyond the weights. How many windows share a forward pass is not in it, so that a job
        that ran out of memory can go on with smaller batches.
        """
        return {"context": self.config.context, "overlap": self.config.overlap}

    @property
    def masked(self) -> bool:
        """Whether only some tokens are labelled."""
        return self.encoder.masked

    def reading(self) -> dict[str, Any]:
        """What of the identity says how documents become tokens and labels; empty for whole plain texts."""
        return self.encoder.identity()

    def rows(
        self, unit: str, samples: Samples, codec: Codec, batch_divisor: int = 1, on_read: OnRead = lambda amount: None
    ) -> Iterator[ShardRow]:
        """Labelled rows, in the order of the samples. LabelError names unit and document for outputs not finite.

        `on_read` hears of the tokens that the teacher reads for them, padding and tokens read twice left out.
        """
        documents = [self._document(ref.name, key, times, sample) for (ref, key, times), sample in samples]
        yield from self.rows_of(unit, documents, codec, batch_divisor, on_read)

    def rows_of(
        self,
        unit: str,
        documents: Sequence["Document"],
        codec: Codec,
        batch_divisor: int = 1,
        on_read: OnRead = lambda amount: None,
    ) -> Iterator[ShardRow]:
        """As `rows`, of documents that are tokens already."""
        self._fill(unit, documents, codec, batch_divisor)
        on_read(sum(document.text.num_read(self.config.context, self.config.overlap) for document in documents))
        parts = [document.joined(codec, self._width(codec)) for document in documents]
        packed = codec.pack([part[0] for part in parts], [document.text.targets for document in documents])
        for document, columns, (_, log_probs) in zip(documents, packed, parts, strict=True):
            spans = {} if document.text.spans is None else {LABEL_SPANS: document.text.spans}
            whole = {**columns, **spans, TOKEN_LOG_PROBS: log_probs}
            yield ShardRow(document.key, document.name, document.occurrences, whole, tokens=document.text.tokens)

    def amounts(self, sample: Sample) -> tuple[int, int]:
        """How many labels a document has, and how many tokens."""
        assert isinstance(sample, TextDocument)
        text = self.encoder.encode(sample)
        return len(text.positions), len(text.tokens)

    @abstractmethod
    def _fill(self, unit: str, documents: Sequence["Document"], codec: Codec, batch_divisor: int) -> None:
        """Label every window of the documents."""

    def _windows(self, documents: Sequence["Document"]) -> list[tuple["Document", LabelledWindow]]:
        context, overlap = self.config.context, self.config.overlap
        return [(document, part) for document in documents for part in document.text.windows(context, overlap)]

    def _document(self, name: str, key: bytes, occurrences: int, sample: Sample) -> "Document":
        assert isinstance(sample, TextDocument)
        text = self.encoder.encode(sample)
        # By position, so that a token's label is the same whichever others are labelled.
        seeds = label_seeds(key, max(0, len(text.tokens) - 1), self.seed)
        return Document(name, key, occurrences, text, seeds[text.positions])

    def _width(self, codec: Codec) -> int:
        return codec.num_classes


@contextmanager
def naming(unit: str, document: "Document", labels: slice) -> Iterator[None]:
    """A LabelError from inside says where it was."""
    try:
        yield
    except LabelError as error:
        where = f"{unit}, document '{document.name}', labels from {document.text.positions[labels.start]}"
        raise LabelError(f"{where}: {error}") from error


@dataclass(frozen=True)
class TextAnswers(TextRows[CausalLMTeacher, TeacherLMConfig]):
    """Of a teacher at hand; with `feature_paths`, features of those modules instead of distributions.

    With `boundaries` bool [V], the classes that end what was written, labels are of the text's bytes (codec `span`).
    """

    feature_paths: Sequence[str]
    boundaries: np.ndarray | None = None

    def layers(self, source: Source, refs: Sequence[SampleRef]) -> ShapedLayers:
        """The widths of the features."""
        return self.teacher.feature_layers(self.feature_paths) if self.feature_paths else ()

    def _fill(self, unit: str, documents: Sequence["Document"], codec: Codec, batch_divisor: int) -> None:
        for document, labels, logits, outputs in self._answers(documents, batch_divisor):
            with naming(unit, document, labels):
                document.keep(codec, labels, logits, outputs)

    def probe(self, name: str, sample: Sample) -> Iterator[ProbeBatch]:
        """The answers to one document, for a probe."""
        document = self._document(name, sample_key(sample), 1, sample)
        for _, labels, logits, outputs in self._answers([document]):
            check_logits(logits, f"the probe, document '{name}'")
            hard, seeds = document.text.targets[labels], document.seeds[labels]
            for rows in row_chunks(*outputs.shape):  # a window of a large vocabulary is gigabytes in float32
                yield ProbeBatch(outputs[rows].float().cpu(), hard[rows], seeds[rows])

    def _width(self, codec: Codec) -> int:
        if self.boundaries is not None:
            return 4
        return codec.num_classes or sum(width for _, (width,) in self.teacher.feature_layers(self.feature_paths))

    def _answers(
        self, documents: Sequence["Document"], batch_divisor: int = 1
    ) -> Iterator[tuple["Document", slice, Tensor, Tensor]]:
        """A document, which of its labels, their logits, and what the codec encodes (logits or features); by window."""
        work = self._windows(documents)
        limit = max(1, self.config.batch_tokens // batch_divisor)
        for batch in token_bounded_batches([part.window.num_tokens for _, part in work], limit):
            pieces = [work[index] for index in batch]
            inputs = [document.text.tokens[part.window.start : part.window.stop] for document, part in pieces]
            if self.feature_paths:
                found = self.teacher.window_features(inputs, self.feature_paths)
            else:
                found = [(logits, logits) for logits in self.teacher.window_logits(inputs)]
            for (document, part), (logits, outputs) in zip(pieces, found, strict=True):
                if self.boundaries is not None:
                    yield document, part.labels, logits[part.rows], self._of_bytes(document, part, logits[part.rows])
                else:
                    yield document, part.labels, logits[part.rows], outputs[part.rows]

    def _of_bytes(self, document: "Document", part: LabelledWindow, logits: Tensor) -> Tensor:
        text, labels = document.text, part.labels
        assert self.boundaries is not None
        assert text.byte_ends is not None
        positions = text.positions[labels]
        begins, ends = text.byte_ends[positions], text.byte_ends[positions + 1]
        return span_outputs(logits, text.targets[labels], begins, ends, torch.from_numpy(self.boundaries))


@dataclass
class Document:
    """A text being labelled, with a seed for each label: `parts` holds what is kept of a window, by its first label."""

    name: str
    key: bytes
    occurrences: int
    text: EncodedText
    seeds: np.ndarray
    parts: dict[int, tuple[Encoded, np.ndarray]] = field(default_factory=dict)

    def keep(self, codec: Codec, labels: slice, logits: Tensor, outputs: Tensor) -> None:
        """Encode some of the labels, and the log-probability of each hard label."""
        if isinstance(codec, CountsCodec):
            encoded, normalisers = codec.draw(outputs, self.seeds[labels])
        else:
            encoded = codec.encode(outputs, self.seeds[labels])
            check_logits(logits, "the window")
            normalisers = logits.float().logsumexp(dim=1).cpu().numpy()
        index = torch.from_numpy(self.text.targets[labels]).to(logits.device)[:, None]
        hard = logits.gather(1, index).squeeze(1).double().cpu().numpy()
        self.put(labels, encoded, hard - normalisers)

    def put(self, labels: slice, encoded: Encoded, hard: np.ndarray) -> None:
        """Some of the labels, and the log-probability of each hard label."""
        self.parts[labels.start] = encoded, hard.astype(np.float16)

    def joined(self, codec: Codec, width: int) -> tuple[Encoded, np.ndarray]:
        """All labels in order; none for a document of one token, or without a token to learn."""
        parts = [self.parts[first] for first in sorted(self.parts)]
        if not parts:
            return codec.encode(torch.empty(0, width), self.seeds[:0]), np.empty(0, np.float16)
        return join([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


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
