"""What a codec loses: its labels against the whole distribution, on a probe of real rows."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.labels import (
    Codec,
    DenseLabels,
    FeatureCodec,
    FeatureLabels,
    RowView,
    SoftLabels,
    SpanCodec,
    SpanLabels,
    SparseLabels,
    TopKLabels,
)
from kdcore.labels.learn import ProbeBatch
from kdcore.losses.response.soft_targets import soft_target_loss

__all__ = ["column_bytes", "dense_weights", "fidelity"]

_REPEATS = 4
_MEASURED_LABELS = 4096
_PIECE_ELEMENTS = 1 << 23
# The student whose gradient is compared: the teacher at this temperature, as a stand-in for one half way there.
_STUDENT_TEMPERATURE = 2.0
_NO_GRADIENT = 1e-6


def fidelity(codec: Codec, probe: ProbeBatch) -> dict[str, Any]:
    """Figures over the labels of `probe`, as JSON; means over labels unless said otherwise.

    `entries`, `mass_kept` (the teacher's mass on the classes that a label names), `bias` (L1 distance of the mean label
    from the mean distribution) beside `bias_by_chance` (what its variance alone would give), `variance` (sum over
    classes, over repeated encodings), `squared_error`, `kl` (of label from teacher, nats), and for the gradient of a
    student's logits `angle_degrees` (mean) and `norm_ratio` (of summed lengths), and both of the sum over the probe.
    Spans: `log_prob_error` and `boundary_error` (mean absolute) instead; features: `relative_error`, and for int8 the
    `saturated` share. `bytes_per_label` by column, as one row.
    """
    if isinstance(codec, SpanCodec):
        return _of_spans(codec, probe)
    found: dict[str, Any] = {"bytes_per_label": column_bytes(codec, probe)}
    probe = probe.every(-(-len(probe.seeds) // _MEASURED_LABELS))
    count = len(probe.seeds)
    found["labels"] = count
    if codec.num_classes == 0:
        return {**found, **_of_features(codec, probe)}
    sums = _Sums(codec.num_classes)
    step = max(1, _PIECE_ELEMENTS // codec.num_classes)
    for start in range(0, count, step):
        part = slice(start, start + step)
        targets = None if probe.targets is None else probe.targets[part]
        sums.add(codec, ProbeBatch(probe.outputs[part].float(), targets, probe.seeds[part]))
    return {**found, **sums.summary(count)}


def column_bytes(codec: Codec, probe: ProbeBatch) -> dict[str, float]:
    """Bytes a label of each column and of all of them (`total`), the labels of the probe packed as one row."""
    columns = codec.pack([codec.encode(probe.outputs, probe.seeds)], [probe.targets])[0]
    sizes = {name: values.nbytes / len(probe.seeds) for name, values in columns.items()}
    return {**sizes, "total": sum(sizes.values())}


def _decoded(codec: Codec, probe: ProbeBatch, repeat: int) -> SoftLabels:
    """The labels as a reader gets them; another repeat draws anew."""
    seeds = probe.seeds ^ np.uint64(repeat * 0x9E3779B97F4A7C15 & (2**64 - 1))
    columns = codec.pack([codec.encode(probe.outputs, seeds)], [probe.targets])[0]
    return codec.decode([RowView(columns, len(seeds), probe.targets)], [0], [len(seeds)])


def dense_weights(labels: SoftLabels) -> Tensor:
    """The weight of every class in each label, float32 [N, V]; a tail cell's mass is spread evenly."""
    if isinstance(labels, DenseLabels):
        return labels.log_probs.exp()
    if isinstance(labels, SparseLabels):
        weights = torch.zeros(labels.num_labels, labels.num_classes)
        return weights.index_put_((labels.label_of_entry(), labels.ids), labels.weights, accumulate=True)
    assert isinstance(labels, TopKLabels)
    others = labels.num_classes - labels.ids.shape[1]
    tail = labels.tail_log_prob.exp() / max(1, others)
    weights = tail[:, None].expand(-1, labels.num_classes).clone()
    return weights.scatter_(1, labels.ids, labels.log_probs.exp())


def _support(labels: SoftLabels) -> Tensor:
    """Whether each class is named in each label, bool [N, V]."""
    if isinstance(labels, TopKLabels):
        named = torch.zeros(labels.num_labels, labels.num_classes, dtype=torch.bool)
        return named.scatter_(1, labels.ids, True)
    return dense_weights(labels) > 0


class _Sums:
    def __init__(self, num_classes: int) -> None:
        self.values: dict[str, float] = {}
        self.mean_error, self.class_variance = np.zeros(num_classes), np.zeros(num_classes)
        self.gradients = torch.zeros(2, num_classes, dtype=torch.float64)
        self.angles, self.norms, self.directed = 0.0, np.zeros(2), 0

    def _count(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + float(value.double().sum())

    def add(self, codec: Codec, probe: ProbeBatch) -> None:
        """A piece of the probe."""
        teacher = probe.outputs.softmax(1)
        labels = [_decoded(codec, probe, repeat) for repeat in range(_REPEATS)]
        weights = [dense_weights(label) for label in labels]
        mean = torch.stack(weights).mean(0)
        spread = torch.stack([(weight - mean).square() for weight in weights]).sum(0) / (_REPEATS - 1)
        first, named = weights[0], _support(labels[0])
        ratio = torch.where(first > 0, (first / teacher.clamp(min=1e-30)).log(), torch.zeros_like(first))
        self._count(
            entries=named.sum(1),
            mass_kept=torch.where(named, teacher, torch.zeros_like(teacher)).sum(1),
            variance=spread.sum(1),
            squared_error=(first - teacher).square().sum(1),
            kl=(first * ratio).sum(1),
        )
        self.mean_error += (mean - teacher).sum(0, dtype=torch.float64).numpy()
        self.class_variance += (spread / _REPEATS).sum(0, dtype=torch.float64).numpy()
        self._compare_gradients(probe, labels[0], teacher)

    def _compare_gradients(self, probe: ProbeBatch, labels: SoftLabels, teacher: Tensor) -> None:
        student = probe.outputs / _STUDENT_TEMPERATURE
        true, ours = (_gradient(student, label) for label in (DenseLabels(teacher.log()), labels))
        norms = true.norm(dim=1), ours.norm(dim=1)
        cosine = (true * ours).sum(1) / (norms[0] * norms[1]).clamp(min=1e-30)
        # A teacher that the student equals has no direction: a uniform one, to the last bits.
        some = norms[0] > _NO_GRADIENT
        self.angles += float(torch.rad2deg(cosine[some].clamp(-1, 1).acos()).sum())
        self.norms += np.array([float(norm.sum()) for norm in norms])
        self.directed += int(some.sum())
        self.gradients += torch.stack([true, ours]).sum(1, dtype=torch.float64)

    def summary(self, count: int) -> dict[str, Any]:
        """Means, and the figures of the whole batch."""
        true, ours = self.gradients
        cosine = float((true @ ours) / (true.norm() * ours.norm()).clamp(min=1e-30))
        chance = np.sqrt(self.class_variance * 2 / math.pi).sum() / count
        return {
            **{name: value / count for name, value in self.values.items()},
            "angle_degrees": self.angles / max(1, self.directed),
            "norm_ratio": float(self.norms[1] / self.norms[0]) if self.directed else None,
            "bias": float(np.abs(self.mean_error).sum() / count),
            "bias_by_chance": float(chance),
            "batch_angle_degrees": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))),
            "batch_norm_ratio": float(ours.norm() / true.norm()) if self.directed else None,
        }


def _gradient(student: Tensor, labels: SoftLabels) -> Tensor:
    """d loss / d logits [N, V] of the loss that a student minimises on these labels."""
    targets = torch.zeros(len(student), dtype=torch.int64)
    student = student.clone().requires_grad_()
    return torch.autograd.grad(soft_target_loss(student, labels, targets)[0], student)[0]


def _of_spans(codec: SpanCodec, probe: ProbeBatch) -> dict[str, Any]:
    """A window of a text is a row here, since bytes are counted from its beginning."""
    begins, ends = probe.outputs[:, 2:].long().unbind(1)
    breaks = (torch.nonzero(begins[1:] < ends[:-1]).flatten() + 1).tolist()
    sizes: dict[str, float] = {}
    errors = torch.zeros(2, dtype=torch.float64)
    for part in probe.outputs.double().tensor_split(breaks):
        row = codec.pack([codec.encode(part, np.zeros(len(part), np.uint64))], [None])[0]
        labels = codec.decode([RowView(row, len(part))], [0], [len(part)])
        assert isinstance(labels, SpanLabels)
        errors[0] += (labels.log_probs - part[:, 0]).abs().sum()
        errors[1] += (labels.boundary_log_probs.exp() - part[:, 1].exp()).abs().sum()
        for name, values in row.items():
            sizes[name] = sizes.get(name, 0.0) + values.nbytes
    count = len(probe.outputs)
    per_label = {name: size / count for name, size in sizes.items()}
    return {
        "bytes_per_label": {**per_label, "total": sum(per_label.values())},
        "labels": count,
        "log_prob_error": float(errors[0] / count),
        "boundary_error": float(errors[1] / count),
    }


def _of_features(codec: Codec, probe: ProbeBatch) -> dict[str, float]:
    labels = _decoded(codec, probe, 0)
    assert isinstance(labels, FeatureLabels)
    wanted = probe.outputs.float()
    error = (labels.features - wanted).square().sum() / wanted.square().sum().clamp(min=1e-30)
    found = {"relative_error": float(error.sqrt())}
    if isinstance(codec, FeatureCodec) and codec.scales is not None and len(wanted) > 1:
        # Scales of one half against the other half: none saturates among those that its own scales come from.
        limit = FeatureCodec.learn(codec.layers, wanted[::2]).limits()
        found["saturated"] = float((wanted[1::2].abs() > torch.from_numpy(limit)).float().mean())
    return found
