"""LeNet-5 (LeCun et al. 1998), any number of times as wide."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.errors import ConfigError

_SIDE = 32


class LeNet5(nn.Module):
    """Convolutions of 6, 16 and 120 channels and a layer of 84 units, all times `width`, rounded.

    As it is used today: rectified units and maxima instead of tanh and trained averages, and a linear head.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float = 1.0) -> None:
        super().__init__()
        first, second, third, units = (max(1, round(count * width)) for count in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(in_channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.conv3 = nn.Conv2d(second, third, 5)
        self.hidden = nn.Linear(third, units)
        self.head = nn.Linear(units, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of pixels [B, C, 28, 28], which get a border of zeros, or [B, C, 32, 32]."""
        side = pixels.shape[-1]
        if pixels.shape[-2] != side or side not in (_SIDE - 4, _SIDE):
            raise ConfigError(
                f"LeNet-5 takes images of 28 x 28 or 32 x 32 pixels, got {side} x {pixels.shape[-2]}: set data.size"
            )
        border = (_SIDE - side) // 2
        maps = functional.pad(pixels, (border,) * 4)
        maps = functional.max_pool2d(torch.relu(self.conv1(maps)), 2)
        maps = functional.max_pool2d(torch.relu(self.conv2(maps)), 2)
        features = torch.relu(self.conv3(maps)).flatten(1)
        return self.head(torch.relu(self.hidden(features)))
