"""How information flows through the layers: PKT for each, those before the last less and less.

Passalis, Tzelepi and Tefas, "Heterogeneous Knowledge Distillation Using Information Flow Modeling" (arXiv 2005.00727),
with the kernels, the divergence and the schedule of the authors' code. The auxiliary teacher of the paper, which has
the student's layers, is a run of its own.
"""

from torch import Tensor

from kdcore.config.losses.relation import InformationFlowTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.relation.geometry import distances, rows
from kdcore.losses.relation.probabilistic import neighbour_probabilities

__all__ = ["InformationFlow", "flow_divergence"]

# Neighbours with probability 0 would have an infinite divergence.
_LEAST = 1e-6


def flow_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (P_t - P_s) (log P_t - log P_s) over B^2 pairs, the cosine kernel's plus Student's t; features [B, ...]."""
    return _jeffreys(neighbour_probabilities(student), neighbour_probabilities(teacher)) + _jeffreys(
        _heavy_tailed(student), _heavy_tailed(teacher)
    )


def _heavy_tailed(features: Tensor) -> Tensor:
    """P [B, B] in proportion to 1 / (1 + distance)."""
    kernel = 1 / (1 + distances(rows(features)))
    return kernel / kernel.sum(1, keepdim=True)


def _jeffreys(ours: Tensor, theirs: Tensor) -> Tensor:
    return ((theirs - ours) * ((theirs + _LEAST).log() - (ours + _LEAST).log())).mean()


class InformationFlow(FeatureMethod[InformationFlowTerm]):
    """The last pair of layers with weight one, each before it with one that falls over the run."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        divergence = flow_divergence(student, teacher)
        return divergence if number == len(self.term.at) - 1 else self.weight_at(inputs.progress) * divergence

    def weight_at(self, progress: float) -> float:
        """Of the layers before the last, after a share `progress` of the steps."""
        return self.term.initial_weight * self.term.decay ** int(progress * self.term.decays)
