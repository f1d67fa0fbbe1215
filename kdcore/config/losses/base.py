"""What every entry of `training.losses` has."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kdcore.config.base import Settings

Pool = Literal["mean", "first", "last"]


class LossTerm(Settings):
    """One loss of a student, its weight, and when it counts. `home` is where its Method is: `module:class`."""

    home: ClassVar[str]

    weight: float = Field(default=1.0, ge=0, description="of this loss in the sum")
    final_weight: float | None = Field(
        default=None,
        ge=0,
        description="where the weight goes, in a straight line until the last step; default: it stays",
    )
    warmup: float = Field(
        default=0.0, ge=0, le=1, description="share of the steps over which the weight rises from zero"
    )
    until: float = Field(default=1.0, gt=0, le=1, description="share of the steps after which the loss is left out")
    teacher: int | None = Field(
        default=None,
        ge=0,
        description="of labels.mix with rule apart: the one of its stores, counted from 0, that this loss hears; "
        "default: the mean of all, or each of them where the loss is one of several teachers",
    )

    @property
    def label(self) -> str:
        """What a person knows it by: its type."""
        return str(getattr(self, "type", type(self).__name__))

    def weight_at(self, progress: float) -> float:
        """The weight after a share `progress` in [0, 1) of the steps."""
        if progress >= self.until:
            return 0.0
        last = self.weight if self.final_weight is None else self.final_weight
        ramp = 1.0 if self.warmup == 0 else min(progress / self.warmup, 1.0)
        return ramp * (self.weight + (last - self.weight) * progress)


class FeatureTerm(LossTerm):
    """A loss of features at chosen places of both networks."""

    at: tuple[str, ...] = Field(
        min_length=1, description="module paths in the student, such as layer3; one, or several"
    )
    teacher_at: tuple[str, ...] | None = Field(
        default=None, description="module paths in the teacher, one for each of `at`; default: the same"
    )

    standardise_teacher: bool = Field(
        default=False,
        description="bring the teacher's features to mean 0 and deviation 1 in each channel first, by the statistics "
        "in its label store (labels.codec.type feature)",
    )

    @field_validator("at", "teacher_at", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given

    @property
    def teacher_paths(self) -> tuple[str, ...]:
        """Module paths in the teacher."""
        return self.at if self.teacher_at is None else self.teacher_at

    @model_validator(mode="after")
    def _in_pairs(self) -> "FeatureTerm":
        if self.paired and len(self.teacher_paths) != len(self.at):
            raise ValueError(
                f"`teacher_at` needs one path for each of `at`: got {len(self.teacher_paths)} for {len(self.at)}"
            )
        return self

    @model_validator(mode="after")
    def _something_to_standardise(self) -> "FeatureTerm":
        if self.standardise_teacher and not self.teacher_paths:
            raise ValueError("`standardise_teacher` is of a teacher's features, which this loss does not look at")
        return self

    paired: ClassVar[bool] = True
    """Whether the n-th layer of one network belongs to the n-th of the other; methods that weigh all pairs say no."""


class VectorTerm(FeatureTerm):
    """A loss of one vector a sample, which is made of tokens [B, L, D] by `pool`."""

    pool: Pool = Field(
        default="mean", description="what stands for tokens [B, L, D]: their mean, the first or the last; no padding"
    )


class PlacesTerm(FeatureTerm):
    """A loss that compares features place by place."""

    pool: Pool | None = Field(
        default=None, description="what stands for tokens [B, L, D], as one vector; default: each but padding counts"
    )
