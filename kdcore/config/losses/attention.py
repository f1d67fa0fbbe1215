"""Losses of section 5.5 of the survey (arXiv 2006.05525): what a network's output depends on in its input."""

from typing import ClassVar, Literal

from kdcore.config.losses.base import LossTerm


class JacobianTerm(LossTerm):
    """Gradients of the teacher's best logit by the pixels (row AT2)."""

    home: ClassVar[str] = "kdcore.losses.attention.jacobian:JacobianMatching"
    type: Literal["jacobian"] = "jacobian"


class GradientAttentionTerm(LossTerm):
    """Gradients of the cross-entropy by the pixels."""

    home: ClassVar[str] = "kdcore.losses.attention.gradient_attention:GradientAttention"
    type: Literal["gradient_attention"] = "gradient_attention"


AttentionTerm = JacobianTerm | GradientAttentionTerm
