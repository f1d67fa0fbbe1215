"""What a loss of the library is given, and what it gives back.

A file of `response/`, `feature/`, `relation/`, `attention/` or `transformer/` has one method: a pure function of
tensors as the paper has it, and the Method that a recipe names, which owns what is learnt beside the student
(projectors, memories).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, TypeVar

from torch import Tensor, nn

from kdcore.config.loss import LabelKind
from kdcore.config.losses.base import FeatureTerm, LossTerm
from kdcore.errors import ConfigError
from kdcore.labels.moments import LayerMoments
from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.projectors import require_maps

__all__ = ["Answer", "FeatureMethod", "LossInputs", "MapMethod", "Method", "Shape", "Shapes"]

TermT = TypeVar("TermT", bound=LossTerm)
FeatureTermT = TypeVar("FeatureTermT", bound=FeatureTerm)
Shape = tuple[int, ...]
"""Of features, without the batch."""


@dataclass(frozen=True)
class Answer:
    """Of N samples what a teacher says: logits float [N, C] or None, features [N, ...] by module path, labels or None.

    `each` is what several say, one by one; empty of one teacher.
    """

    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    labels: SoftLabels | None = None
    each: "tuple[Answer, ...]" = ()


@dataclass(frozen=True)
class Shapes:
    """What a method is built for: the shapes of features by module path, without the batch, such as (C, H, W)."""

    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape]
    num_classes: int
    num_samples: int
    """Of the training set: the rows of a memory."""
    student_model: nn.Module | None = None
    teacher_model: nn.Module | None = None
    """None where the teacher's labels and features come from a store."""
    each: tuple[Mapping[str, Shape], ...] = ()
    """The shapes of several teachers' features, one by one; empty of one teacher."""
    of_first_tokens: bool = False
    """Whether the teacher's are vectors where its layers give tokens, as a store of texts has them."""

    moments: tuple[LayerMoments, ...] = ()
    """What the store of each teacher says of its features' mean and spread; empty without stores."""

    @property
    def teachers(self) -> tuple[Mapping[str, Shape], ...]:
        """Of every teacher."""
        return self.each or (self.teacher,)

    def hearing(self, number: int) -> "Shapes":
        """Of one of several teachers; ConfigError where there is none of this number."""
        _require_teacher(number, len(self.each))
        return replace(self, teacher=self.each[number], each=(), moments=self.moments[number : number + 1])


@dataclass(frozen=True)
class LossInputs:
    """One micro-batch of B samples, as both networks see it. Of the teacher nothing has a gradient.

    `student_logits` [B, C] and `teacher_logits` [B, C] (logits or log-probabilities; None without a teacher),
    `targets` int64 [B], features [B, ...] by module path, and `indices` int64 [B], the numbers of the samples in the
    training set. `progress` is the share of the steps that are done, in [0, 1). The networks are there for methods that
    need another pass over `pixels` [B, ...]; the teacher's only where it is live. `mask` bool [B, L] is true for tokens
    and false for padding, None where there is none. `labels` are what a store has of the teacher's logits, which are
    None where it does not have all classes. Of mixed pictures `shares` float32 [B] are of the class in `targets`, the
    rest of that in `partner_targets` int64 [B]; None where nothing is mixed.
    """

    student_logits: Tensor
    teacher_logits: Tensor | None
    targets: Tensor
    student: Mapping[str, Tensor] = field(default_factory=dict)
    teacher: Mapping[str, Tensor] = field(default_factory=dict)
    indices: Tensor | None = None
    progress: float = 0.0
    pixels: Tensor | None = None
    mask: Tensor | None = None
    student_model: nn.Module | None = None
    teacher_model: nn.Module | None = None
    labels: SoftLabels | None = None
    partner_targets: Tensor | None = None
    shares: Tensor | None = None
    each: tuple[Answer, ...] = ()
    """What several teachers say, one by one; empty of one teacher."""

    @property
    def teachers(self) -> tuple[Answer, ...]:
        """What every teacher says."""
        return self.each or (Answer(self.teacher_logits, self.teacher, self.labels),)

    def hearing(self, number: int) -> "LossInputs":
        """The same with one of several teachers alone."""
        one = self.each[number]
        return replace(self, teacher_logits=one.logits, teacher=one.features, labels=one.labels, each=())

    def mask_of(self, features: Tensor) -> Tensor | None:
        """The mask of tokens [B, L, D], None of other features; ConfigError for tokens that are not the inputs'."""
        if features.ndim != 3 or self.mask is None:
            return None
        if features.shape[:2] != self.mask.shape:
            raise ConfigError(
                f"which tokens are padding is known of the inputs, {list(self.mask.shape)}, and a tapped layer gives "
                f"{list(features.shape)}: likely the network joins or adds tokens before it; tap another layer"
            )
        return self.mask


def _require_teacher(number: int, count: int) -> None:
    if number >= count:
        raise ConfigError(
            f"`teacher` is the number of one of the stores of labels.mix with rule apart, from 0: got {number}, and "
            f"there are {count} such stores"
        )


class Method(nn.Module, ABC, Generic[TermT]):
    """One loss, built from its settings and the shapes of what it will see.

    `forward` returns a scalar: the mean over the samples of the micro-batch, or the paper's value for losses of the
    batch as a whole. What is made of it over micro-batches and ranks is the composition's affair.

    Of a buffer that `memories_of` names `forward` may change the rows of its own `indices`; after a step every rank has
    the rows of all. Of other buffers all ranks have the first one's after a step. A step that is refused changes none.
    """

    needs_teacher_logits: ClassVar[bool] = False
    hears_all: ClassVar[bool] = False
    """Whether it looks at each of several teachers, `inputs.teachers`."""
    needs_input_gradient: ClassVar[bool] = False
    """Whether `pixels` must require a gradient, for losses of a network's Jacobian."""
    needs_live_teacher: ClassVar[bool] = False
    needs_pixels: ClassVar[bool] = False
    """Whether samples must be images, because it looks at `pixels`."""
    needs_one_class: ClassVar[bool] = False
    """Whether it reads `targets` as the one class of a sample, which a mixed picture does not have."""
    wants_autocast: ClassVar[bool] = False
    """Whether it runs under autocast where the student does, because it runs the student again; a user's own always
    does. Others bring features to the type of what they own (`projectors.project`) and compute in `numerics.wide`."""

    def __init__(self, term: TermT, shapes: Shapes) -> None:
        super().__init__()
        self.term = term

    @classmethod
    def takes_labels(cls, term: TermT, kind: LabelKind) -> bool:
        """Whether stored `labels` of this kind, which name few classes, do where there are no `teacher_logits`."""
        return False

    @classmethod
    def needs_raw_logits(cls, term: TermT) -> bool:
        """Whether `teacher_logits` must be the network's own: log-probabilities, a shift of them, are another thing."""
        return False

    @classmethod
    def memories_of(cls, term: TermT) -> tuple[str, ...]:
        """Names of buffers with a row for each of `num_samples`, which mixed pictures have no row of."""
        return ()

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of one micro-batch, a scalar in float32 or float64."""


class FeatureMethod(Method[FeatureTermT]):
    """A loss that is a sum over pairs of layers, the n-th of `at` with the n-th of `teacher_at`."""

    def forward(self, inputs: LossInputs) -> Tensor:
        """The sum over the pairs."""
        pairs = zip(self.term.at, self.term.teacher_paths, strict=True)
        losses = [
            self.pair(number, inputs.student[ours], inputs.teacher[theirs], inputs)
            for number, (ours, theirs) in enumerate(pairs)
        ]
        return sum(losses[1:], losses[0])

    def for_pairs(self, shapes: Shapes, make: Callable[[Shape, Shape], nn.Module]) -> nn.ModuleList:
        """A module for each pair of layers, made from the shapes of the student's and of the teacher's features."""
        pairs = zip(self.term.at, self.term.teacher_paths, strict=True)
        return nn.ModuleList(make(shapes.student[ours], shapes.teacher[theirs]) for ours, theirs in pairs)

    @abstractmethod
    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """The loss of one pair of layers, a scalar."""


class MapMethod(FeatureMethod[FeatureTermT]):
    """A FeatureMethod of feature maps alone: ConfigError where a layer gives something else."""

    def __init__(self, term: FeatureTermT, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        require_maps(
            *(shapes.student[path] for path in term.at), *(shapes.teacher[path] for path in term.teacher_paths)
        )
