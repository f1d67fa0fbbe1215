"""The word on a step, between the norm of its gradient and the change of the weights, inside DeepSpeed's step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError
from kdcore.training.engines.base import Accept


@contextmanager
def gate(engine: Any, stage: int, accept: Accept) -> Iterator[None]:
    """Inside the block `engine.step()` asks `accept`, and leaves the step out where it says no.

    ZeRO leaves a step out whose norm is infinite, with all its buffers cleared; so that is what it is told. ConfigError
    when it did not ask.
    """
    asked: list[Tensor] = []

    def heard(norm: Tensor) -> bool:
        asked.append(norm)
        return accept(norm)

    with _asking(engine, stage, heard):
        yield
    if not asked:
        raise ConfigError(
            f"DeepSpeed must compute the gradient's norm in every step, and at ZeRO {stage} it did a step without; "
            "likely training.engine.extra says so: remove what concerns norms, overflows or the optimizer"
        )


@contextmanager
def _asking(engine: Any, stage: int, accept: Accept) -> Iterator[None]:
    optimizer = engine.optimizer
    if stage == 0:
        with nullcontext() if _accepted(engine, accept) else _instead(optimizer, "step", lambda: None):
            yield
    elif stage == 3:
        groups = optimizer._get_norm_groups
        with _instead(optimizer, "_get_norm_groups", lambda: _judged(groups(), accept)):
            yield
    else:
        norm = optimizer.scaled_global_norm
        # In bfloat16 it looks for overflows first, and would leave the step out unasked.
        with (
            _instead(optimizer, "check_overflow", lambda **_: None),
            _instead(optimizer, "scaled_global_norm", lambda: _judged([norm()], accept)[0]),
        ):
            yield
        if optimizer.overflow:
            # With its state in host memory it keeps the refused gradient, and would add the next one to it.
            optimizer.averaged_gradients.update(dict.fromkeys(optimizer.averaged_gradients))


def _judged(norms: list[Tensor], accept: Accept) -> list[Tensor]:
    """Norms of groups, as they are or infinite; DeepSpeed writes -1 for one that is not finite."""
    whole = torch.stack([torch.where(norm >= 0, norm, torch.inf).double() for norm in norms]).norm()
    return norms if accept(whole) else [torch.full_like(norm, torch.inf) for norm in norms]


@contextmanager
def _instead(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)  # the class's own again


def _accepted(engine: Any, accept: Accept) -> bool:
    """The word of `accept` where gradients are whole on every rank, and exchanged by now."""
    gradients = [parameter.grad.float() for parameter in engine.module.parameters() if parameter.grad is not None]
    return accept(nn.utils.get_total_norm(gradients))
