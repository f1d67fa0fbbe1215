"""Attention-based layer projection (ALP): no layer of the teacher is skipped.

Passban et al., "ALP-KD: Attention-Based Layer Projection for Knowledge Distillation" (arXiv 2012.14022), after public
code; other public code divides the products by the root of the width. One linear map brings the teacher's states to the
student's width where they differ.
"""

import torch
from torch import Tensor

from kdcore.config.losses.transformer import LayerProjectionTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import project, vector_projector
from kdcore.losses.tokens import check_tokens, sequences, token_mean

__all__ = ["LayerProjection", "layer_projection"]


def layer_projection(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_d (h - sum_i e_i g_i)^2 of each token [B, L], e the softmax over the teacher's N layers of h . g_i.

    Student states h [B, L, D], teacher states g [N, B, L, D].
    """
    shares = torch.einsum("bld,nbld->nbl", student, teacher).softmax(0)
    return (student - torch.einsum("nbl,nbld->bld", shares, teacher)).square().mean(-1)


class LayerProjection(Method[LayerProjectionTerm]):
    """Sum over the student's layers, each against all of `teacher_at`."""

    def __init__(self, term: LayerProjectionTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        if term.tokens == "all":
            check_tokens(
                [*(shapes.student[path] for path in term.at), *(shapes.teacher[path] for path in term.teacher_paths)]
            )
        ours = {shapes.student[path][-1] for path in term.at}
        theirs = {shapes.teacher[path][-1] for path in term.teacher_paths}
        if len(ours) > 1 or len(theirs) > 1:
            raise ConfigError(
                f"alp mixes layers of one width, got widths {sorted(ours)} in `at` and {sorted(theirs)} in "
                "`teacher_at`: name hidden states of transformer layers"
            )
        self.projector = vector_projector((theirs.pop(),), (ours.pop(),))

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        first = self.term.tokens == "first"
        teacher = torch.stack([sequences(wide(inputs.teacher[path])) for path in self.term.teacher_paths])
        teacher = project(self.projector, teacher[:, :, :1] if first else teacher)
        losses = []
        for path in self.term.at:
            student = sequences(wide(inputs.student[path]))
            distance = layer_projection(student[:, :1] if first else student, teacher)
            losses.append(token_mean(distance, None if distance.shape[1] == 1 else inputs.mask))
        return sum(losses[1:], losses[0])
