"""Teachers' answers to measure codecs on: real language models, and a vocabulary of 128,256 classes made from one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdcore.config.recipe import Recipe
from kdcore.data.sources import open_source
from kdcore.data.splits import probe_order
from kdcore.labels.learn import ProbeBatch
from kdcore.labels.sampling import label_seeds

WIDE_CLASSES = 128_256
# Token frequencies of large vocabularies have 10 to 11 bits of entropy; this has 11.0.
_ZIPF_SHIFT, _ZIPF_POWER = 2.7, 1.1


@dataclass(frozen=True)
class Answers:
    """A teacher's logits: `learn` to learn a codec on, `measure` to measure it on, from different documents."""

    name: str
    num_classes: int
    learn: list[ProbeBatch]
    measure: ProbeBatch


def gathered(batches: Iterator[ProbeBatch], num_labels: int) -> ProbeBatch:
    """The first `num_labels` labels as one batch."""
    taken: list[ProbeBatch] = []
    while sum(len(batch.seeds) for batch in taken) < num_labels:
        taken.append(next(batches))
    targets = [batch.targets for batch in taken if batch.targets is not None]
    outputs = torch.cat([batch.outputs for batch in taken])[:num_labels]
    seeds = np.concatenate([batch.seeds for batch in taken])[:num_labels]
    return ProbeBatch(outputs, np.concatenate(targets)[:num_labels], seeds)


def real_teacher(path: str, num_learn: int, num_measure: int) -> Answers:
    """A causal LM on the Python standard library: learnt on training modules, measured on held-out ones."""
    from cluster.labelling.replica.loading import load_answers
    from cluster.labelling.replica.replica import probe_batches

    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "data": {"type": "python_stdlib"},
            "teacher": {"type": "causal_lm", "path": path, "context": 256, "overlap": 64},
            "labels": {"probe_labels": num_learn},
        }
    )
    source = open_source(recipe.data)
    answers = load_answers(recipe, source)
    learn = list(probe_batches(probe_order(source.list("train")), source, answers, recipe))
    heldout = (batch for ref in source.list("heldout") for batch in answers.probe(ref.name, source.read(ref)))
    with torch.inference_mode():
        measure = gathered(heldout, num_measure)
    classes = answers.teacher.num_classes
    return Answers(f"{Path(path).name} ({classes:,} classes)", classes, learn, measure)


def wide_teacher(real: Answers, unique_at_50: float, num_learn: int, num_measure: int) -> Answers:
    """128,256 classes: each label has the rank-probability curve of a real label, its classes drawn from a Zipf prior.

    The curves are sharpened until 50 draws with replacement hit `unique_at_50` classes in the mean.
    """
    curves = torch.cat([batch.outputs for batch in real.learn]).sort(1, descending=True).values
    power = _sharpness(curves[:: -(-len(curves) // 1024)], unique_at_50)
    prior = -_ZIPF_POWER * np.log(np.arange(WIDE_CLASSES) + _ZIPF_SHIFT)
    logits = _wide_batches(curves * power, torch.from_numpy(prior).float())
    learn = [next(logits) for _ in range(-(-num_learn // 256))]
    return Answers(f"synthetic ({WIDE_CLASSES:,} classes)", WIDE_CLASSES, learn, gathered(logits, num_measure))


def _unique(logits: torch.Tensor, power: float) -> float:
    probabilities = (logits * power).double().softmax(1)
    return float((1 - (1 - probabilities) ** 50).sum(1).mean())


def _sharpness(logits: torch.Tensor, unique_at_50: float) -> float:
    low, high = 0.1, 10.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _unique(logits, middle) > unique_at_50 else (low, middle)
    return low


def _wide_batches(curves: torch.Tensor, log_prior: torch.Tensor) -> Iterator[ProbeBatch]:
    """Endless batches of 256 labels; a label's classes in the order of prior plus Gumbel noise, its curve on top."""
    generator = torch.Generator().manual_seed(0)
    number = 0
    while True:
        rows = torch.randint(len(curves), (256,), generator=generator)
        waiting = torch.empty(256, WIDE_CLASSES).exponential_(generator=generator)
        order = (log_prior - waiting.log()).topk(curves.shape[1], dim=1).indices
        logits = torch.full((256, WIDE_CLASSES), float("-inf")).scatter_(1, order, curves[rows])
        targets = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1).numpy()
        yield ProbeBatch(logits, targets, label_seeds(number.to_bytes(16, "little"), 256))
        number += 1
