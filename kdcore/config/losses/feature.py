"""Losses of features: section 2.2 of the survey (arXiv 2006.05525), and those that came later."""

from typing import ClassVar, Literal

from kdcore.config.losses.base import FeatureTerm


class AttentionTransferTerm(FeatureTerm):
    """Where activations are large (row F3)."""

    home: ClassVar[str] = "kdcore.losses.feature.attention_transfer:AttentionTransfer"
    type: Literal["attention_transfer"] = "attention_transfer"


FeatureLossTerm = AttentionTransferTerm
