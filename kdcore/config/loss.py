"""What a student minimises, and which labels allow it."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from kdcore.config.base import Settings

FormName = Literal["kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation", "adaptive_kl"]
ChunkForm = Literal["kl", "reverse_kl", "total_variation"]
"""What compares the likelihoods of chunks of text."""
SortedForm = Literal["uld", "gold"]
"""What compares the most probable classes of two vocabularies."""
Tail = Literal["label", "drop"]
"""Where the mass goes that a label does not name: to the hard label's class, or out of the comparison."""
Implementation = Literal["auto", "torch", "fused", "triton"]
"""What computes the loss; auto: kernels where they can."""
ChunkTokens = Literal["auto"] | Annotated[int, Field(ge=1)]
"""Tokens whose logits exist at one time; auto: by the head's width, and what computes the loss."""
LabelKind = Literal["weights", "topk", "dense", "spans"]
"""How a label says a distribution: weighted classes, the best ones with a tail cell, all classes; or chunks of text."""
KIND_OF_CODEC: dict[str, LabelKind] = {
    "threshold": "weights",
    "sampled": "weights",
    "topk": "topk",
    "dense": "dense",
    "span": "spans",
}
"""What the labels of a codec are, by its name; features are of no kind."""
_DEFAULTS: dict[str, dict[str, float]] = {
    "jsd": {"beta": 0.5},
    "gold": {"beta": 0.5},
    "skew_kl": {"alpha": 0.1},
    "skew_reverse_kl": {"alpha": 0.1},
    "adaptive_kl": {"head_mass": 0.5},
}
_PARAMETERS = ("alpha", "beta", "head_mass")


class LossConfig(Settings):
    """(1 - hard_weight) x a divergence of teacher and student + hard_weight x cross-entropy to the hard label."""

    type: FormName | SortedForm = Field(
        default="kl",
        description="the divergence (docs/losses.md); labels that are weights (threshold, sampled): kl; uld and gold: "
        "topk labels of another tokenizer",
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="of skew_kl and skew_reverse_kl: share mixed in; default 0.1"
    )
    beta: float | None = Field(
        default=None, ge=0, le=1, description="of jsd and gold: the teacher's share; 0: kl, 1: reverse_kl; default 0.5"
    )
    head_mass: float | None = Field(
        default=None, gt=0, le=1, description="of adaptive_kl: the teacher's mass that makes the head; default 0.5"
    )
    chunk_temperature: float = Field(
        default=100.0, gt=0, description="of labels of codec span: likelihoods of chunks to the power of one over it"
    )
    merge_below: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="of codec span: chunks are joined where the teacher gives white space no more than this after one",
    )
    hard_weight: float = Field(
        default=0.0, ge=0, le=1, description="share of the cross-entropy to the hard label; the rest is the teacher's"
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="dense labels, or topk with tail: drop; the divergence is multiplied by its square",
    )
    tail: Tail | None = Field(
        default=None,
        description="of topk labels, their mass beyond the k; default: one cell; label: to the hard label; drop: left "
        "out, teacher and student renormalised on the k (biased)",
    )
    num_classes: int | None = Field(
        default=None, ge=1, description="rows of the head that are tokens, the rest is masked out; default: all (text)"
    )
    chunk_tokens: ChunkTokens = Field(
        default="auto",
        description="tokens whose logits exist at one time; auto: 1,024, or more on CUDA (docs/losses.md)",
    )
    recompute: bool | None = Field(
        default=None, description="make logits again in the backward pass: slower, less memory (text); default: no"
    )
    implementation: Implementation = Field(
        default="auto",
        description="of text; torch: chunks of logits; fused: those in kernels for CUDA (labels but dense), auto where "
        "they can; triton: tiles in kernels",
    )
    gradient_filter: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of triton, which auto then takes: leave out tiles of gradients below this share of a token's "
        "weight; 0: exact",
    )

    @property
    def is_sorted(self) -> bool:
        """Whether it compares the most probable classes of two vocabularies."""
        return self.type in get_args(SortedForm)

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of this type, with their defaults."""
        defaults = _DEFAULTS.get(self.type, {})
        given = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if value is None else value for name, value in given.items()}

    @model_validator(mode="after")
    def _parameters_of_the_type(self) -> "LossConfig":
        for name in _PARAMETERS:
            if getattr(self, name) is not None and name not in _DEFAULTS.get(self.type, {}):
                types = " or ".join(form for form, defaults in _DEFAULTS.items() if name in defaults)
                raise ValueError(f"`{name}` is a parameter of type {types}, but type is '{self.type}': remove it")
        return self

    @model_validator(mode="after")
    def _filter_of_kernels(self) -> "LossConfig":
        if self.gradient_filter and self.implementation in ("torch", "fused"):
            raise ValueError(
                f"`gradient_filter` is of implementation triton, {self.implementation} is exact: remove one of the two"
            )
        return self

    def misfit(self, codec: str) -> str | None:
        """Why labels of this codec cannot be learnt from by this loss, and what to set; None when they can."""
        return self.misfit_of(KIND_OF_CODEC[codec])

    def misfit_of(self, kind: LabelKind) -> str | None:
        """As `misfit`, of labels of this kind."""
        infinite = needs_teacher_mass(self.type, self.parameters)
        return loss_misfit(kind, self.type, infinite, self.temperature, self.tail)


def needs_teacher_mass(form: str, parameters: Mapping[str, float]) -> bool:
    """Whether a divergence is infinite where the teacher has no mass and the student has some."""
    return form in ("reverse_kl", "adaptive_kl") or parameters.get("beta") == 1


def loss_misfit(kind: LabelKind, form: str, infinite: bool, temperature: float, tail: Tail | None) -> str | None:
    """Why this divergence of labels of this kind is not defined, and what to set instead; None when it is.

    `infinite` is what `needs_teacher_mass` says.
    """
    if form in get_args(SortedForm) and (kind != "topk" or tail is not None):
        return (
            f"training.loss.type '{form}' compares the most probable classes and their tail as one cell: set "
            "labels.codec.type to topk, and leave training.loss.tail out"
        )
    if kind == "spans" and (form not in get_args(ChunkForm) or temperature != 1):
        return (
            f"labels.codec.type span has likelihoods of chunks of text, which training.loss.type '{form}' at "
            f"temperature {temperature:g} does not compare: set type to one of {', '.join(get_args(ChunkForm))}, "
            "temperature to 1, and chunk_temperature instead"
        )
    if kind == "weights" and form != "kl":
        return (
            f"training.loss.type '{form}' is not linear in the teacher, so that labels which are right in the mean "
            "(codecs threshold and sampled) would give a biased gradient: set it to kl, or labels.codec.type to topk "
            "or dense"
        )
    if tail is not None and kind != "topk":
        return f"training.loss.tail is '{tail}', but only labels.codec.type topk has a tail: leave it out"
    if tail == "label" and infinite:
        return (
            f"training.loss.type '{form}' is infinite where the teacher has no mass, which training.loss.tail 'label' "
            "makes of its tail: leave tail out, or set type to kl, jsd, skew_kl or skew_reverse_kl"
        )
    if temperature != 1 and kind != "dense" and tail != "drop":
        what = "a tail cell" if kind == "topk" else "drawn weights"
        other = ", training.loss.tail: drop (biased)" if kind == "topk" else ""
        return (
            f"training.loss.temperature is {temperature:g}, which needs every class's probability, but the labels have "
            f"{what}: set labels.codec.type: dense{other}, or the temperature to 1"
        )
    return None
