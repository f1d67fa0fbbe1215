"""Whether a student's logits are what the loss makes of its hidden states and its head, tried before training.

The loss never asks the student for logits. A class that does more to its hidden states or to its head's outputs than
`logit_rules` knows of (BERT's decoders have a layer in between) would learn logits that are not those it gives later.
"""

from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError
from kdcore.training.attention import tried
from kdcore.training.text_loss import head_of, rules_of

__all__ = ["check_logits"]

_TOKENS = 4
# Of the largest logit: above rounding, below what a layer, a scale or a cap that is left out does.
_TOLERANCE, _TOLERANCE_16_BITS = 1e-4, 3e-2


def check_logits(student: nn.Module) -> None:
    """ConfigError unless the logits of a causal LM are its head's weight times its decoder's last hidden states.

    Its parameters must be at hand, whole. Runs a few tokens without dropout, and leaves the student as it was.
    """
    name, head = type(student).__name__, head_of(student)
    if head is None:
        raise ConfigError(f"{name} has no output embeddings, whose weight the loss takes: choose a causal LM")
    _check_trained(name, head)
    with torch.no_grad(), tried(student), torch.autocast(_device(student).type, enabled=False):
        wanted, found = _logits(student, name, head)
    exact = wanted.dtype in (torch.float32, torch.float64)
    largest = float(wanted.abs().max())
    gap = float((found - wanted).abs().max()) if found.shape == wanted.shape else float("inf")
    if not gap <= largest * (_TOLERANCE if exact else _TOLERANCE_16_BITS):
        raise ConfigError(
            f"the loss makes a student's logits of its last hidden states and its head's weight, and those of {name} "
            f"are others: up to {gap:.3g} apart, the largest being {largest:.3g}. Likely it has a layer before its "
            "head, or a scale or cap by a name that is not known here: choose another student"
        )


def _check_trained(name: str, head: Any) -> None:
    """Adapters begin as zero, so that no trial finds them."""
    used = {id(head.weight), id(getattr(head, "bias", None))}
    others = [key for key, value in head.named_parameters() if value.requires_grad and id(value) not in used]
    if others:
        raise ConfigError(
            f"the loss takes the weight of {name}'s head without its layer, so that {', '.join(others)} of the head "
            "would be neither heard nor trained: leave the head out of the adapters, or train it whole (peft's "
            "modules_to_save)"
        )


def _logits(student: Any, name: str, head: Any) -> tuple[Tensor, Tensor]:
    """Of a few tokens, float [T, V]: the student's own, and those that the loss would make."""
    ids = torch.arange(_TOKENS, device=_device(student))[None] % student.get_input_embeddings().weight.shape[0]
    wanted = student(input_ids=ids).logits[0]
    try:
        hidden = student.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"the loss needs the last hidden states of a student's decoder, and {name}.get_decoder() does not give "
            f"them ({error}): choose another student"
        ) from error
    weight, bias = head.weight.to(hidden.dtype), getattr(head, "bias", None)
    found = nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    return wanted, rules_of(student).apply(found)


def _device(student: Any) -> torch.device:
    return student.get_input_embeddings().weight.device
