"""Masked convolution on a CPU: mmcv has code for it on GPUs alone.

Guided Anchoring (arXiv:1901.03278, section 3.4) leaves out places where no anchor is likely. mmcv's
``MaskedConv2d`` does so with two compiled operators; what it gives is a convolution where the mask
is set, and 0 elsewhere.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn


def give_cpu_code(detector: nn.Module) -> None:
    """Each ``MaskedConv2d`` of a detector computes on a CPU, too; on a GPU it is mmcv's own."""
    from mmcv.ops import MaskedConv2d

    for module in detector.modules():
        if type(module) is MaskedConv2d:
            layer: Any = module
            layer.forward = functools.partial(masked_convolution, module)


def masked_convolution(layer: Any, input: Tensor, mask: Tensor | None = None) -> Tensor:
    """What ``MaskedConv2d`` gives.

    Args:
        layer: with the weights; its stride is 1.
        input: float32 (N, C, H, W); with a mask N is 1, as in mmcv.
        mask: (1, H, W), of the places that are computed; None: all are.

    Returns:
        float32 (N, O, H, W), 0 where the mask is not set.
    """
    if input.is_cuda:
        result: Tensor = type(layer).forward(layer, input, mask)
        return result
    every = nn.functional.conv2d(
        input, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    if mask is None:
        return every
    if mask.shape != (1, *input.shape[2:]) or len(input) != 1:
        raise AssertionError("a masked convolution takes one image, and a mask of its size")
    return torch.where(mask[:, None] > 0, every, torch.zeros_like(every))
