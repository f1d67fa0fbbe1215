"""A small convolutional classifier for images of any size; the built-in network for trials on a laptop."""

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """`depth` blocks of a 3x3 convolution, GroupNorm and GELU; each block but the first halves the side."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = in_channels
        for number in range(depth):
            out = width * 2 ** min(number, 3)
            stride = 1 if number == 0 else 2
            blocks += [nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(1, out), nn.GELU()]
            channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of pixels [B, C, H, W]."""
        return self.head(torch.mean(self.blocks(pixels), dim=(2, 3)))
