"""An endpoint's answers as rows of a store: the most probable tokens of each label, several requests under way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.labelling.replica.answers import Document, TextRows, naming
from kdcore.config.models import TeacherEndpointConfig
from kdcore.data.document import Sample, SampleRef
from kdcore.data.encoding import LabelledWindow
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source
from kdcore.errors import LabelError
from kdcore.labels import Codec
from kdcore.labels.feature import ShapedLayers
from kdcore.labels.topk import TopKCodec
from kdcore.teachers.endpoint import EndpointTeacher, Entries

__all__ = ["EndpointAnswers", "EndpointBatch"]

_MOST_PROBED = 2048


@dataclass(frozen=True)
class EndpointBatch:
    """Log-probabilities [N, k] of the k most probable tokens of N labels, and their seeds uint64 [N], for a probe."""

    log_probs: np.ndarray
    seeds: np.ndarray


@dataclass(frozen=True)
class EndpointAnswers(TextRows[EndpointTeacher, TeacherEndpointConfig]):
    """Of a teacher behind an endpoint."""

    k: int
    bits: int

    def layers(self, source: Source, refs: Sequence[SampleRef]) -> ShapedLayers:
        """No features."""
        return ()

    def probe(self, name: str, sample: Sample) -> Iterator[EndpointBatch]:
        """The answers to one document."""
        document = self._document(name, sample_key(sample), 1, sample)
        for (_, part), (_, log_probs, _) in self._answers([document], 1):
            yield EndpointBatch(log_probs[part.rows, : self.k], document.seeds[part.labels])

    def learn_on(self, probe: Iterable[EndpointBatch]) -> Callable[[], tuple[Codec, Callable[[], dict[str, Any]]]]:
        """Nothing is learnt; what the labels keep of the teacher's mass is measured on a part of the probe."""

        def learn() -> tuple[Codec, Callable[[], dict[str, Any]]]:
            codec = self.teacher.codec(self.k, self.bits)
            return codec, lambda: _figures(codec, probe)

        return learn

    def _fill(self, unit: str, documents: Sequence[Document], codec: Codec, batch_divisor: int) -> None:
        assert isinstance(codec, TopKCodec)
        for (document, part), (ids, log_probs, hard) in self._answers(documents, batch_divisor):
            with naming(unit, document, part.labels):
                encoded = codec.encode_entries(ids[part.rows, : codec.k], log_probs[part.rows, : codec.k])
            document.put(part.labels, encoded, hard[part.rows])

    def _answers(
        self, documents: Sequence[Document], batch_divisor: int
    ) -> Iterator[tuple[tuple[Document, LabelledWindow], Entries]]:
        """Each window's answers, in order. The token after it is sent along, so that its last label is answered."""
        work = self._windows(documents)
        prompts = [document.text.tokens[part.window.start : part.window.stop + 1] for document, part in work]
        with ThreadPoolExecutor(max(1, self.config.concurrency // batch_divisor)) as threads:
            yield from zip(work, threads.map(self.teacher.entries, prompts), strict=True)


def _figures(codec: TopKCodec, probe: Iterable[EndpointBatch]) -> dict[str, Any]:
    """What of a fidelity report needs no whole distribution."""
    parts: list[np.ndarray] = []
    for batch in probe:
        parts.append(np.exp(batch.log_probs.astype(np.float64)).sum(axis=1))
        if sum(map(len, parts)) >= _MOST_PROBED:
            break
    if not sum(map(len, parts)):
        raise LabelError("a label store needs labels, but every document probed has one token or none; see `data`")
    mass = np.concatenate(parts)
    size = codec.bytes_per_label()
    kept = {"entries": float(codec.k), "mass_kept": float(np.minimum(mass, 1.0).mean())}
    return {"bytes_per_label": {"total": size}, "labels": len(mass), **kept}
