"""The definitions of the losses, written out densely and without regard to numerics: what the code must equal."""

import ast
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcore.labels import label_seeds
from kdcore.labels.sampling import draw_counts, uniforms
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels


def kl(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a > 0, a * (a.log() - b.log()), torch.zeros_like(a)).nan_to_num(0.0, math.inf).sum(-1)


def jsd(t: Tensor, p: Tensor, singles: int, beta: float) -> Tensor:
    if beta in (0, 1):
        return kl(p, t) if beta else kl(t, p)
    m = beta * t + (1 - beta) * p
    return beta * kl(t, m) + (1 - beta) * kl(p, m)


def adaptive(t: Tensor, p: Tensor, singles: int, head_mass: float) -> Tensor:
    shares = []
    for one, other in zip(t.tolist(), p.tolist(), strict=True):
        ordered = sorted(range(singles), key=lambda cell: -one[cell])
        head, mass = ordered[:1], one[ordered[0]]
        for cell in ordered[1:]:
            mass += one[cell]
            head += [cell] if mass <= head_mass else []
        gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
        shares.append(sum(gaps[cell] for cell in head) / max(sum(gaps), 1e-300))
    share = t.new_tensor(shares)
    return share * kl(t, p) + (1 - share) * kl(p, t)


DEFINITIONS = {
    "kl": lambda t, p, singles: kl(t, p),
    "reverse_kl": lambda t, p, singles: kl(p, t),
    "jsd": jsd,
    "skew_kl": lambda t, p, singles, alpha: kl(t, alpha * t + (1 - alpha) * p),
    "skew_reverse_kl": lambda t, p, singles, alpha: kl(p, (1 - alpha) * t + alpha * p),
    "total_variation": lambda t, p, singles: (t - p).abs().sum(-1) / 2,
    "adaptive_kl": adaptive,
}
"""Divergence [N] of distributions t and p [N, cells], the first `singles` of which are single classes."""

PARAMETERS: dict[str, list[dict[str, float]]] = {
    "kl": [{}],
    "reverse_kl": [{}],
    "jsd": [{"beta": 0.5}, {"beta": 0.1}, {"beta": 0.0}, {"beta": 1.0}],
    "skew_kl": [{"alpha": 0.1}, {"alpha": 0.7}],
    "skew_reverse_kl": [{"alpha": 0.1}, {"alpha": 0.7}],
    "total_variation": [{}],
    "adaptive_kl": [{"head_mass": 0.5}, {"head_mass": 0.9}],
}


@dataclass(frozen=True)
class Wanted:
    """A loss in words that a test can draw: see `reference`."""

    form: str = "kl"
    parameters: tuple[tuple[str, float], ...] = ()
    hard_weight: float = 0.0
    temperature: float = 1.0
    tail: str | None = None


def topk_of(teacher_logits: Tensor, k: int) -> TopKLabels:
    log_probs = teacher_logits.log_softmax(-1)
    values, ids = log_probs.topk(k, -1)
    rest = log_probs.scatter(1, ids, float("-inf"))
    return TopKLabels(ids, values, rest.logsumexp(-1), teacher_logits.shape[1])


def sparse_of(teacher_logits: Tensor, draws: int, seed: int = 0) -> SparseLabels:
    """Labels of codec `sampled`, without the codec; the weights of every third are not normalised."""
    seeds = label_seeds(seed.to_bytes(16, "little"), len(teacher_logits))
    points = np.sort(uniforms(seeds, draws), axis=1)
    drawn, _ = draw_counts(teacher_logits, points)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(drawn["entries"])]))
    weights = torch.from_numpy(drawn["counts"].astype(np.float32)) / draws
    labels = SparseLabels(torch.from_numpy(drawn["ids"]).long(), weights, offsets, teacher_logits.shape[1])
    weights[labels.label_of_entry() % 3 == 0] *= 1.5
    return labels


def reference(
    logits: Tensor, labels: SoftLabels | None, targets: Tensor, wanted: Wanted, weights: Tensor | None = None
) -> Tensor:
    """The sum over tokens of the loss of `logits` [N, V] in float64, cell by cell."""
    total = torch.zeros((), dtype=torch.float64)
    for row, (z, target) in enumerate(zip(logits.double(), targets.tolist(), strict=True)):
        hard = -z.log_softmax(0)[target]
        loss = hard
        if labels is not None:
            t, cells, singles = _cells(labels, row, target, len(z), wanted)
            p = torch.stack([(z / wanted.temperature).softmax(0)[cell].sum() for cell in cells])
            p = p / p.sum() if wanted.tail == "drop" else p
            soft = DEFINITIONS[wanted.form](t[None], p[None], singles, **dict(wanted.parameters))[0]
            loss = wanted.hard_weight * hard + (1 - wanted.hard_weight) * wanted.temperature**2 * soft
        total = total + (1.0 if weights is None else weights[row].double()) * loss
    return total


def _cells(labels: SoftLabels, row: int, target: int, outputs: int, wanted: Wanted):
    """The teacher's mass of the cells, the classes of each, and how many cells are single classes."""
    tail = 0.0
    if isinstance(labels, DenseLabels):
        ids = list(range(labels.num_classes))
        t = (labels.log_probs[row].double() / wanted.temperature).softmax(0)
        t = labels.log_probs[row].double().exp() if wanted.temperature == 1 else t
    elif isinstance(labels, TopKLabels):
        ids, t = labels.ids[row].tolist(), labels.log_probs[row].double().exp()
        tail = float(labels.tail_log_prob[row].double().exp())
    else:
        assert isinstance(labels, SparseLabels)
        entries = slice(int(labels.offsets[row]), int(labels.offsets[row + 1]))
        ids, t = labels.ids[entries].tolist(), labels.weights[entries].double()
    if wanted.tail == "drop":
        t = t ** (1 / wanted.temperature)
        return t / t.sum(), [[index] for index in ids], len(ids)
    if wanted.tail == "label":
        ids, t = (ids, t) if target in ids else ([*ids, target], torch.cat([t, t.new_zeros(1)]))
        t, tail = t + tail * (torch.tensor(ids) == target), 0.0
    cells, masses = [[index] for index in ids], t.tolist()
    rest = [index for index in range(labels.num_classes) if index not in ids]
    padding = list(range(labels.num_classes, outputs))
    for cell, mass in ((rest, tail), (padding, 0.0)):
        cells += [cell] if cell else []
        masses += [mass] if cell else []
    return torch.tensor(masses, dtype=torch.float64), cells, len(ids)


def definition_of(package: str, path: str, name: str) -> Callable[..., Any]:
    """One function or class of an installed package that needs torch alone, without the seconds of importing it all."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    nodes = ast.walk(ast.parse((Path(spec.origin).parent / path).read_text(encoding="utf-8")))
    (found,) = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
    found.decorator_list = []
    names: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional}
    exec(compile(ast.Module([found], []), path, "exec"), names)
    return names[name]
