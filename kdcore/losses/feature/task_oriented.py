"""Task-oriented distillation: features are compared after they were made to serve the task, by auxiliary classifiers.

Zhang et al., "Task-Oriented Feature Distillation" (NeurIPS 2020), after the authors' code. Their branches go down to
the last stage's size and the teacher's are trained with it; here a branch is one separable convolution, and the
teacher's learn along on its features. Resizing layers are kept orthogonal.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.feature import TaskOrientedTerm
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import ChannelNorm, project

__all__ = ["TaskOriented", "orthogonal_penalty"]


def orthogonal_penalty(weight: Tensor) -> Tensor:
    """||W W^T - I|| + ||W^T W - I|| of a matrix, Frobenius norms."""
    weight = wide(weight)
    products = (weight @ weight.T, weight.T @ weight)
    gaps = [one - torch.eye(len(one), dtype=one.dtype, device=one.device) for one in products]
    return torch.linalg.vector_norm(gaps[0]) + torch.linalg.vector_norm(gaps[1])


def _branch(channels: int) -> nn.Module:
    """Maps of C channels to a vector of C: a separable convolution of stride two, and the mean over places."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        ChannelNorm(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class TaskOriented(MapMethod[TaskOrientedTerm]):
    """For each pair of layers: two branches, their classifiers, and a resizing layer between them."""

    needs_one_class: ClassVar[bool] = True

    def __init__(self, term: TaskOrientedTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        classes = shapes.num_classes
        self.ours = self.for_pairs(shapes, lambda ours, theirs: _branch(ours[0]))
        self.theirs = self.for_pairs(shapes, lambda ours, theirs: _branch(theirs[0]))
        self.our_heads = self.for_pairs(shapes, lambda ours, theirs: nn.Linear(ours[0], classes))
        self.their_heads = self.for_pairs(shapes, lambda ours, theirs: nn.Linear(theirs[0], classes))
        self.links = self.for_pairs(shapes, lambda ours, theirs: nn.Linear(ours[0], theirs[0], bias=False))

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod; the temperature rises over the run from one by `heat`."""
        ours, theirs = project(self.ours[number], student), project(self.theirs[number], teacher)
        our_logits, their_logits = project(self.our_heads[number], ours), project(self.their_heads[number], theirs)
        temperature = 1 + self.term.heat * inputs.progress
        soft = (their_logits.detach() / temperature).softmax(1)
        gap = project(self.links[number], ours) - theirs.detach()
        return (
            functional.cross_entropy(our_logits, inputs.targets)
            + functional.cross_entropy(their_logits, inputs.targets)
            + functional.cross_entropy(our_logits / temperature, soft)
            + self.term.alpha * torch.linalg.vector_norm(gap)
            + self.term.beta * orthogonal_penalty(self.links[number].weight)  # pyright: ignore[reportArgumentType]
        )
