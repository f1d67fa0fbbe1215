"""Losses of several teachers, whose labels `labels.mix` keeps apart: section 5.2 of the survey (arXiv 2006.05525)."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm, LossTerm


class LearnedWeightsTerm(FeatureTerm):
    """AMTML-KD: a share of each teacher for each sample, learnt from what the student makes of it (row M10)."""

    home: ClassVar[str] = "kdcore.losses.teachers.learned_weights:LearnedWeights"
    paired: ClassVar[bool] = False
    type: Literal["amtml"] = "amtml"
    temperature: float = Field(default=4.0, gt=0, description="of all distributions; the loss is times its square")
    truth: float = Field(
        default=1.0,
        gt=0,
        description="of what moves the shares: the weighted teachers' cross-entropy to the class",
    )

    @property
    def teacher_paths(self) -> tuple[str, ...]:
        """None: it hears distributions."""
        return ()


class GradientSpaceTerm(LossTerm):
    """AE-KD: the shares of teachers whose gradients together are shortest (rows F22, M21)."""

    home: ClassVar[str] = "kdcore.losses.teachers.gradient_space:GradientSpace"
    type: Literal["ae_kd"] = "ae_kd"
    temperature: float = Field(default=4.0, gt=0, description="of all distributions; the loss is times its square")
    tolerance: float = Field(
        default=0.6, gt=0, le=1, description="the paper's C, the most that one teacher can have; 1: no bound"
    )


class FEEDTerm(FeatureTerm):
    """FEED: features through layers of the student's own, both brought to length one (row M6)."""

    home: ClassVar[str] = "kdcore.losses.teachers.feed:FEED"
    type: Literal["feed"] = "feed"
    layers: int = Field(default=3, ge=1, description="3 x 3 convolutions from the student's features to the teacher's")


class CommonSpaceTerm(FeatureTerm):
    """Amalgamation: features of student and teachers are to agree in a space of their own (rows F8, M8)."""

    home: ClassVar[str] = "kdcore.losses.teachers.common_space:CommonSpace"
    type: Literal["common_space"] = "common_space"
    dimension: int = Field(default=128, ge=1, description="channels of the space")
    reconstruction: float = Field(
        default=1.0, ge=0, description="weight of the teachers' features, made again from the space"
    )


TeachersTerm = LearnedWeightsTerm | GradientSpaceTerm | FEEDTerm | CommonSpaceTerm
