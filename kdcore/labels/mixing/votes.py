"""One class by the votes of all teachers, with noise: what is said of a sample hardly hangs on any one teacher.

PATE: each teacher votes for its best class, noise is added to the number of votes of every class, and that with most
is the label. Laplace noise: LNMax (Papernot et al. 2017, arXiv 1610.05755); Gaussian noise: GNMax (Papernot et al.
2018, arXiv 1802.08908). Where the teachers were trained on data that no two of them share, a record is in one vote, and
`epsilon` says what all labels together may tell of it.
"""

from collections.abc import Sequence
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from kdcore.config.mix import VotesConfig
from kdcore.errors import LabelError, missing_extra
from kdcore.labels.mixing.cells import check_alike
from kdcore.labels.sampling import uniforms
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels, best_class

__all__ = ["epsilon", "votes"]


def votes(labels: Sequence[SoftLabels], config: VotesConfig, seeds: np.ndarray) -> SparseLabels:
    """The class with the most votes of M teachers and noise, of each of N labels, with all the weight.

    `seeds` uint64 [N] decide the noise, so that asking again tells nothing new. LabelError for drawn labels.
    """
    check_alike(labels, "votes")
    if not all(isinstance(label, DenseLabels | TopKLabels) for label in labels):
        raise LabelError("a vote is for a teacher's best class, which labels of codec threshold or sampled do not tell")
    num_labels, num_classes = labels[0].num_labels, labels[0].num_classes
    counts = torch.zeros(num_labels, num_classes, dtype=torch.float64)
    for label in labels:
        counts.scatter_add_(1, best_class(label)[:, None].cpu(), torch.ones(num_labels, 1, dtype=torch.float64))
    winners = (counts + _noise(config, uniforms(seeds, num_classes))).argmax(1)
    return SparseLabels(winners, torch.ones(num_labels), torch.arange(num_labels + 1), num_classes)


def _noise(config: VotesConfig, numbers: np.ndarray) -> Tensor:
    """Of numbers in [0, 1), multiples of 2^-53, moved by half of that so that none is 0."""
    points = torch.from_numpy(numbers + 2.0**-54).clamp(max=1 - 2.0**-53)
    if config.noise == "gaussian":
        return config.scale * torch.special.ndtri(points)
    off = points - 0.5
    return -config.scale * off.sign() * torch.log1p(-2 * off.abs())


def epsilon(config: VotesConfig, num_labels: int) -> float:
    """What `num_labels` noisy votes cost, with `config.delta`, whatever the teachers say (no bound that hangs on data).

    One teacher moves a vote from one class to another: the counts change by 2 in sum, by sqrt(2) in length. Composition
    is by dp-accounting: Renyi for Gaussian noise, privacy losses for Laplace noise. MissingExtra without it.
    """
    try:
        events, renyi, losses = (import_module(f"dp_accounting{part}") for part in ("", ".rdp", ".pld"))
    except ImportError:
        raise missing_extra(
            "dp-accounting", "privacy", "labels.mix.rule 'votes', to say what its labels give away,"
        ) from None
    gaussian = config.noise == "gaussian"
    accountant = renyi.RdpAccountant() if gaussian else losses.PLDAccountant()
    event = events.GaussianDpEvent(config.scale / 2**0.5) if gaussian else events.LaplaceDpEvent(config.scale / 2)
    accountant.compose(event, num_labels)
    return float(accountant.get_epsilon(config.delta))
