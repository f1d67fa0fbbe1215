"""Which implementation makes a sparse loss: chunks of logits in torch, or in fused passes, or tiles of them."""

import logging
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from kdcore.config.loss import ChunkTokens, Implementation
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.sparse.call import compute_dtype

__all__ = ["chunk_size", "implementation_of"]

_TYPES = (torch.bfloat16, torch.float16, torch.float32)
_CHUNK = 1024
_LOGITS = 1 << 27
"""Of a chunk on a GPU, at least: 512 MiB. With fewer the host is not fast enough to tell it what to do."""
_SAID = {
    "torch": "from chunks of logits in torch",
    "fused": "from chunks of logits with fused passes",
    "triton": "from tiles of logits in Triton kernels",
}


def implementation_of(
    asked: Implementation, hidden: Tensor, labels: SoftLabels | None, gradient_filter: float
) -> Literal["torch", "fused", "triton"]:
    """Which is to make this loss; a log line says once which it is, and why.

    Raises ConfigError when kernels are asked for and cannot.
    """
    if asked == "torch" or len(hidden) == 0:
        return "torch"
    problem = _problem(asked, hidden, labels)
    if problem is not None and asked != "auto":
        raise ConfigError(
            f"training.loss.implementation is '{asked}', but {problem}; set it to auto, which takes torch where "
            "kernels cannot be used"
        )
    if asked != "auto":
        chosen = asked
    else:
        chosen = "torch" if problem is not None else "triton" if gradient_filter else "fused"
    _say(chosen, problem)
    return chosen


def chunk_size(asked: ChunkTokens, hidden: Tensor, head: Tensor, fused: bool) -> int:
    """How many tokens are a chunk of `hidden` [N, D] before `head` [V, D].

    Every chunk adds to the head's whole gradient, V D numbers in float32, which a GPU waits for, and is some 150
    kernels to be launched: fewer are faster. With D / 2 tokens a chunk's logits take half as much memory as that
    gradient.
    """
    if asked != "auto":
        return asked
    return max(_CHUNK, hidden.shape[1] // 2, min(_LOGITS // len(head), 16 * _CHUNK)) if fused else _CHUNK


def _problem(asked: Implementation, hidden: Tensor, labels: SoftLabels | None) -> str | None:
    """Why kernels cannot make this loss; None when they can."""
    if isinstance(labels, DenseLabels):
        return "the labels have every class's probability, and the kernels need labels that name few classes"
    if (dtype := compute_dtype(hidden)) not in _TYPES:
        return f"products run in {dtype}, and the kernels know bfloat16, float16 and float32"
    if find_spec("triton") is None:
        return "the package triton is not installed (it comes with torch for CUDA)"
    # Interpreted kernels are for tests: much slower than torch.
    if not hidden.is_cuda:
        return None if asked != "auto" and _interpreted() else f"the student is on {hidden.device}, and not on CUDA"
    capability = torch.cuda.get_device_capability(hidden.device)
    if capability < (8, 0):
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, and the kernels need 8.0"
    return "TRITON_INTERPRET is set" if asked == "auto" and _interpreted() else None


def _interpreted() -> bool:
    from kdcore.losses.sparse.kernels.tiles import INTERPRETED

    return INTERPRETED


@cache
def _say(chosen: str, problem: str | None) -> None:
    why = "" if problem is None else f": {problem}"
    logging.getLogger(__name__).info("the loss from hidden states is made %s%s", _SAID[chosen], why)
