"""Several losses as one: each a Method, weighed as its settings say at this point of the run, and added up."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdcore.config.losses import LossTerm
from kdcore.config.losses.base import FeatureTerm
from kdcore.config.losses.own import OwnTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.registry import make_method, method_class
from kdcore.losses.standard import Standard

__all__ = ["LOSSES", "ComposedLoss", "paths_apart", "student_paths", "teacher_paths", "term_names"]

LOSSES = "training.losses"
"""Where a recipe lists them."""


def student_paths(terms: Sequence[LossTerm], where: str = LOSSES) -> dict[str, str]:
    """Module paths whose features the terms need of the student, each once, and which of `where` names it, in words."""
    return _named(terms, where, lambda term: (term.at, "at"))


def teacher_paths(terms: Sequence[LossTerm], where: str = LOSSES) -> dict[str, str]:
    """Module paths whose features the terms need of the teacher, each once, and which of `where` names it, in words."""
    return _named(terms, where, lambda term: (term.teacher_paths, "at" if term.teacher_at is None else "teacher_at"))


def paths_apart(terms: Sequence[LossTerm], teachers: int) -> list[dict[str, str]]:
    """As `teacher_paths`, of each of several teachers; a loss that names none hears all."""
    return [teacher_paths([term for term in terms if term.teacher in (None, number)]) for number in range(teachers)]


def _named(
    terms: Sequence[LossTerm], where: str, of: Callable[[FeatureTerm], tuple[tuple[str, ...], str]]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, term in enumerate(terms):
        paths, setting = of(term) if isinstance(term, FeatureTerm) else ((), "")
        for path in paths:
            found.setdefault(path, f"{where}.{number}, {term.label} (`{setting}`)")
    return found


def term_names(terms: Sequence[LossTerm]) -> tuple[str, ...]:
    """`loss/TYPE` of each term, a user's own by its class; `loss/TYPE_2` for the second of a type."""
    labels = [term.label for term in terms]
    before = [labels[:number].count(label) for number, label in enumerate(labels)]
    return tuple(
        f"loss/{label}_{same + 1}" if same else f"loss/{label}" for label, same in zip(labels, before, strict=True)
    )


def _standard(term: LossTerm, shapes: Shapes) -> Standard | None:
    if not isinstance(term, FeatureTerm) or not term.standardise_teacher:
        return None
    return Standard(term.teacher_paths, shapes)


class ComposedLoss(nn.Module):
    """The sum of `terms`, with the parameters and memories that their methods own.

    ConfigError where the shapes do not suit one of these losses, which a recipe lists `where`.
    """

    def __init__(self, terms: Sequence[LossTerm], shapes: Shapes, where: str = LOSSES) -> None:
        super().__init__()
        self.terms, self.names = tuple(terms), term_names(terms)
        self.methods = nn.ModuleList()
        self._standards: list[Standard | None] = []
        for number, term in enumerate(terms):
            try:
                heard = shapes if term.teacher is None else shapes.hearing(term.teacher)
                self.methods.append(make_method(term, heard))
                self._standards.append(_standard(term, heard))
            except ConfigError as error:
                raise ConfigError(f"{where}.{number}, {term.label}: {error.message}") from error

    def forward(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Of B samples B x the weighted sum, and B x the value of each term by name, detached.

        So sums over micro-batches, divided by the samples of a step, are means over them. A term whose weight is zero
        at `inputs.progress` is not computed; its value is 0. Where none is the sum is 0, and so is its gradient.
        """
        count = len(inputs.student_logits)
        total = inputs.student_logits.new_zeros((), dtype=torch.float32)
        values = {name: torch.zeros_like(total) for name in self.names}
        each = zip(self.names, self.terms, self.methods, self._standards, strict=True)
        for name, term, method, standard in each:
            weight = term.weight_at(inputs.progress)
            if weight == 0:
                continue
            # Matrix products in bfloat16 would lose a loss that is a difference of what is nearly equal.
            wanted = isinstance(term, OwnTerm) or bool(method.wants_autocast)
            kept = wanted and torch.is_autocast_enabled(total.device.type)
            with torch.autocast(total.device.type, enabled=kept):
                heard = inputs if term.teacher is None else inputs.hearing(term.teacher)
                value = method(heard if standard is None else standard(heard)) * count
            values[name] = value.detach()
            total = total + weight * value
        if not total.requires_grad:  # before any loss is warm, or of samples that none has something to say of
            total = total + 0 * inputs.student_logits.float().sum()
        return total, values

    def leaves_out(self) -> bool:
        """Whether some step may leave parameters without a gradient: the student's head, or a method's own."""
        always = [term for term in self.terms if term.weight > 0 and term.warmup == 0 and term.until == 1]
        return len(always) < len(self.terms) or all(isinstance(term, FeatureTerm) for term in always)

    def memories(self) -> list[Tensor]:
        """Buffers with a row for each sample of the training set, as methods name them."""
        both = zip(self.methods, self.terms, strict=True)
        return [method.get_buffer(name) for method, term in both for name in method_class(term).memories_of(term)]

    def other_buffers(self) -> list[Tensor]:
        """Buffers that are none."""
        memories = {id(memory) for memory in self.memories()}
        return [buffer for buffer in self.buffers() if id(buffer) not in memories]
