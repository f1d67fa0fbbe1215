"""The residual networks that He et al. 2015 (arXiv:1512.03385, section 4.2) trained on CIFAR-10.

Named as in the weights that are published for them: conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights (option A): every second pixel, new channels zero."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self._stride = 1 if channels == out else 2
        self._new = out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, self._stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()  # a module, so that `relu:input` taps what comes before it

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, out, H, W] of maps [B, channels, H, W]; a block that widens halves H and W."""
        inner = torch.relu(self.bn1(self.conv1(maps)))
        before = self._new // 2
        kept = maps[:, :, :: self._stride, :: self._stride]
        # Half of the new channels come before the old ones: so it was done in the published weights.
        shortcut = functional.pad(kept, (0, 0, 0, 0, before, self._new - before))
        return self.relu(self.bn2(self.conv2(inner)) + shortcut)


class CifarResNet(nn.Module):
    """`depth` = 6 n + 2 layers: three stages of n blocks with `width`, 2 and 4 times `width` channels."""

    def __init__(self, num_classes: int, in_channels: int, depth: int = 20, width: int = 16) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6 n + 2 (20, 32, 44, 56, 110), got {depth}")
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(blocks, width, width)
        self.layer2 = _stage(blocks, width, 2 * width)
        self.layer3 = _stage(blocks, 2 * width, 4 * width)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of pixels [B, C, H, W]."""
        maps = torch.relu(self.bn1(self.conv1(pixels)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(torch.mean(maps, dim=(2, 3)))


def _stage(blocks: int, channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(*(BasicBlock(channels if number == 0 else out, out) for number in range(blocks)))
