"""Examples of every loss that a recipe can name, and the inputs that they are tried on."""

import math
from collections import OrderedDict
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from kdcore.config.losses import AnyLossTerm, LossTerm
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.registry import make_method
from tests.support.method_examples import attention, feature, relation, response, teachers, transformer

TERMS: TypeAdapter[LossTerm] = TypeAdapter(AnyLossTerm)  # made once: it is a hundred times the cost of its use
CLASSES, SAMPLES, PIXELS = 5, 12, (3, 4, 4)
EXAMPLES: dict[str, dict[str, Any]] = {
    **response.EXAMPLES,
    **feature.EXAMPLES,
    **relation.EXAMPLES,
    **attention.EXAMPLES,
    **transformer.EXAMPLES,
    **teachers.EXAMPLES,
}
# `maps` are convolutional features [B, C, H, W], `vectors` [B, D], `tokens` hidden states [B, L, D].
FEATURES = {
    "maps": ((4, 6, 6), (6, 6, 6)),
    "maps.wide": ((8, 3, 3), (8, 3, 3)),
    "vectors": ((10,), (14,)),
    "tokens": ((7, 8), (7, 12)),
    "tokens.late": ((7, 8), (7, 12)),
    "maps.deep": ((5, 4, 4), (5, 4, 4)),
    "tanh": ((216,), (216,)),  # of `network`
}
"""Shapes of the student's and the teacher's, without the batch."""


def term(name: str, **settings: Any) -> LossTerm:
    """The settings of the example of `name`, with others where they are given."""
    return TERMS.validate_python({"type": name, **EXAMPLES[name], **settings})


def shapes(student: nn.Module | None = None, teacher: nn.Module | None = None) -> Shapes:
    """Of the features below."""
    ours, theirs = ({path: pair[side] for path, pair in FEATURES.items()} for side in (0, 1))
    return Shapes(ours, theirs, CLASSES, SAMPLES, student, teacher)


def seeded(seed: int) -> None:
    """torch.manual_seed, without what it keeps for every device that may still come: a stack each, in each call."""
    torch.default_generator.manual_seed(seed)


def method(name: str, **settings: Any) -> Method:
    """The example's Method, its own parameters from one seed."""
    seeded(0)
    return make_method(term(name, **settings), shapes())


def network(seed: int) -> nn.Module:
    """A small classifier of pixels, smooth, in training mode; its `maps` are those of the teacher's features."""
    seeded(seed)
    shape = FEATURES["maps"][1]
    layers = {"maps": nn.Conv2d(PIXELS[0], shape[0], 3, padding=2), "flat": nn.Flatten(), "tanh": nn.Tanh()}
    return nn.Sequential(OrderedDict(layers, head=nn.Linear(math.prod(shape), CLASSES)))


def inputs(batch: int = 4, kind: str = "random", seed: int = 0, through_networks: bool = False) -> LossInputs:
    """Features and logits: `random`, `constant` (every sample alike), or `zero`; the student's require a gradient.

    `through_networks`: logits are those of `network` for the pixels. Samples have 2, 4, 6, ... tokens, at most all.
    """
    generator, of_pixels = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)

    def make(*shape: int, generator: torch.Generator = generator) -> Tensor:
        if kind == "zero":
            return torch.zeros(batch, *shape)
        values = torch.randn(1 if kind == "constant" else batch, *shape, generator=generator)
        return values.expand(batch, *shape).clone()

    pixels = make(*PIXELS, generator=of_pixels).requires_grad_()
    student, teacher = network(0), network(1)
    return LossInputs(
        student_logits=student(pixels) if through_networks else make(CLASSES).requires_grad_(),
        teacher_logits=teacher(pixels).detach() if through_networks else make(CLASSES),
        targets=torch.arange(batch) % CLASSES,
        student={path: make(*pair[0]).requires_grad_() for path, pair in FEATURES.items()},
        teacher={path: make(*pair[1]) for path, pair in FEATURES.items()},
        indices=torch.arange(batch) % SAMPLES,
        progress=0.5,
        pixels=pixels,
        mask=torch.arange(FEATURES["tokens"][0][0]) < torch.arange(1, batch + 1)[:, None] * 2,
        student_model=student,
        teacher_model=teacher,
    )
