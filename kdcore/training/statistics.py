"""The running statistics of BatchNorm: of all ranks, of the samples of steps that were taken alone, and in float32."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from kdcore.losses.projectors import ChannelNorm
from kdcore.training.ranks import Ranks

__all__ = ["Kept", "at_rest", "saved_buffers", "share_statistics", "statistics_of", "unmoved", "widen_statistics"]

Place = tuple[nn.Module, str]
"""A buffer, by the module that has it and its name there."""


def share_statistics(student: nn.Module, ranks: Ranks) -> None:
    """Give the running statistics of BatchNorm layers their mean over ranks, each of which has seen its own samples.

    They are moving averages, so that it does not matter when this is done.
    """
    if ranks.world == 1:
        return
    for layer in _layers(student):
        for statistics in (layer.running_mean, layer.running_var):
            assert statistics is not None
            statistics.copy_(ranks.sum(statistics.float()) / ranks.world)


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """No statistics change: what goes through the model stands for no sample of a rank without work.

    Layers that share their statistics in the forward pass do so as ever, since the other ranks wait for them.
    """
    layers = [layer for layer in _layers(model) if layer.training and not isinstance(layer, nn.SyncBatchNorm)]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


class Kept:
    """What buffers hold now, to be brought back, whichever tensors they are by then."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._values = [(module, name, module.get_buffer(name).clone()) for module, name in places]

    @torch.no_grad()
    def restore(self) -> None:
        """The buffers hold it again."""
        for module, name, before in self._values:
            module.get_buffer(name).copy_(before)


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Layers take the statistics of what goes through them, and note nothing of it: it went through them before."""
    kept = Kept(statistics_of(model))
    try:
        yield
    finally:
        kept.restore()


def statistics_of(model: nn.Module) -> list[Place]:
    """Running means and variances, and how many batches they are of."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return [(layer, name) for layer in _layers(model) for name in names if getattr(layer, name) is not None]


def saved_buffers(model: nn.Module, but: Iterable[Tensor] = ()) -> list[Place]:
    """Those that a checkpoint has, `but` these."""
    left = {id(buffer) for buffer in but}
    return [
        (module, name)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set and id(buffer) not in left
    ]


def widen_statistics(model: nn.Module) -> None:
    """Have BatchNorm layers whose weights are narrower than their statistics compute in the type of the statistics.

    DeepSpeed casts parameters to bfloat16, in which a moving average stands still long before it is there. Layers with
    a forward pass of their own get statistics of the type of their weights, which torch asks for.
    """
    for layer in _layers(model):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        own = isinstance(layer, ChannelNorm)
        if own or layer.weight is None or layer.weight.dtype == layer.running_mean.dtype:
            continue
        if type(layer).forward is _BatchNorm.forward and layer.momentum is not None:
            layer.forward = MethodType(_forward, layer)
            continue
        for statistics in (layer.running_mean, layer.running_var):
            statistics.data = statistics.data.to(layer.weight.dtype)


def _forward(layer: _BatchNorm, given: Tensor) -> Tensor:
    assert layer.running_mean is not None
    assert layer.momentum is not None
    if layer.training and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    kind = layer.running_mean.dtype
    weight, bias = (None if one is None else one.to(kind) for one in (layer.weight, layer.bias))
    found = functional.batch_norm(
        given.to(kind), layer.running_mean, layer.running_var, weight, bias, layer.training, layer.momentum, layer.eps
    )
    return found.to(given.dtype)


def _layers(module: nn.Module) -> Iterator[_NormBase]:
    """Layers with statistics."""
    for layer in module.modules():
        if isinstance(layer, _NormBase) and layer.running_mean is not None and layer.running_var is not None:
            yield layer
