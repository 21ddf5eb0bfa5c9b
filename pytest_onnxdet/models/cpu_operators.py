"""Operators of mmcv's that have code for a GPU alone, defined by tensor code.

A detector that has such a layer runs nowhere but on a GPU as mmcv has it. Here its layers, of this
one detector, compute their operator's definition where they are given CPU tensors; mmcv's own
classes stay as they are. Of each operator the definition is the reference and the exported graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.models.functions import functions_as


def carafe(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    """Content-aware reassembly (CARAFE, arXiv:1905.02188, equation 2).

    A cell of the result is a weighted sum of the neighbourhood of the cell below it; beyond the
    border cells are 0.

    Args:
        features: float32 (N, C, H, W).
        masks: float32 (N, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor), the
            weights.
        kernel_size: of the neighbourhood, odd.
        group_size: of channels with weights of their own.
        scale_factor: how much larger the result is.

    Returns:
        float32 (N, C, H * scale_factor, W * scale_factor).
    """
    n, channels, height, width = features.shape
    scale, reach = scale_factor, kernel_size // 2
    padded = functional.pad(features, (reach, reach, reach, reach))
    weights = masks.reshape(n, group_size, kernel_size**2, height, scale, width, scale)
    result: Any = 0
    for tap in range(kernel_size**2):
        down, right = divmod(tap, kernel_size)
        cells = padded[..., down : down - 2 * reach or None, right : right - 2 * reach or None]
        cells = cells.reshape(n, group_size, channels // group_size, height, 1, width, 1)
        result = result + cells * weights[:, :, tap, None]
    shape = (n, channels, height * scale, width * scale)
    whole: Tensor = result.reshape(shape)
    return whole


def masked_conv2d(
    features: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: int | Sequence[int] = 0,
    stride: int = 1,
) -> Tensor:
    """A convolution at some cells, 0 elsewhere, as Guided Anchoring has it (arXiv:1901.03278).

    Args:
        features: float32 (N, C, H, W).
        mask: (N, H, W), above 0 where the convolution is wanted.
        weight: float32 (O, C, h, w); ``bias``: float32 (O,).
        padding: such that the result has the size of ``features``.
        stride: 1.

    Returns:
        float32 (N, O, H, W).

    Raises:
        ValueError: another stride, or masks of another number of images: mmcv takes one.
    """
    if len(mask) != len(features):
        raise ValueError(f"a masked convolution of {len(features)} images has {len(mask)} masks")
    if stride not in (1, (1, 1)):
        raise ValueError(f"a masked convolution has a stride of 1, not {stride}")
    pads = (padding, padding) if isinstance(padding, int) else tuple(padding)
    result = functional.conv2d(features, weight, bias, padding=pads)
    return torch.where((mask > 0)[:, None], result, 0.0)


@torch.jit.script
def _bin_sums(maps: Tensor, image: Tensor, corner: Tensor, step: Tensor, count: Tensor) -> Tensor:
    # The sum of bilinear samples in each bin of each region: of maps (N, H, W, C) for corners
    # (R, bins, 2) with y before x, distances of samples (R, 2) and their numbers (R, 2).
    height, width, channels = maps.shape[1], maps.shape[2], maps.shape[3]
    rows = maps.flatten(0, 2)
    start = (image * height)[:, None]
    total = torch.zeros(corner.shape[0] * corner.shape[1], channels, dtype=maps.dtype)
    most = torch.cat([count, torch.zeros([1, 2], dtype=count.dtype)]).amax(0)
    index = torch.arange(int(most[0] * most[1]))
    rights = index % most[1].clamp(min=1)
    downs = torch.div(index - rights, most[1].clamp(min=1), rounding_mode="trunc")
    for sample in range(index.shape[0]):
        down, right = downs[sample], rights[sample]
        y = corner[:, :, 0] + ((down + 0.5) * step[:, 0])[:, None]
        x = corner[:, :, 1] + ((right + 0.5) * step[:, 1])[:, None]
        wanted = ((down < count[:, 0]) & (right < count[:, 1]))[:, None]
        inside = wanted & (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        y = y.clamp(0, height - 1)
        x = x.clamp(0, width - 1)
        top, left = y.floor(), x.floor()
        below, after = y - top, x - left
        first = (start + top.long()) * width
        second = (start + (top + 1).clamp(0, height - 1).long()) * width
        column, other = left.long(), (left + 1).clamp(0, width - 1).long()
        part = rows[(first + column).flatten()] * ((1 - below) * (1 - after)).reshape(-1, 1)
        part = part + rows[(first + other).flatten()] * ((1 - below) * after).reshape(-1, 1)
        part = part + rows[(second + column).flatten()] * (below * (1 - after)).reshape(-1, 1)
        part = part + rows[(second + other).flatten()] * (below * after).reshape(-1, 1)
        total = total + torch.where(inside.reshape(-1, 1), part, torch.zeros_like(part))
    return total


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Deformable RoI pooling (arXiv:1703.06211, equation 5): bins that are moved, each by itself.

    A bin is the mean of bilinear samples, as in an aligned RoIAlign (arXiv:1703.06870).

    Args:
        input: float32 (N, C, H, W).
        rois: float32 (R, 5), the image and corners in network-input pixels.
        offset: float32 (R, 2, h, w), x before y, as a share of ``gamma`` times the region's size;
            None or empty: none.
        output_size: bins, h and w.
        spatial_scale: feature pixels per input pixel.
        sampling_ratio: samples of a bin and axis; 0: one for each cell, rounded up.
        gamma: how far an offset of 1 moves a bin.

    Returns:
        float32 (R, C, h, w).
    """
    height, width = (output_size,) * 2 if isinstance(output_size, int) else output_size
    corners = rois[:, 1:] * spatial_scale - 0.5
    start, size = corners[:, :2].flip(1), (corners[:, 2:] - corners[:, :2]).flip(1)
    bins = torch.tensor([height, width], dtype=rois.dtype)
    step = size / bins
    count = torch.ceil(step) if sampling_ratio <= 0 else torch.full_like(step, sampling_ratio)
    cell = torch.arange(height * width)
    at = torch.stack([cell.div(width, rounding_mode="trunc"), cell % width], 1).to(rois.dtype)
    corner = start[:, None] + at * step[:, None]
    if offset is not None and offset.numel():
        moved = offset.flatten(2).flip(1).transpose(1, 2)
        corner = corner + gamma * size[:, None] * moved
    image = rois[:, 0].long()
    maps = input.permute(0, 2, 3, 1)
    sums = _bin_sums(maps, image, corner, step / count.clamp(min=1), count.clamp(min=0).long())
    means = sums.reshape(-1, height * width, input.shape[1])
    means = means / count.prod(dim=1).clamp(min=1)[:, None, None]
    return means.transpose(1, 2).contiguous().view(-1, input.shape[1], height, width)


def definitions() -> dict[type, Callable[..., Tensor]]:
    """mmcv's autograd functions without CPU code, with their definitions."""
    from mmcv.ops.carafe import CARAFEFunction, CARAFENaiveFunction
    from mmcv.ops.deform_roi_pool import DeformRoIPoolFunction
    from mmcv.ops.masked_conv import MaskedConv2dFunction

    return {
        CARAFEFunction: carafe,
        CARAFENaiveFunction: carafe,
        MaskedConv2dFunction: masked_conv2d,
        DeformRoIPoolFunction: deform_roi_pool,
    }


def give_cpu_code(detector: nn.Module) -> None:
    """Lets a detector's layers compute on a CPU what mmcv computes on a GPU alone.

    Args:
        detector: it is changed: such a layer's ``forward`` is one that tries no GPU code on CPU
            tensors. Copies of the detector have it, too.
    """
    from mmcv.ops import CARAFE, CARAFENaive, CARAFEPack, DeformRoIPool, MaskedConv2d

    for module in detector.modules():
        if isinstance(module, CARAFE | CARAFENaive | CARAFEPack | DeformRoIPool | MaskedConv2d):
            module.forward = MethodType(_forward, module)


def _forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer's own ``forward``, with definitions in place of functions without CPU code."""
    original = type(layer).forward
    if any(torch.is_tensor(value) and value.is_cuda for value in args):
        return original(layer, *args, **kwargs)
    with functions_as(definitions()):
        return original(layer, *args, **kwargs)
