"""Whether a student keeps packed sequences apart, tried out before training, and how.

Position ids that restart tell transformers that a row holds several sequences. Most architectures then mask
attention block by block; some ignore them (recurrent layers, positions of their own). Rather than a list of names, a
forward pass over a few tokens decides: a sequence must come out the same beside another one as alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.config import TrainingConfig
from kdcore.errors import ConfigError
from kdcore.training.batches import TextBatch
from kdcore.training.packing import Layout, Places
from kdcore.training.ranks import Ranks

__all__ = ["agreed_layout", "choose_layout", "tried"]

_LENGTHS = np.array([5, 9, 7])
# Of the largest hidden state: above rounding, below what a token of another sequence does.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-4, 3e-2


def choose_layout(student: nn.Module, config: TrainingConfig, device: torch.device) -> tuple[Layout, str]:
    """How micro-batches are laid out for this student, and the reason in words ("" for images).

    One row of all sequences on a GPU in bfloat16, where torch's attention over borders takes the student; else rows
    under a block-diagonal mask; else one sequence a row. May set the student's attention and move it to `device`.
    Raises ConfigError for `training.packing: true` and a student that mixes packed sequences.
    """
    if not hasattr(student, "get_decoder"):
        return "padded", ""
    if config.packing is False:
        return "padded", "training.packing is off"
    layout, why = _packed(student, config, device)
    if layout == "padded" and config.packing is True:
        raise ConfigError(
            f"training.packing needs a student that keeps the sequences of a row apart, but {why}; set "
            "training.packing to false or auto, or choose another student"
        )
    return layout, why


def agreed_layout(student: nn.Module, config: TrainingConfig, ranks: Ranks) -> tuple[Layout, str]:
    """`choose_layout` as the first rank finds it, on every rank; the reason is told to the first alone.

    Errors are raised on every rank, CheckpointError on those that have none of their own (see Ranks.together).
    """
    layouts: list[Layout] = ["padded", "rows", "flat"]
    found: list[tuple[Layout, str]] = [("padded", "")]

    def choose() -> None:
        if ranks.first:
            found[0] = choose_layout(student, config, ranks.device)

    ranks.together(choose, "trying the student on packed sequences")
    layout = layouts[ranks.from_first(layouts.index(found[0][0]))]
    if layout == "flat" and not ranks.first:
        _set_borders(student)
    return layout, found[0][1]


def _packed(student: Any, config: TrainingConfig, device: torch.device) -> tuple[Layout, str]:
    name, implementation = type(student).__name__, str(student.config._attn_implementation)
    if "flash" in implementation:
        return "padded", f"{name} was told to use {implementation}, which is not tried for packed sequences"
    alone, why = _alone(student), "block-diagonal attention"
    if device.type == "cuda" and config.precision == "bfloat16":
        refused = _use_borders(student.to(device), alone)
        if not refused:
            return "flat", "attention by borders"
        why += f", since {refused}"
    mixed = _mixes(student, alone, "rows")
    return ("padded", f"in {name} packed sequences are not kept apart: {mixed}") if mixed else ("rows", why)


def _use_borders(student: Any, alone: Tensor) -> str:
    """Sets the student's attention to that of kdcore.training.varlen; else leaves it and says why it does not fit."""
    before = student.config._attn_implementation
    try:
        _set_borders(student)
        with torch.autocast(next(student.parameters()).device.type, torch.bfloat16):
            _try_backward(student)
            refused = _mixes(student, alone, "flat")
    except (ConfigError, ImportError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        refused = str(error).splitlines()[0]
    if refused:
        student.set_attn_implementation(before)
    return refused


def _set_borders(student: Any) -> None:
    from kdcore.training.varlen import NAME, register

    register()
    student.set_attn_implementation(NAME)


def _try_backward(student: Any) -> None:
    """A step of training on borders, so that what it cannot do (dropout, gradients) is known before the first."""
    was_training = student.training
    student.train()
    _hidden(student, _tokens(student)[:1], _LENGTHS, "flat").sum().backward()
    student.zero_grad(set_to_none=True)
    student.train(was_training)


@torch.no_grad()
def _alone(student: Any) -> Tensor:
    """Hidden states [T, D] of the sequences, each in a forward pass of its own."""
    with _evaluated(student):
        parts = _tokens(student)[0].split(_LENGTHS.tolist())
        return torch.cat([_hidden(student, part[None], np.array([len(part)]), "padded")[0] for part in parts])


@torch.no_grad()
def _mixes(student: Any, alone: Tensor, layout: Layout) -> str:
    """What goes wrong with packed sequences; "" where nothing does."""
    try:
        with _evaluated(student):
            rows = _tokens(student)
            # Rows at once, since some attention tells sequences apart in a batch of one row alone.
            one, other = (
                _hidden(student, rows, _LENGTHS, layout)
                if layout == "rows"
                else (_hidden(student, row[None], _LENGTHS, layout)[0] for row in rows)
            )
    except TypeError as error:
        return f"the decoder takes no position_ids ({error})"
    exact = layout == "rows" and alone.dtype in (torch.float32, torch.float64)
    room = float(alone.abs().max()) * (_TOLERANCE if exact else _TOLERANCE_16_BITS)
    first = int(_LENGTHS[0])
    if float((one[first:] - other[first:]).abs().max()) > room:
        return "a sequence changes with the one before it"
    if float((one - alone.to(one.device)).abs().max()) > room:
        return "a sequence changes with its place in the row"
    return ""


@contextmanager
def _evaluated(student: nn.Module) -> Iterator[None]:
    """Without dropout, and as it was afterwards, each of its modules by itself."""
    trained = [module for module in student.modules() if module.training]
    student.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


@contextmanager
def tried(student: Any) -> Iterator[None]:
    """`_evaluated`, and on any device in any type, for which there is no flash attention."""
    before = str(student.config._attn_implementation)
    flash = "flash" in before
    with _evaluated(student):
        if flash:
            student.set_attn_implementation("eager")
        try:
            yield
        finally:
            if flash:
                student.set_attn_implementation(before)


def _tokens(student: Any) -> Tensor:
    """Two rows of random tokens, alike but for their first sequence, int64 [2, T]."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = student.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (2, int(_LENGTHS.sum())), generator=generator)
    ids[1, _LENGTHS[0] :] = ids[0, _LENGTHS[0] :]
    return ids.to(next(student.parameters()).device)


def _hidden(student: Any, ids: Tensor, lengths: np.ndarray, layout: Layout) -> Tensor:
    """Hidden states [B, T, D] of rows of tokens [B, T], in each of which sequences of `lengths` follow each other."""
    ends = np.cumsum(lengths)
    places = Places((1, int(ends[-1])), np.arange(len(lengths)), np.zeros_like(lengths), ends - lengths)
    restarts = None if layout == "padded" else torch.from_numpy(places.position_ids()).to(ids.device).expand_as(ids)
    borders = torch.tensor([0, *ends], dtype=torch.int32, device=ids.device) if layout == "flat" else None
    nothing = ids.new_zeros(0)
    batch = TextBatch(ids, nothing, nothing, None, restarts, borders, int(lengths.max()))
    return student.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state
