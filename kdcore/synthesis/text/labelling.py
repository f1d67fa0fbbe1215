"""The labels of texts that are being written: what the teacher said, at temperature 1, when it drew the next token."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from kdcore.labels import Codec, Encoded, cut, join, label_seeds
from kdcore.labels.counts import CountsCodec
from kdcore.labels.learn import ProbeBatch
from kdcore.synthesis.text.beginnings import Beginning
from kdcore.synthesis.text.decode import Step

__all__ = ["LabelTaker", "probed"]

# Of logits that wait to be encoded together: a step alone is too little work for the calls that it takes.
_WAITING_ELEMENTS = 1 << 22


class LabelTaker:
    """Encodes the labels of texts step by step; `seed` is the codec's.

    Label j of a text is the distribution after its first j + 1 tokens, and its seed that of the text's key. With
    `written_alone` there are none of the prompts' tokens; `first` int [R] is the first label of each text.
    """

    def __init__(
        self, codec: Codec, beginnings: Sequence[Beginning], longest: int, seed: int, written_alone: bool = False
    ) -> None:
        self._codec = codec
        self.first = _first_labels(beginnings, written_alone)
        self._seeds = np.stack([label_seeds(each.key, longest, seed) for each in beginnings])
        self._waiting: list[Step] = []
        self._elements = 0
        self._labels: list[list[Encoded]] = [[] for _ in self._seeds]
        self._log_probs: list[list[np.ndarray]] = [[] for _ in self._seeds]

    def take(self, step: Step) -> None:
        """Take the labels of a step. LabelError for logits that are not finite."""
        step = _labelled(step, self.first)
        self._waiting.append(step)
        self._elements += step.logits.numel()
        if self._elements >= _WAITING_ELEMENTS:
            self._encode()

    def rows(self, tokens: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Of each text, the codec's columns, and the log-probability of each labelled next token, float16 [N].

        `tokens` int64 [R, L] of which `lengths` int64 [R] are written, all of them by steps that were taken.
        """
        self._encode()
        places = zip(tokens, self.first.tolist(), lengths.tolist(), strict=True)
        targets = [row[first + 1 : length] for row, first, length in places]
        columns = self._codec.pack([join(parts) for parts in self._labels], targets)
        for own, log_probs in zip(columns, self._log_probs, strict=True):
            yield own, np.concatenate(log_probs)

    def _encode(self) -> None:
        """Encode what waits; of one text in the order of its tokens."""
        if not self._waiting:
            return
        rows, positions, targets = (
            np.concatenate([getattr(step, name) for step in self._waiting]) for name in ("rows", "positions", "next")
        )
        order = np.lexsort((positions, rows))
        logits = torch.cat([step.logits for step in self._waiting])
        logits = logits[torch.from_numpy(order).to(logits.device)]
        encoded, log_probs = self._encoded(logits, self._seeds[rows[order], positions[order]], targets[order])
        own, counts = np.unique(rows, return_counts=True)
        pieces = zip(own.tolist(), cut(encoded, counts), np.split(log_probs, np.cumsum(counts)[:-1]), strict=True)
        for row, labels, likely in pieces:
            self._labels[row].append(labels)
            self._log_probs[row].append(likely)
        self._waiting, self._elements = [], 0

    def _encoded(self, logits: torch.Tensor, seeds: np.ndarray, targets: np.ndarray) -> tuple[Encoded, np.ndarray]:
        if isinstance(self._codec, CountsCodec):
            encoded, normalisers = self._codec.draw(logits, seeds)
        else:
            encoded = self._codec.encode(logits, seeds)
            normalisers = logits.float().logsumexp(dim=1).cpu().numpy()
        hard = logits.gather(1, torch.from_numpy(targets).to(logits.device)[:, None]).squeeze(1)
        return encoded, (hard.double().cpu().numpy() - normalisers).astype(np.float16)


def probed(
    steps: Iterable[Step], beginnings: Sequence[Beginning], longest: int, seed: int, written_alone: bool = False
) -> Iterator[ProbeBatch]:
    """What a codec learns on: the same logits, hard labels and seeds, before there is a codec."""
    seeds = np.stack([label_seeds(each.key, longest, seed) for each in beginnings])
    first = _first_labels(beginnings, written_alone)
    for step in (_labelled(step, first) for step in steps):
        if len(step.rows):
            yield ProbeBatch(step.logits.float().cpu(), step.next, seeds[step.rows, step.positions])


def _first_labels(beginnings: Sequence[Beginning], written_alone: bool) -> np.ndarray:
    """The first label that is taken of each text, int64 [R]."""
    return np.array([len(each.tokens) - 1 if written_alone else 0 for each in beginnings], np.int64)


def _labelled(step: Step, first: np.ndarray) -> Step:
    """The texts of a step that are past their first label."""
    taken = step.positions >= first[step.rows]
    if taken.all():
        return step
    logits = step.logits[torch.from_numpy(taken).to(step.logits.device)]
    return Step(step.rows[taken], step.positions[taken], logits, step.next[taken])
