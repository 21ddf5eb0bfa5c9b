"""Deformable convolution in tensor code that traces: mmcv's compiled operator has no ONNX form.

Of three ways on a map of 64 x 100 x 152 and one thread (mmcv itself: 0.17 s), GridSample with a
product takes 0.11 s, four Gathers with a product 0.39 s, and opset 19's DeformConv 0.06 s. The
last one needs a later opset than the suite's and a late ONNX Runtime. Their errors against float64
are 2.9e-6, 2.4e-6 and 2.3e-6, mmcv's is 2.3e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.ops.boxes import stacked
from pytest_onnxdet.families.ops.opset import NeedsOpset

#: GridSample's first opset.
MIN_OPSET = 16


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
    bias: bool = False,
    im2col_step: int = 32,
) -> Tensor:
    """Deformable convolution (arXiv:1703.06211, equation 2), as mmcv's function of this name.

    Args:
        input: float32 (N, C, H, W).
        offset: float32 (N, deform_groups * kernel size * 2, h, w) in cells, y before x.
        weight: float32 (O, C / groups, kernel height, kernel width).
        stride, padding, dilation: of both axes, or a pair.
        groups: of channels that are convolved by themselves.
        deform_groups: of channels with offsets of their own.
        bias, im2col_step: mmcv's; they change nothing.

    Returns:
        float32 (N, O, h, w).
    """
    return modulated_deform_conv2d(
        input, offset, None, weight, None, stride, padding, dilation, groups, deform_groups
    )


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Modulated deformable convolution (arXiv:1811.11168, equation 1), as mmcv's function.

    Args:
        input, offset, weight, stride, padding, dilation, groups, deform_groups: as for
            :func:`deform_conv2d`.
        mask: float32 (N, deform_groups * kernel size, h, w), a factor for each sample; None: 1.
        bias: float32 (O,) or None.

    Returns:
        float32 (N, O, h, w).
    """
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    taps = kernel[0] * kernel[1]
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    size = [
        (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    if _other_size(offset, size):
        offset = _first_cells(offset, deform_groups * taps * 2, size)
        mask = None if mask is None else _first_cells(mask, deform_groups * taps, size)
    grid = _grid(input, offset, kernel, stride, padding, dilation, deform_groups)
    maps = input
    if deform_groups > 1:  # channels with offsets of their own are images of their own
        maps = input.unflatten(1, (deform_groups, -1)).flatten(0, 1)
    samples = functional.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
    # (N * deform_groups, channels, taps * h, w) to (N, C, taps, h, w)
    height = offset.shape[2]
    samples = samples.unflatten(2, (taps, height)) if taps > 1 else samples[:, :, None]
    if deform_groups > 1:
        samples = samples.unflatten(0, (-1, deform_groups))
    if mask is not None:
        if deform_groups > 1:
            samples = samples * mask.unflatten(1, (deform_groups, 1, taps))
        else:
            samples = samples * mask[:, None]
    columns = samples.flatten(1, -3)
    # A product of matrices, group by group: each sample is a channel of its own.
    return functional.conv2d(columns, weight.flatten(1)[..., None, None], bias, groups=groups)


def _other_size(offset: Tensor, size: Sequence[Any]) -> bool:
    """Whether offsets are for another size than the result has, as far as this trace shows it.

    A result of one cell shows nothing; what is done then changes nothing where sizes are equal.
    """
    own, wanted = [int(n) for n in offset.shape[2:]], [int(n) for n in size]
    return own != wanted or wanted == [1, 1]


def _first_cells(values: Tensor, channels: int, size: Sequence[Any]) -> Tensor:
    """Maps (N, C, H, W) read as if they were (N, channels, *size), as mmcv's operator reads them.

    It does not look at the size of offsets and masks. DyHead (arXiv:2106.08322), as mmdet has it,
    gives those of a finer level, of which the first cells in memory are read.
    """
    flat = values.flatten(1)[:, : channels * size[0] * size[1]]
    return flat.reshape(-1, channels, size[0], size[1])


def _grid(
    input: Tensor,
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    deform_groups: int,
) -> Tensor:
    """Where to sample, (N * deform_groups, taps * h, w, 2) with x before y, from -1 to 1."""
    taps = kernel[0] * kernel[1]
    # (N, deform_groups * taps * 2, h, w) to (N * deform_groups, taps, 2, h, w)
    offsets = offset.unflatten(1, (deform_groups, taps, 2)).flatten(0, 1)
    tap = torch.arange(taps, device=offset.device)
    inner = (tap.div(kernel[1], rounding_mode="floor"), tap % kernel[1])
    axes = []
    for axis in (1, 0):
        cells, size = offset.shape[2 + axis], input.shape[2 + axis]
        outer = torch.arange(cells, device=offset.device) * stride[axis] - padding[axis]
        outer = outer[:, None] if axis == 0 else outer[None]
        at = outer[None] + (inner[axis] * dilation[axis])[:, None, None]
        position = at.to(offset.dtype) + offsets[:, :, axis]
        # Cell i's centre is at (2 i + 1) / size - 1.
        axes.append((position * 2 + 1) / stacked([size], offset.device).to(offset.dtype) - 1)
    return torch.stack(axes, dim=-1).flatten(1, 2)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A setting of both axes, height first."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)


def plain_forward(original: Any) -> Any:
    """mmcv's ``DeformConv2d.forward`` for tracing, without its padding of maps below the kernel.

    It pads the map and the offsets with zeros and cuts the result, and decides so by the sizes.
    Samples outside a map are zeros already, so that at a stride of 1 this changes nothing.

    Args:
        original: the method, called at other strides.
    """

    def forward(layer: Any, x: Tensor, offset: Tensor) -> Tensor:
        if pair(layer.stride) != (1, 1):
            result: Tensor = original(layer, x, offset)
            return result
        return deform_conv2d(
            x,
            offset,
            layer.weight,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.deform_groups,
        )

    return forward


def require_grid_sample(opset: int) -> None:
    """Raises `NeedsOpset` where an opset has no GridSample."""
    if opset < MIN_OPSET:
        raise NeedsOpset(
            MIN_OPSET, f"deformable convolution needs GridSample, which is of opset {MIN_OPSET}"
        )
