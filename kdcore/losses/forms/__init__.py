"""What a teacher and a student are compared by: one divergence a file, each a pure function of cells.

A cell is one class, or a group of classes that share their mass (the tail). `measure(log_t, log_p, singles)` takes the
logarithms of the teacher's and the student's mass in C cells, [N, C], finite, of which the first `singles` are single
classes and the rest groups. It returns the divergence [N] and its slopes [N, C]: d / d ln p of each cell, the others
held. A constant multiple of p may be left out of the slopes of a student whose cells sum to one, since no logit changes
that sum.

From slopes a every form has the same gradient in the logits z. With p the softmax of z, and c(j) the cell of class j,

    d / d z_j = a_c(j) p_j / p_c(j) - p_j sum_c a_c,

which is dense only as a multiple of each group's softmax: passes over logits know nothing of forms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from kdcore.config.loss import needs_teacher_mass
from kdcore.losses.forms.adaptive import adaptive_kl
from kdcore.losses.forms.jensen_shannon import jsd
from kdcore.losses.forms.kl import kl, reverse_kl
from kdcore.losses.forms.skew import skew_kl, skew_reverse_kl
from kdcore.losses.forms.total_variation import total_variation

__all__ = ["FORMS", "KL", "LOG_ZERO", "Form", "Measure", "form_of"]

Measure = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
LOG_ZERO = -87.0
"""The logarithm of no mass at all, for the forms: e^-87 is the least that a normal float32 can hold."""

FORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
}


@dataclass(frozen=True)
class Form:
    """A divergence by name, its parameters bound."""

    name: str
    measure: Measure
    infinite: bool
    """As config.loss.needs_teacher_mass."""

    def __call__(self, log_t: Tensor, log_p: Tensor, singles: int) -> tuple[Tensor, Tensor]:
        """Divergence [N] and slopes [N, C] as above, for logarithms that may be -inf: an empty cell has no slope."""
        empty = log_p == float("-inf")
        value, slopes = self.measure(log_t.clamp(min=LOG_ZERO), log_p.masked_fill(empty, LOG_ZERO), singles)
        return value, slopes.masked_fill(empty, 0.0)


def form_of(name: str, **parameters: float) -> Form:
    """The form `name` of FORMS with its parameters, such as `form_of("jsd", beta=0.5)`."""
    return Form(name, partial(FORMS[name], **parameters), needs_teacher_mass(name, parameters))


KL = form_of("kl")
