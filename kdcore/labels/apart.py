"""What several teachers say of the same positions, each by itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcore.labels.tensors import OfTensors

if TYPE_CHECKING:
    from kdcore.labels.soft_labels import Index, SoftLabels

__all__ = ["ApartLabels"]


@dataclass(frozen=True)
class ApartLabels(OfTensors):
    """The labels `parts` of M teachers for the same N positions, of any kind each."""

    parts: "tuple[SoftLabels, ...]"

    @property
    def num_labels(self) -> int:
        """N."""
        return self.parts[0].num_labels

    @property
    def num_classes(self) -> int:
        """The most that one of them has; 0 where all are features."""
        return max(part.num_classes for part in self.parts)

    def index(self, index: "Index") -> "ApartLabels":
        """The labels at `index`, of every teacher."""
        return ApartLabels(tuple(part.index(index) for part in self.parts))  # pyright: ignore[reportArgumentType]
