"""What a teacher lets on while it looks at images: statistics of BatchNorm layers, and what its last layer is given."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["Inside", "last_linear"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def last_linear(model: nn.Module, path: str | None = None) -> nn.Linear:
    """The layer of class weights: the module `path`, or the last nn.Linear. ConfigError when there is none."""
    named = dict(model.named_modules())
    found = (
        named.get(path)
        if path is not None
        else next((module for module in reversed(named.values()) if isinstance(module, nn.Linear)), None)
    )
    if not isinstance(found, nn.Linear):
        what = "has no linear layer" if path is None else f"'{path}' is {type(found).__name__}, not a linear layer"
        raise ConfigError(
            f"The teacher's last linear layer holds its class weights; this teacher {what}. Set synthesis.head to the "
            f"path of one, of: {', '.join(name for name, module in named.items() if isinstance(module, nn.Linear))}"
        )
    return found


class Inside:
    """A context manager that watches a teacher's passes. Raises ConfigError for what it has not got.

    `statistics`: it must have BatchNorm layers that keep running means and variances. `head`: the path of its last
    linear layer, looked for when None.
    """

    def __init__(
        self, teacher: nn.Module, *, statistics: bool = False, means: bool = False, head: str | bool | None = False
    ) -> None:
        self._norms = [m for m in teacher.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
        if statistics and not self._norms:
            raise ConfigError(
                "synthesis.batch_norm above 0 needs a teacher whose BatchNorm layers keep statistics of real data; "
                "this one has none. Set synthesis.batch_norm to 0, or synthesis.type to dafl, impressions or "
                "patch_similarity."
            )
        self._measured = self._norms if statistics else []
        layers = self._norms or [m for m in teacher.modules() if isinstance(m, nn.Conv2d | nn.LayerNorm)]
        self._seen_by = layers if means else []
        self._head = None if head is False else last_linear(teacher, None if head is True else head)
        self._handles: list[Any] = []
        self._distances: list[Tensor] = []
        self._means: list[Tensor] = []
        self.head_input: Tensor | None = None

    def __enter__(self) -> "Inside":
        for norm in self._measured:
            self._handles.append(norm.register_forward_pre_hook(self._measure))
        for layer in self._seen_by:
            self._handles.append(layer.register_forward_pre_hook(self._note_means))
        if self._head is not None:
            self._handles.append(self._head.register_forward_pre_hook(self._note_head))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def distance(self, first_layer: float = 1.0) -> Tensor:
        """Sum over layers of |mean - running mean| + |variance - running variance|, Euclidean, of the last pass.

        Means and variances (divided by n) over batch and places of what goes into a layer; the first layer's distance
        is multiplied by `first_layer` (DeepInversion, arXiv:1912.08795; its code has that factor). Call once a pass.
        """
        first, *others = self._distances
        self._distances = []
        return first_layer * first + sum(others, torch.zeros_like(first))

    def means(self) -> Tensor:
        """Of every image, the mean over places of what goes into each layer, side by side [B, D]. Call once a pass."""
        means, self._means = torch.cat(self._means, dim=1), []
        return means

    def _measure(self, norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        maps = given[0].float()
        axes = [axis for axis in range(maps.dim()) if axis != 1]
        variance, mean = torch.var_mean(maps, axes, correction=0)
        kept_mean, kept_variance = norm.running_mean, norm.running_var
        assert isinstance(kept_mean, Tensor)
        assert isinstance(kept_variance, Tensor)
        self._distances.append((mean - kept_mean).norm() + (variance - kept_variance).norm())

    def _note_means(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        maps = given[0].float()
        if isinstance(layer, nn.LayerNorm):  # [B, tokens, channels]
            maps = maps.transpose(1, -1)
        self._means.append(maps.flatten(2).mean(2) if maps.dim() > 2 else maps)

    def _note_head(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.head_input = given[0].float()
