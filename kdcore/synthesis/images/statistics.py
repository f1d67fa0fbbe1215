"""What a teacher lets on while it looks at images: statistics of its layers, and what its last one is given."""

from contextlib import ExitStack
from types import TracebackType

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

    `statistics`: it must have BatchNorm layers that keep running means and variances. `layer_norms`: it must have
    LayerNorms; `means`: any of those, or convolutions. `head`: the path of its last linear layer, looked for when None.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        statistics: bool = False,
        layer_norms: bool = False,
        means: bool = False,
        head: str | bool | None = False,
    ) -> None:
        self._norms = [m for m in teacher.modules() if isinstance(m, _NORMS) and m.running_mean is not None]
        if statistics and not self._norms:
            raise ConfigError(
                "synthesis.batch_norm above 0 needs a teacher whose BatchNorm layers keep statistics of real data; "
                "this one has none. Set synthesis.batch_norm to 0 (of a transformer synthesis.layer_norm above 0), or "
                "synthesis.type to dafl, impressions or patch_similarity."
            )
        self._measured = self._norms if statistics else []
        over_channels = [m for m in teacher.modules() if isinstance(m, nn.LayerNorm) and len(m.normalized_shape) == 1]
        self._of_tokens = over_channels if layer_norms else []
        if layer_norms and not self._of_tokens:
            raise ConfigError(
                "synthesis.layer_norm above 0 needs a teacher with LayerNorms, as transformers have; this one has "
                "none. Set synthesis.layer_norm to 0, and synthesis.batch_norm above 0 if it has BatchNorms."
            )
        layers = self._norms or [m for m in teacher.modules() if isinstance(m, nn.Conv2d | nn.LayerNorm)]
        if means and not layers:
            raise ConfigError(
                "synthesis.type cmi compares images by what goes into a teacher's BatchNorms, convolutions or "
                "LayerNorms; this one has none. Set synthesis.type to another: dafl or impressions."
            )
        self._seen_by = layers if means else []
        self._head = None if head is False else last_linear(teacher, None if head is True else head)
        self._hooks = ExitStack()
        self._distances: list[Tensor] = []
        self._token_distances: list[Tensor] = []
        self._means: list[Tensor] = []
        self.head_input: Tensor | None = None

    def __enter__(self) -> "Inside":
        for norm in self._measured:
            self._hooks.enter_context(norm.register_forward_pre_hook(self._measure))
        for norm in self._of_tokens:
            self._hooks.enter_context(norm.register_forward_hook(self._measure_tokens))
        for layer in self._seen_by:
            self._hooks.enter_context(layer.register_forward_pre_hook(self._note_means))
        if self._head is not None:
            self._hooks.enter_context(self._head.register_forward_pre_hook(self._note_head))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def distance(self, first_layer: float = 1.0) -> Tensor:
        """Sum over layers of |mean - running mean| + |variance - running variance|, Euclidean, of the last pass.

        Means and variances (divided by n) over batch and places of what goes into a layer; the first layer's distance
        is multiplied by `first_layer` (DeepInversion, arXiv:1912.08795; its code has that factor). Call once a pass.
        """
        first, *others = self._distances
        self._distances = []
        return first_layer * first + sum(others, torch.zeros_like(first))

    def token_distance(self) -> Tensor:
        """Sum over LayerNorms of |mean - beta| + |variance - gamma^2|, Euclidean, of the last pass.

        Means and variances (divided by n) of each channel that a LayerNorm of scales gamma and shifts beta puts out,
        over images and places. Call once a pass.

        Our own derivation, since LayerNorm keeps nothing of its data. All that it lets out, before gamma and beta, are
        vectors z of C channels with sum 0 and square C: a sphere in C - 1 dimensions. Knowing no more than that, the
        distribution of greatest entropy is the even one on the sphere. Of it E[z z'] = (I - 11'/C) C / (C - 1), of
        which the diagonal is 1: each channel has mean 0 and variance 1, and gamma z + beta mean beta and variance
        gamma^2. That is what BatchNorm guarantees of its own output on real data; here it is a prior, and channels
        that a teacher lets stand out are pulled in as well. It keeps images, and the places of each, from being alike,
        and does not tell real ones from noise: a term of classes has to.
        """
        distance, self._token_distances = torch.stack(self._token_distances).sum(), []
        return distance

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

    def _measure_tokens(self, norm: nn.LayerNorm, given: tuple[Tensor, ...], output: Tensor) -> None:
        channels = norm.normalized_shape[-1]
        # Most see [B, ..., C]; those of convolutional networks are wrapped to see [B, C, H, W].
        tokens = output.float() if output.shape[-1] == channels else output.float().transpose(1, -1)
        variance, mean = torch.var_mean(tokens.reshape(-1, channels), 0, correction=0)
        shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.float()
        scale = torch.ones_like(mean) if norm.weight is None else norm.weight.float()
        self._token_distances.append((mean - shift).norm() + (variance - scale.square()).norm())

    def _note_means(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        maps = given[0].float()
        # Most LayerNorms see [B, ..., C]; those of convolutional networks, and all other layers, [B, C, ...].
        if isinstance(layer, nn.LayerNorm) and layer.normalized_shape == maps.shape[-1:]:
            maps = maps.transpose(1, -1)
        self._means.append(maps.flatten(2).mean(2) if maps.dim() > 2 else maps)

    def _note_head(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.head_input = given[0].float()
