"""COS-NCE: hidden states at the angle of the teacher's of the same text, and not of those of other texts.

Fu et al., "LRC-BERT: Latent-representation Contrastive Knowledge Distillation for Natural Language Understanding"
(arXiv 2012.07335), after public code; the other texts are those of the batch. Its gradient perturbation is not there.
"""

import torch
from torch import Tensor

from kdcore.config.losses.transformer import ContrastTerm
from kdcore.losses.numerics import unit
from kdcore.losses.transformer.hidden import HiddenMethod

__all__ = ["Contrast", "cos_nce"]


def cos_nce(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """1 + g_ii - mean_j g_ij / 2 over the other samples j, the mean over samples i; of a batch of one, 1 + g_ii.

    g_ij = 1 - cos(s_i, t_j), the mean over the tokens, by their place, that both samples have. States [B, L, D].
    """
    cosines = torch.einsum("ild,jld->ijl", unit(student), unit(teacher))
    both = torch.ones_like(cosines) if mask is None else (mask[:, None] & mask[None]).to(cosines.dtype)
    distance = 1 - (cosines * both).sum(-1) / both.sum(-1).clamp(min=1.0)
    own = distance.diagonal()
    rest = (distance.sum(1) - own) / max(len(own) - 1, 1)
    return (1 + own - rest / 2).mean()


class Contrast(HiddenMethod[ContrastTerm]):
    """Of the batch as a whole."""

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """See HiddenMethod."""
        return cos_nce(student, teacher, mask)
