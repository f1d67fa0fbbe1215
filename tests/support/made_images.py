"""A teacher whose BatchNorm layers have seen something, small enough to be asked a hundred times in a second."""

import torch
from torch import Tensor, nn

from kdcore.synthesis.images.pixels import PixelSpace

SPACE = PixelSpace((1, 8, 8), (0.4,), (0.3,))
CLASSES = 3


class BatchNormNet(nn.Module):
    """Two convolutions, each before a BatchNorm, and a head."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 2, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = torch.relu(self.bn1(self.conv1(pixels)))
        return self.head(torch.relu(self.bn2(self.conv2(maps))).mean((2, 3)))


def blobs(count: int) -> tuple[Tensor, Tensor]:
    """A bright square in one of three corners: pixels in 0 .. 1 and classes."""
    targets = torch.arange(count) % CLASSES
    pixels = 0.3 * torch.rand(count, *SPACE.shape)
    for target in range(CLASSES):
        down, across = divmod(target, 2)
        pixels[target::CLASSES, :, 4 * down : 4 * down + 4, 4 * across : 4 * across + 4] += 0.7
    return pixels.clamp(0, 1), targets


def batch_norm_teacher() -> BatchNormNet:
    """Trained for half a second to know the corners; frozen."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = BatchNormNet()
        optimizer = torch.optim.Adam(net.parameters(), 0.03)
        for _ in range(40):
            pixels, targets = blobs(48)
            loss = nn.functional.cross_entropy(net(SPACE.seen(pixels)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.requires_grad_(False).eval()
