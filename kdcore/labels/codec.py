"""What every codec does: the lossy step per label, the lossless step per row, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from torch import Tensor

from kdcore.labels.soft_labels import SoftLabels

__all__ = ["Codec", "Encoded", "RowView", "cut", "join"]

Encoded = dict[str, np.ndarray]
"""What is kept of N labels, as flat arrays; labels are joined by joining the arrays one by one."""


@dataclass(frozen=True)
class RowView:
    """One row of a store: its codec's columns, whole, as views.

    `targets` are the hard labels, int [num_labels] (a text's next tokens); None where there are none.
    """

    columns: Mapping[str, np.ndarray]
    num_labels: int
    targets: np.ndarray | None = None


@runtime_checkable
class Codec(Protocol):
    """Turns a teacher's outputs into the list columns of a row, and those into soft labels."""

    @property
    def name(self) -> str:
        """The `type` of the codec in configs and specs."""
        ...

    @property
    def num_classes(self) -> int:
        """V; 0 where the labels are not distributions."""
        ...

    def spec(self) -> dict[str, Any]:
        """Type and parameters as JSON, with the digest of `state` where there is one."""
        ...

    def state(self) -> bytes | None:
        """What was learnt on a probe and is needed to decode (tables, scales); None when the spec says it all."""
        ...

    def fields(self) -> list[pa.Field]:
        """The Arrow fields of the columns: lists, one a row."""
        ...

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """The lossy step: outputs [N, V] float (logits; of some codecs other numbers) into N labels.

        `seeds` uint64 [N] decide every random choice (see `label_seeds`), so that a label does not depend on its
        batch. LabelError when the outputs are not finite.
        """
        ...

    def pack(self, rows: Sequence[Encoded], targets: Sequence[np.ndarray | None]) -> list[dict[str, np.ndarray]]:
        """The lossless step: the labels of each row into the values of its columns."""
        ...

    def misfit(self, lengths: Mapping[str, np.ndarray], num_labels: np.ndarray) -> int | None:
        """The first row whose columns (`lengths` int [R] each) cannot hold its labels (int [R]); None when all can."""
        ...

    def decode(self, rows: Sequence[RowView], starts: Sequence[int], stops: Sequence[int]) -> SoftLabels:
        """Labels starts[i] .. stops[i] - 1 of rows[i], one row after the other. LabelError when they are damaged."""
        ...

    def bytes_per_label(self) -> float:
        """Bytes of the columns for one label; an estimate where labels differ in size."""
        ...


def join(parts: Sequence[Encoded]) -> Encoded:
    """Labels one after the other; at least one part."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cut(encoded: Encoded, counts: np.ndarray) -> list[Encoded]:
    """Labels in pieces of `counts` int [n] labels each, in order: what `join` joins again."""
    ends, num_labels = np.cumsum(counts)[:-1], int(np.sum(counts))
    entries = encoded.get("entries")

    def bounds(name: str, values: np.ndarray) -> np.ndarray:
        if entries is None or name == "entries":
            return ends * (len(values) // max(1, num_labels))
        return np.append(0, np.cumsum(entries))[ends]  # a label has as many as it likes

    pieces = {name: np.split(values, bounds(name, values)) for name, values in encoded.items()}
    return [{name: pieces[name][number] for name in pieces} for number in range(len(counts))]
