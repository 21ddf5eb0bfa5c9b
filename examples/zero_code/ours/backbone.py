"""A backbone that has nothing to do with mmdet's."""

from mmdet.models import BACKBONES
from torch import nn


def _half(inner, outer):
    """Half the size, and a block of depthwise and pointwise convolutions with a way around it."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.SiLU(),
        _Around(
            nn.Conv2d(outer, outer, 5, padding=2, groups=outer, bias=False),
            nn.BatchNorm2d(outer),
            nn.Conv2d(outer, outer, 1),
            nn.SiLU(),
        ),
    )


class _Around(nn.Sequential):
    """What its layers make of an input, and the input."""

    def forward(self, x):
        return x + super().forward(x)


@BACKBONES.register_module()
class SlimNet(nn.Module):
    """Stages that halve the size each; the last three of their outputs are given on.

    Args:
        channels: of each stage's output.
    """

    def __init__(self, channels=(8, 16, 24, 32)):
        super().__init__()
        inner = (3, *channels[:-1])
        self.stages = nn.ModuleList(_half(*pair) for pair in zip(inner, channels, strict=True))

    def forward(self, x):
        """Images float32 (N, 3, H, W) to three maps, of strides 4, 8 and 16 with four stages."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps[-3:])
