"""Multilayer perceptrons on pixels, with dropout where it is asked for."""

from collections.abc import Sequence

from torch import Tensor, nn

from kdcore.errors import ConfigError


class MLP(nn.Module):
    """Layers of rectified linear units, `hidden` wide each, on images of size x size pixels.

    `dropout_input` and `dropout`: shares of the pixels and of each hidden layer's units that are left out in training
    (Hinton et al. 2012, arXiv:1207.0580; what is kept is scaled up, so that nothing changes afterwards).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        hidden: Sequence[int] = (800, 800),
        size: int = 28,
        dropout_input: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._shape = (in_channels, size, size)
        widths = [in_channels * size * size, *hidden]
        self.input = nn.Sequential(nn.Flatten(), nn.Dropout(dropout_input))
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
            for before, after in zip(widths, hidden, strict=False)
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of pixels [B, C, size, size]; ConfigError for pixels of another shape."""
        if pixels.shape[1:] != self._shape:
            raise ConfigError(
                f"A perceptron takes images of one shape, {self._shape}, got {tuple(pixels.shape[1:])}: set `size` in "
                "the kwargs of source 'mlp' to data.size"
            )
        units = self.input(pixels)
        for layer in self.hidden:
            units = layer(units)
        return self.head(units)
