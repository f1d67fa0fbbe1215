"""Losses of a language model's students that hear several teachers, each by itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.loss import LossConfig
from kdcore.config.losses import LossTerm
from kdcore.config.losses.response import DivergenceTerm
from kdcore.labels.apart import ApartLabels
from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.compose import term_names
from kdcore.losses.forms import form_of
from kdcore.losses.objective import METRICS, Objective
from kdcore.training.batches import TextBatch
from kdcore.training.text_loss import head_of, loss_of_hidden, student_hidden

__all__ = ["TextTerms"]


class TextTerms:
    """The weighted sum of `terms` (divergences of one teacher each, cross-entropy), per token.

    The decoder runs once and the loss from hidden states once for each term, with a product and a gradient of the head
    of its own: labels of two teachers name other classes, so that they share no cells.
    """

    def __init__(self, terms: Sequence[LossTerm]) -> None:
        self.names = term_names(terms)
        self._terms = [(term, _objective_of(term)) for term in terms]

    def loss(
        self, student: nn.Module, batch: TextBatch, settings: LossConfig, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed over the batch's tokens, and detached sums of METRICS and of each term by name.

        METRICS are the means over the teachers that are heard. A term counts as it is weighed after a share `progress`
        of the steps; it is computed even where that is nothing. Raises what `text_loss` does.
        """
        assert isinstance(batch.labels, ApartLabels)  # recipes with another rule are refused
        hidden, head = student_hidden(student, batch), head_of(student)
        losses, heard, values = [], [], {}
        for name, (term, objective) in zip(self.names, self._terms, strict=True):
            labels = _heard(term, batch.labels)
            loss, metrics = loss_of_hidden(student, hidden, head, labels, batch.targets, objective, settings)
            losses.append(term.weight_at(progress) * loss)
            values[name] = loss.detach()
            if labels is not None:
                heard.append(metrics)
        means = {name: torch.stack([metrics[name] for metrics in heard]).mean(0) for name in METRICS}
        return sum(losses[1:], losses[0]), {**means, **values}


def _heard(term: LossTerm, labels: ApartLabels) -> SoftLabels | None:
    """The labels of the teacher that a term hears; None of one that hears none."""
    return None if term.teacher is None else labels.parts[term.teacher]


def _objective_of(term: LossTerm) -> Objective:
    if not isinstance(term, DivergenceTerm):
        return Objective(hard_weight=1.0)
    kind: Any = term
    return Objective(form_of(kind.type, **term.parameters), temperature=term.temperature)
