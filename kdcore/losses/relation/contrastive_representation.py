"""CRD: that two embeddings are of the same sample.

Tian, Krishnan and Isola, "Contrastive Representation Distillation" (arXiv 1910.10699), eq. 18 with a memory as in the
authors' code, or InfoNCE over the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kdcore.config.losses.relation import ContrastiveRepresentationTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import unit
from kdcore.losses.relation.contrast_memory import ContrastMemory
from kdcore.losses.relation.embeddings import Embeddings

__all__ = ["ContrastiveRepresentation", "info_nce", "noise_contrast"]

# As in the authors' code.
_LEAST = 1e-7


def noise_contrast(scores: Tensor, normaliser: Tensor, samples: int, temperature: float) -> Tensor:
    """-mean_B [log h_0 + sum_k log(1 - h_k)] of cosines [B, 1 + K], the first with the same sample, K with others.

    h = p / (p + K / samples) with p = exp(cosine / temperature) / normaliser.
    """
    densities = (scores / temperature).exp() / normaliser
    noise = (scores.shape[1] - 1) / samples
    both = densities + noise + _LEAST
    same = (densities[:, 0] / both[:, 0]).log()
    others = (noise / both[:, 1:]).log().sum(1)
    return -(same + others).mean()


def info_nce(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the own sample among the other network's batch, both ways, of directions [B, D]."""
    scores = student @ teacher.mT / temperature
    own = torch.arange(len(scores), device=scores.device)
    return cross_entropy(scores, own) + cross_entropy(scores.mT, own)


class ContrastiveRepresentation(FeatureMethod[ContrastiveRepresentationTerm]):
    """Sum over the pairs of layers, each with linear embeddings of both networks and, if asked, a memory of its own."""

    def __init__(self, term: ContrastiveRepresentationTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.embeddings = Embeddings(term, shapes, term.dimension)
        memories = len(term.at) if term.contrast == "memory" else 0
        self.memories = nn.ModuleList(
            ContrastMemory(shapes.num_samples, term.dimension, term.momentum) for _ in range(memories)
        )

    @classmethod
    def memories_of(cls, term: ContrastiveRepresentationTerm) -> tuple[str, ...]:
        """See Method."""
        sides = [f"memories.{number}.{side}" for number in range(len(term.at)) for side in ("student", "teacher")]
        return tuple(sides) if term.contrast == "memory" else ()

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        ours, theirs = (unit(side) for side in self.embeddings(number, student, teacher))
        if self.term.contrast == "batch":
            return info_nce(ours, theirs, self.term.temperature)
        if inputs.indices is None:
            raise ConfigError("crd needs the numbers of samples for its memory, got none: set `contrast: batch`")
        memory = self.memories[number]
        assert isinstance(memory, ContrastMemory)
        return self._against(memory, ours, theirs, inputs.indices)

    def _against(self, memory: ContrastMemory, student: Tensor, teacher: Tensor, indices: Tensor) -> Tensor:
        temperature, samples = self.term.temperature, len(memory.student)
        numbers = torch.cat([indices[:, None], memory.draw(len(indices), self.term.negatives)], 1)
        scores = memory.scores(student, teacher, numbers)
        normalisers = memory.normalise(torch.stack([(side / temperature).exp().mean() for side in scores]))
        losses = [
            noise_contrast(side, normaliser, samples, temperature)
            for side, normaliser in zip(scores, normalisers, strict=True)
        ]
        memory.remember(student, teacher, indices)
        return losses[0] + losses[1]
