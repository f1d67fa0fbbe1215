"""What every way to make samples shares."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from kdcore.config.base import IsPath, Settings


class SynthesisBase(Settings):
    """How many samples are made, in which pieces, and from which seed.

    A unit is what one worker makes in one go; its samples depend on nothing but seed, generation and its number.
    """

    kind: ClassVar[str] = "image"
    gathering: ClassVar[frozenset[str]] = frozenset()
    """Settings that decide what is kept of the units, and not what is in them."""

    samples: int = Field(ge=1, description="how many are made in each generation, before any is filtered out")
    unit_samples: int = Field(default=256, ge=1, description="samples of one unit of work, which is lost as a whole")
    seed: int = Field(default=0, ge=0, description="of everything that is drawn")
    generations: int = Field(
        default=1, ge=1, description="times that samples are made; where a student takes part, it learns in between"
    )
    student: Annotated[str | None, IsPath()] = Field(
        default=None, description="an exported student that samples are to teach; later generations take the last one's"
    )

    @property
    def needs_student(self) -> bool:
        """Whether samples are made against a student, so that one is trained between generations."""
        return False

    @model_validator(mode="after")
    def _student_is_asked(self) -> "SynthesisBase":
        if self.student is not None and not self.needs_student:
            raise ValueError(
                f"student '{self.student}' is one that samples are made to teach, and nothing here asks it: set "
                "adversarial above 0 (of texts: weak_spots), or leave student out"
            )
        return self
