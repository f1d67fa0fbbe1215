"""Sequences of different length: what stands for one of them, and sums over its tokens. Padding never counts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kdcore.config.losses.base import PlacesTerm, Pool, VectorTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Shape, Shapes
from kdcore.losses.numerics import wide

__all__ = [
    "check_tokens",
    "pool_tokens",
    "pooled_inputs",
    "pooled_shapes",
    "sample_mean",
    "sample_sum",
    "sequences",
    "token_mean",
]


def pool_tokens(states: Tensor, mask: Tensor | None, pool: Pool) -> Tensor:
    """One vector a sample [B, D] of tokens [B, L, D], in `wide`: their mean, the first or the last.

    `mask` [B, L] is true for tokens, false for padding, None where there is none. A sample without tokens has mean 0.
    """
    states = wide(states)
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    if pool == "mean":
        return states.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    held = mask.int()
    places = held.argmax(1) if pool == "first" else mask.shape[1] - 1 - held.flip(1).argmax(1)
    return states[torch.arange(len(states), device=states.device), places]


def pooled_shapes(term: VectorTerm | PlacesTerm, shapes: Shapes) -> Shapes:
    """The shapes of what `pooled_inputs` gives. ConfigError for layers of both networks that do not go together."""
    for ours, theirs in zip(term.at, term.teacher_paths, strict=True):
        if shapes.of_first_tokens and len(shapes.student[ours]) == 2 and term.pool != "first":
            raise ConfigError(
                f"tokens of '{ours}', {['B', *shapes.student[ours]]}, are compared with '{theirs}' of the teacher, of "
                "which a store of texts has the first token: set this loss's `pool: first`, or "
                "training.live_teacher: true"
            )
    if term.pool is None:
        return shapes

    def pooled(shapes: Mapping[str, Shape], paths: tuple[str, ...]) -> dict[str, Shape]:
        return {path: shapes[path][-1:] if len(shapes[path]) == 2 else shapes[path] for path in paths}

    return replace(shapes, student=pooled(shapes.student, term.at), teacher=pooled(shapes.teacher, term.teacher_paths))


def pooled_inputs(term: VectorTerm | PlacesTerm, inputs: LossInputs) -> LossInputs:
    """The inputs with the features of the term's layers, one vector in place of tokens, where its settings say so."""
    pool = term.pool
    if pool is None:
        return inputs

    def pooled(features: Mapping[str, Tensor], paths: tuple[str, ...]) -> dict[str, Tensor]:
        found = {path: features[path] for path in paths}
        return {
            path: pool_tokens(one, inputs.mask_of(one), pool) if one.ndim == 3 else one for path, one in found.items()
        }

    return replace(inputs, student=pooled(inputs.student, term.at), teacher=pooled(inputs.teacher, term.teacher_paths))


def check_tokens(shapes: Sequence[tuple[int, ...]]) -> None:
    """ConfigError unless all shapes are vectors, (D,), or sequences, (L, D), of one length."""
    if len({len(shape) for shape in shapes}) > 1:
        raise ConfigError(
            f"tokens are compared one by one, but tapped layers give sequences beside single vectors, "
            f"{[['B', *shape] for shape in shapes]}: likely the teacher's are labels of a store, which has the first "
            "token of a text; set `tokens: first`, or training.live_teacher: true"
        )
    lengths = {shape[0] for shape in shapes if len(shape) == 2}
    if len(lengths) > 1:
        raise ConfigError(
            f"tokens are compared one by one, but tapped layers give sequences of {sorted(lengths)} tokens: likely the "
            "networks cut images into patches of different size, or one adds tokens of its own; compare `tokens: first`"
        )


def sequences(states: Tensor) -> Tensor:
    """States [B, L, D]; of vectors [B, D], a sequence of one."""
    return states if states.ndim == 3 else states[:, None]


def token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over samples of the mean over each sample's tokens, a scalar.

    `values` [B, L]; `mask` [B, L] is true for tokens, false for padding, None where there is none. A sample without
    tokens counts zero.
    """
    if mask is None:
        return values.mean()
    held = mask.to(values.dtype)
    return ((values * held).sum(1) / held.sum(1).clamp(min=1.0)).mean()


def sample_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over samples of the mean over each one's elements, of values [B, ...]; masked ones are [B, L, D]."""
    return values.mean() if mask is None else token_mean(values.mean(2), mask)


def sample_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over samples of the sum over each one's elements, of values [B, ...]; masked ones are [B, L, D]."""
    held = values if mask is None else values.masked_fill(~mask[..., None], 0)
    return held.flatten(1).sum(1).mean()
