"""Which implementation makes a sparse loss: chunks of logits in torch, or tiles of them in Triton kernels on CUDA."""

import logging
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from kdcore.config.loss import Implementation
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels
from kdcore.losses.sparse.call import Call, compute_dtype

__all__ = ["use_kernels"]

_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def use_kernels(asked: Implementation, hidden: Tensor, call: Call) -> bool:
    """Whether kernels are to make this loss; a log line says once which implementation is used, and why.

    Raises ConfigError when kernels are asked for and cannot.
    """
    if asked == "torch" or len(hidden) == 0:
        return False
    problem = _problem(asked, hidden, call)
    if problem is not None and asked == "triton":
        raise ConfigError(
            f"training.loss.implementation is 'triton', but {problem}; set it to auto, which takes torch where kernels "
            "cannot be used"
        )
    _say(problem)
    return problem is None


def _problem(asked: Implementation, hidden: Tensor, call: Call) -> str | None:
    """Why kernels cannot make this loss; None when they can."""
    if isinstance(call.labels, DenseLabels):
        return "the labels have every class's probability, and the kernels need labels that name few classes"
    if (dtype := compute_dtype(hidden)) not in _TYPES:
        return f"products run in {dtype}, and the kernels know bfloat16, float16 and float32"
    if find_spec("triton") is None:
        return "the package triton is not installed (it comes with torch for CUDA)"
    # Interpreted kernels are for tests: much slower than torch.
    if not hidden.is_cuda:
        return None if asked == "triton" and _interpreted() else f"the student is on {hidden.device}, and not on CUDA"
    capability = torch.cuda.get_device_capability(hidden.device)
    if capability < (8, 0):
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, and the kernels need 8.0"
    return "TRITON_INTERPRET is set" if asked == "auto" and _interpreted() else None


def _interpreted() -> bool:
    from kdcore.losses.sparse.kernels.tiles import INTERPRETED

    return INTERPRETED


@cache
def _say(problem: str | None) -> None:
    chosen = "in Triton kernels" if problem is None else f"in torch: {problem}"
    logging.getLogger(__name__).info("the loss from hidden states is made %s", chosen)
