"""How many channels a stem takes, and that such a detector exports and verifies."""

from typing import Any

import pytest
import torch
from torch import nn

from pytest_onnxdet.models.channels import input_channels


class Detector:
    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone


class Focus(nn.Module):
    """Four pixels to one of four times the channels, as in YOLOX's stem."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels * 4, 8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(nn.functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_the_stem_says_how_many(channels: int) -> None:
    plain = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3))
    assert input_channels(Detector(plain)) == channels
    assert input_channels(Detector(Focus(channels))) == channels
    assert not plain[0]._forward_hooks


def test_without_a_convolution_there_are_three() -> None:
    assert input_channels(Detector(nn.Linear(3, 3))) == 3
    assert input_channels(object()) == 3
