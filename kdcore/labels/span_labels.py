"""What a teacher says of the bytes of a text, in memory: a label that any tokenizer can use."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.tensors import OfTensors

__all__ = ["SpanLabels"]


@dataclass(frozen=True)
class SpanLabels(OfTensors):
    """Of N tokens of the teacher, each the bytes `begins` .. `ends` - 1 of its text, int64 [N].

    `log_probs` float32 [N]: that this token comes next, where it begins. `boundary_log_probs` float32 [N]: that, in its
    place, one comes that begins with white space or is special, so that what was written before it is whole.
    """

    log_probs: Tensor
    boundary_log_probs: Tensor
    begins: Tensor
    ends: Tensor

    def __post_init__(self) -> None:
        shapes = {tuple(value.shape) for value in vars(self).values()}
        if len(shapes) > 1 or self.ends.ndim != 1:
            raise LabelError(f"span labels must have four values a token, [N] each, got {sorted(shapes)}")

    @property
    def num_labels(self) -> int:
        """N."""
        return self.ends.shape[0]

    @property
    def num_classes(self) -> int:
        """0: they are no distributions."""
        return 0

    def index(self, index: "slice | list[int] | Tensor") -> "SpanLabels":
        """The labels at `index`: a slice, a list of positions, or an int64 or bool tensor."""
        chosen = torch.as_tensor(index, dtype=torch.int64) if isinstance(index, list) else index
        return SpanLabels(*(value[chosen] for value in vars(self).values()))
