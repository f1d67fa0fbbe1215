"""Whether a student keeps packed sequences apart, tried out before training, and how.

Position ids that restart tell transformers that a row holds several sequences. Most architectures then mask
attention block by block; some ignore them (recurrent layers, positions of their own). Rather than a list of names, a
forward pass over a few tokens decides: a sequence must come out the same beside another one as alone.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.config import TrainingConfig
from kdcore.errors import ConfigError
from kdcore.training.batches import TextBatch
from kdcore.training.packing import Layout, Places

__all__ = ["choose_layout"]

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
    mixed = _mixes(student, "rows", None)
    if mixed:
        if config.packing is True:
            raise ConfigError(
                f"training.packing needs a student that keeps the sequences of a row apart, but {type(student).__name__} "
                f"does not: {mixed}; set training.packing to false or auto, or choose another student"
            )
        return "padded", f"{type(student).__name__} does not keep packed sequences apart: {mixed}"
    if device.type == "cuda" and config.precision == "bfloat16":
        refused = _use_borders(student.to(device))
        return ("rows", f"block-diagonal attention, since {refused}") if refused else ("flat", "attention by borders")
    return "rows", "block-diagonal attention"


def _use_borders(student: Any) -> str:
    """Sets the student's attention to that of kdcore.training.varlen; else leaves it and says why it does not fit."""
    from kdcore.training.varlen import NAME, register

    before = student.config._attn_implementation
    register()
    try:
        student.set_attn_implementation(NAME)
        _try_backward(student)
        refused = _mixes(student, "flat", torch.bfloat16)
    except (ConfigError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        refused = str(error).splitlines()[0]
    if refused:
        student.set_attn_implementation(before)
    return refused


def _try_backward(student: Any) -> None:
    """A step of training on borders, so that what it cannot do (dropout, gradients) is known before the first."""
    ids = _tokens(student)[:1].to(next(student.parameters()).device)
    student.train()
    with torch.autocast(ids.device.type, torch.bfloat16):
        _hidden(student, ids, _LENGTHS, "flat").sum().backward()
    student.zero_grad(set_to_none=True)


def _mixes(student: Any, layout: Layout, autocast: torch.dtype | None) -> str:
    """What goes wrong with packed sequences; "" where nothing does."""
    device = next(student.parameters()).device
    ids = _tokens(student).to(device)
    was_training = student.training
    student.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            one, other = (_hidden(student, row[None], _LENGTHS, layout) for row in ids)
            parts = ids[0].split(_LENGTHS.tolist())
            alone = torch.cat([_hidden(student, part[None], np.array([len(part)]), "padded") for part in parts])
    except TypeError as error:
        return f"its decoder takes no position_ids ({error})"
    finally:
        student.train(was_training)
    exact = autocast is None and alone.dtype in (torch.float32, torch.float64)
    room = float(alone.abs().max()) * (_TOLERANCE if exact else _TOLERANCE_16_BITS)
    first = int(_LENGTHS[0])
    if float((one[first:] - other[first:]).abs().max()) > room:
        return "a sequence changes with the one before it"
    if float((one - alone).abs().max()) > room:
        return "a sequence changes with its place in the row"
    return ""


def _tokens(student: Any) -> Tensor:
    """Two rows of random tokens, alike but for their first sequence, int64 [2, T]."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = student.get_input_embeddings().num_embeddings
    ids = torch.randint(0, vocabulary, (2, int(_LENGTHS.sum())), generator=generator)
    ids[1, _LENGTHS[0] :] = ids[0, _LENGTHS[0] :]
    return ids


def _hidden(student: Any, ids: Tensor, lengths: np.ndarray, layout: Layout) -> Tensor:
    """Hidden states [T, D] of the sequences of `lengths` in a row [1, T] of tokens."""
    ends = np.cumsum(lengths)
    places = Places((1, int(ends[-1])), np.arange(len(lengths)), np.zeros_like(lengths), ends - lengths)
    restarts = torch.from_numpy(places.position_ids()).to(ids.device)
    borders = torch.tensor([0, *ends], dtype=torch.int32, device=ids.device)
    nothing = ids.new_zeros(0)
    batch = TextBatch(
        ids,
        nothing,
        nothing,
        None,
        None if layout == "padded" else restarts,
        borders if layout == "flat" else None,
        int(lengths.max()),
    )
    return student.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state[0]
