"""The losses that a recipe composes by name: `training.losses: [{type: kl, ...}, {type: crd, at: layer3, ...}]`.

One settings class a method, in the file of its family; it names the module that computes it.
"""

from typing import Annotated

from pydantic import Field

from kdcore.config.losses.attention import AttentionTerm
from kdcore.config.losses.base import FeatureTerm, LossTerm
from kdcore.config.losses.feature import FeatureLossTerm
from kdcore.config.losses.own import OwnTerm
from kdcore.config.losses.relation import RelationTerm
from kdcore.config.losses.response import ResponseTerm
from kdcore.config.losses.teachers import TeachersTerm
from kdcore.config.losses.transformer import TransformerTerm

__all__ = ["AnyLossTerm", "FeatureTerm", "LossTerm"]

AnyLossTerm = Annotated[
    ResponseTerm | FeatureLossTerm | RelationTerm | AttentionTerm | TransformerTerm | TeachersTerm | OwnTerm,
    Field(discriminator="type"),
]
"""Any entry of `training.losses`, told by its `type`."""
