"""What is minimised for each token, and what is measured beside it."""

from dataclasses import dataclass, replace

from kdcore.config.loss import LabelKind, LossConfig, Tail, loss_misfit
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels
from kdcore.losses.forms import KL, Form, form_of

__all__ = ["METRICS", "Objective", "choose", "kind_of_labels", "objective_of"]

METRICS = ("kl", "cross_entropy", "agreement", "entropy", "support_mass", "tokens")
"""By-products of every loss, as sums over tokens. `kl` is the forward KL of the cells that are compared, times the
square of the temperature; `agreement` counts tokens whose best class is the teacher's; `entropy` (nats) is the
student's; `support_mass` is the student's mass on the classes that a label names."""

_KINDS: dict[type, LabelKind] = {SparseLabels: "weights", TopKLabels: "topk", DenseLabels: "dense"}


def kind_of_labels(labels: SoftLabels) -> LabelKind | None:
    """How labels say a distribution; None for features, which say none."""
    return _KINDS.get(type(labels))


@dataclass(frozen=True)
class Objective:
    """Of each token (1 - hard_weight) T^2 form(teacher, student) + hard_weight cross-entropy(target).

    The form compares distributions at temperature T. Labels that name few classes are compared on these and the tail as
    one cell; `tail` "label" gives the tail's mass to the target, "drop" leaves the tail out on both sides.
    """

    form: Form = KL
    hard_weight: float = 0.0
    temperature: float = 1.0
    tail: Tail | None = None

    def check(self, labels: SoftLabels) -> None:
        """Raise ConfigError where the divergence is not defined for such labels."""
        kind = _KINDS[type(labels)]
        problem = loss_misfit(kind, self.form.name, self.form.infinite, self.temperature, self.tail)
        if problem is not None:
            raise ConfigError(problem)


def objective_of(config: LossConfig, hard_weight: float) -> Objective:
    """What the settings of a loss mean; of losses across tokenizers it is the cross-entropy alone."""
    form = KL if config.is_sorted else form_of(config.type, **config.parameters)
    return Objective(form, hard_weight, config.temperature, config.tail)


def choose(
    objective: Objective | None, hard_weight: float | None = None, temperature: float | None = None
) -> Objective:
    """An objective (default: forward KL), with other numbers where they are given."""
    objective = objective or Objective()
    return replace(
        objective,
        hard_weight=objective.hard_weight if hard_weight is None else hard_weight,
        temperature=objective.temperature if temperature is None else temperature,
    )
