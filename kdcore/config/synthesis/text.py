"""Texts that a language model writes by itself, to be learnt from where no text is left."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kdcore.config.base import IsPath, Settings
from kdcore.config.synthesis.base import SynthesisBase

__all__ = ["Points", "SelfGenerationConfig", "TextFilters"]

Points = tuple[tuple[int, float], ...]
"""(position, value) in rising order: straight lines between them, the first and last value beyond."""


class TextFilters(Settings):
    """Which of the texts written are left out, in this order: each is counted under the first that it fails."""

    min_tokens: int = Field(default=8, ge=1, description="a shorter text, prompt and ends counted, is left out")
    unfinished: Literal["keep", "drop"] = Field(
        default="keep", description="texts that did not end within max_tokens: `keep` their beginning, or `drop` them"
    )
    max_repetition: float = Field(
        default=0.5, gt=0, le=1, description="share of a text's runs of four tokens that occur in it before: loops"
    )
    min_perplexity: float | None = Field(default=None, ge=1, description="under the teacher; a lower one is a rut")
    max_perplexity: float | None = Field(default=None, gt=1, description="under the teacher; a higher one is noise")
    near_duplicates: float | None = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="likeness (Jaccard of shingles) to an earlier text, from which one is out",
    )
    shingle_tokens: int = Field(default=5, ge=1, description="tokens of a shingle")

    @model_validator(mode="after")
    def _some_perplexity(self) -> "TextFilters":
        low, high = self.min_perplexity, self.max_perplexity
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_perplexity must be below max_perplexity, got {low:g} and {high:g}")
        return self


class SelfGenerationConfig(SynthesisBase):
    """The teacher writes texts token by token, and labels each token as it writes it.

    Labels are what it says at temperature 1, whatever the next token is drawn at.
    """

    kind: ClassVar[str] = "text"
    gathering: ClassVar[frozenset[str]] = frozenset({"filters"})

    type: Literal["self_generation"] = "self_generation"
    max_tokens: int = Field(default=256, ge=1, description="written of each text, its prompt not counted")
    batch: int = Field(
        default=128,
        ge=1,
        description="written side by side; no draw depends on it, but sums of floating point do, in their last bits",
    )
    temperature: float | Points = Field(
        default=1.0, description="of the draw of the next token; or [[position, temperature], ...] of what is written"
    )
    top_p: float | Points = Field(
        default=1.0, description="the next token is one of the likeliest that have so much mass; or as temperature"
    )
    first_token: Literal["stratified", "sampled"] = Field(
        default="stratified", description="of a unit's texts: shared out by the teacher's odds, or drawn for each alone"
    )
    prompts: tuple[str, ...] = Field(
        default=(), description="texts begin with these, in turn; {NAME} is one of slots.NAME. None: with the BOS alone"
    )
    slots: dict[str, tuple[str, ...]] = Field(default={}, description="what may stand for each {NAME} of prompts")
    prompt_file: Annotated[str | None, IsPath()] = Field(
        default=None, description="prompts from a file, one a line, taken as they are; instead of `prompts`"
    )
    labelled: Literal["all", "written"] = Field(
        default="all", description="which tokens are labelled and trained: all, or none of the prompts'"
    )
    filters: TextFilters = Field(default=TextFilters(), description="which texts are left out")
    weak_spots: float | None = Field(
        default=None, gt=0, lt=1, description="share of a unit that is kept: where `student` differs most from teacher"
    )

    @property
    def needs_student(self) -> bool:
        """See SynthesisBase."""
        return self.weak_spots is not None

    @field_validator("temperature", "top_p")
    @classmethod
    def _rising(cls, value: float | Points) -> float | Points:
        points = value if isinstance(value, tuple) else ((0, value),)
        places = [place for place, _ in points]
        if not points or places != sorted(set(places)) or places[0] < 0:
            raise ValueError(f"positions must rise from 0 or more, got {places}")
        if min(number for _, number in points) <= 0:
            raise ValueError(f"every value must be above 0, got {[number for _, number in points]}")
        return value

    @field_validator("top_p")
    @classmethod
    def _a_share(cls, value: float | Points) -> float | Points:
        points = value if isinstance(value, tuple) else ((0, value),)
        if max(number for _, number in points) > 1:
            raise ValueError(f"top_p is a share of the mass, at most 1, got {[number for _, number in points]}")
        return value

    @field_validator("slots")
    @classmethod
    def _filled(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        empty = [name for name, words in value.items() if not words]
        if empty:
            raise ValueError(f"every slot needs something to stand for it, {empty} have nothing")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "SelfGenerationConfig":
        if self.prompt_file is not None and (self.prompts or self.slots):
            raise ValueError("prompts are given here or in a file: leave out prompt_file, or prompts and slots")
        if self.labelled == "written" and not self.prompts and self.prompt_file is None:
            raise ValueError("without prompts all tokens are written: leave `labelled` out, or add `prompts`")
        if self.slots and not self.prompts:
            raise ValueError("slots fill prompts, and there are none: add `prompts`, or leave slots out")
        if self.weak_spots is not None and self.student is None and self.generations == 1:
            raise ValueError("weak_spots are those of a student: set `student`, or generations above 1")
        return self
