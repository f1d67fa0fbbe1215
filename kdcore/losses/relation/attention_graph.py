"""MHGD: which samples' directions in one layer attend to which in the next, in several heads.

Lee and Song, "Graph-based Knowledge Distillation by Multi-head Attention Network" (arXiv 1907.02226), as in the
authors' code for TensorFlow. There the heads are trained on the teacher in a run before; here beside the student, their
own loss added, and with a gradient for them alone.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdcore.config.losses.relation import AttentionGraphTerm
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import unit
from kdcore.losses.projectors import VectorNorm, project
from kdcore.losses.relation.layers import in_order, require_equal_channels
from kdcore.losses.relation.singular import aligned, leading

__all__ = ["AttentionGraph", "Heads", "graph_divergence"]

# As many of the student's vectors as the authors choose the nearest from.
_CHOICE = 4


def graph_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over heads of KL(softmax(tanh G_s), softmax(tanh G_t)) of a row, the mean over rows; graphs [H, B, B].

    The authors' code adds up rows.
    """
    ours, theirs = (graph.tanh().log_softmax(2) for graph in (student, teacher))
    return (ours.exp() * (ours - theirs)).sum() / max(1, ours.shape[1])


class Heads(nn.Module):
    """Attention of the vectors of one layer, [B, `after`], to those of the layer before, [B, `before`]."""

    def __init__(self, before: int, after: int, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, (before + after) // 2
        self.sender, self.receiver = (
            nn.Sequential(nn.Linear(width, inner * heads, bias=False), VectorNorm(inner * heads))
            for width in (after, before)
        )
        self.values = nn.Sequential(nn.Linear(before, inner, bias=False), VectorNorm(inner), nn.ReLU())
        self.estimate = nn.Linear(inner * heads, after)

    def graph(self, after: Tensor, before: Tensor) -> Tensor:
        """G [H, B, B], from each sample's later vector to all earlier ones."""
        sent, received = project(self.sender, after), project(self.receiver, before)
        inner = (len(after), -1, self.heads)
        return torch.einsum("idh,jdh->hij", sent.view(inner), received.view(inner))

    def frozen_graph(self, after: Tensor, before: Tensor) -> Tensor:
        """The same by running statistics, and without a gradient for the heads."""
        training = self.training
        parameters = {name: one.detach() for name, one in self.named_parameters()}
        try:
            return functional_call(self.eval(), parameters, (after, before))
        finally:
            self.train(training)

    def forward(self, after: Tensor, before: Tensor) -> Tensor:
        """See `graph`."""
        return self.graph(after, before)

    def loss(self, after: Tensor, before: Tensor) -> Tensor:
        """mean of 1 - cos of later vectors and what the heads make of the earlier ones, about half of them dropped."""
        attention = self.graph(after, before).softmax(2)
        if self.training:
            luck = torch.randn(*attention.shape[:2], 1, device=attention.device)
            attention = attention * (luck > luck.mean(0))
        gathered = torch.einsum("hij,jd->ihd", attention, project(self.values, before))
        estimate = unit(project(self.estimate, gathered.flatten(1)))
        return (1 - (estimate * after).sum(1)).mean()


class AttentionGraph(Method[AttentionGraphTerm]):
    """Heads for every two consecutive layers of the settings."""

    def __init__(self, term: AttentionGraphTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        require_equal_channels(term, shapes)
        channels = pairwise(shapes.student[path][0] for path in term.at)
        self.heads = nn.ModuleList(Heads(before, after, term.heads) for before, after in channels)

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        student, teacher = in_order(self.term, inputs)
        theirs = [leading(features, 1)[0] for features in teacher]
        ours = [aligned(leading(mine, _CHOICE)[0], other) for mine, other in zip(student, theirs, strict=True)]
        pairs = zip(pairwise(one[:, :, 0] for one in ours), pairwise(one[:, :, 0] for one in theirs), strict=True)
        losses = [self._loss(heads, *pair) for heads, pair in zip(self.heads, pairs, strict=True)]
        return sum(losses[1:], losses[0])

    def _loss(self, heads: nn.Module, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        assert isinstance(heads, Heads)
        learnt = heads.loss(teacher[1], teacher[0])
        with torch.no_grad():
            known = heads.frozen_graph(teacher[1], teacher[0])
        return graph_divergence(heads.frozen_graph(student[1], student[0]), known) + learnt
