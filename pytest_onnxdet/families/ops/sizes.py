"""Padding and pooling whose amounts depend on the image's size, with the sizes in the graph.

mmcv and mmdet compute these amounts with Python's numbers, which a trace makes constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.ops.boxes import quotient


def whole(size: Any, by: Any) -> Any:
    """The whole quotient of two numbers that are not negative, each a number or a traced size."""
    if torch.is_tensor(size) or torch.is_tensor(by):
        return quotient(torch.as_tensor(size), by)
    return size // by


def ceil_quotient(size: Any, by: Any) -> Any:
    """The same, rounded up."""
    return whole(size + by - 1, by)


def missing(size: Any, kernel: int, stride: int, dilation: int) -> Any:
    """How many cells an axis lacks for a window to start at each stride, at least 0.

    The padding ``SAME`` of TensorFlow: ceil(size / stride) windows.
    """
    lacking = (ceil_quotient(size, stride) - 1) * stride + (kernel - 1) * dilation + 1 - size
    return lacking.clamp(min=0) if torch.is_tensor(lacking) else max(lacking, 0)


def pad_by(x: Tensor, height: Any, width: Any, corner: bool) -> Tensor:
    """Maps (N, C, H, W) with so many more rows and columns of zeros.

    Args:
        x: the maps.
        height, width: numbers or traced sizes.
        corner: all of them at the end; else half of them before, and the odd one after.
    """
    if not any(torch.is_tensor(number) or number for number in (height, width)):
        return x
    if corner:
        return functional.pad(x, [0, width, 0, height])
    left, top = whole(width, 2), whole(height, 2)
    return functional.pad(x, [left, width - left, top, height - top])


def adaptive_padding(original: Any) -> Any:
    """mmdet's ``AdaptivePadding.forward``, which embeds patches of images of any size."""
    del original

    def forward(layer: Any, x: Tensor) -> Tensor:
        if layer.padding not in ("corner", "same"):
            return x
        height, width = _missing(x, layer.kernel_size, layer.stride, layer.dilation)
        return pad_by(x, height, width, corner=layer.padding == "corner")

    return forward


def convolution_same(original: Any) -> Any:
    """mmcv's ``Conv2dAdaptivePadding.forward``, a convolution with the padding ``SAME``."""
    del original

    def forward(layer: Any, x: Tensor) -> Tensor:
        height, width = _missing(x, layer.weight.shape[2:], layer.stride, layer.dilation)
        return functional.conv2d(
            pad_by(x, height, width, corner=False),
            layer.weight,
            layer.bias,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    return forward


def _missing(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Any, Any]:
    height, width = (
        missing(x.shape[2 + axis], int(kernel[axis]), stride[axis], dilation[axis])
        for axis in (0, 1)
    )
    return height, width


def merge_resize(original: Any) -> Any:
    """mmcv's ``BaseMergeCell._resize``, which brings a level of a pyramid to another one's size.

    A coarser map is interpolated. A finer one is padded to a multiple of the wanted size and
    pooled, by the maximum; the kernel depends on the image's size, so the maximum is that of an
    axis of its own. Which of the two a map needs does not depend on the image's size, unless both
    have the same one.
    """
    del original

    def resize(cell: Any, x: Tensor, size: Sequence[Any]) -> Tensor:
        own, wanted = [int(n) for n in x.shape[2:]], [int(n) for n in size]
        if own == wanted and own != [1, 1]:
            return x  # the same level: another one is only ever as large at a size of 1
        if own <= wanted:
            finest = [torch.maximum(*_tensors(x.shape[2 + i], size[i])) for i in (0, 1)]
            target = finest if own == wanted else size
            x = functional.interpolate(x, size=_size(target), mode=cell.upsample_mode)
        return pool_to(x, size) if own >= wanted else x

    return resize


def _tensors(*numbers: Any) -> Iterator[Tensor]:
    return map(torch.as_tensor, numbers)


def _size(size: Sequence[Any]) -> tuple[Any, ...]:
    """Sizes as ``interpolate`` takes them: numbers, or sizes of a shape being traced."""
    return tuple(n if torch.jit.is_tracing() else int(n) for n in size)


def pool_to(x: Tensor, size: Sequence[Any]) -> Tensor:
    """The maximum of equal windows: maps (N, C, H, W), padded with zeros, to ``size``."""
    steps = [ceil_quotient(x.shape[2 + axis], size[axis]) for axis in (0, 1)]
    height, width = (steps[axis] * size[axis] - x.shape[2 + axis] for axis in (0, 1))
    x = pad_by(x, height, width, corner=False)
    windows = x.reshape(x.shape[0], x.shape[1], size[0], steps[0], size[1], steps[1])
    return windows.amax(dim=5).amax(dim=3)


def interpolate(original: Any) -> Any:
    """``torch.nn.functional.interpolate`` whose nearest cells are PyTorch's at every ratio.

    ONNX divides a target's index by a ratio in float32 where PyTorch multiplies it by the inverse,
    so that they round to other cells where the quotient is whole: of 50 cells at 198 one. Between
    neighbours of a pyramid that does not occur; for other ratios the cells are looked up.
    """

    def resize(
        input: Tensor,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        *others: Any,
        **more: Any,
    ) -> Any:
        if mode != "nearest" or not isinstance(size, Sequence) or input.dim() != 4:
            return original(input, size, scale_factor, mode, *others, **more)
        pairs = list(zip(input.shape[2:], size, strict=True))
        if all(int(cells) == (int(count) + 1) // 2 > 1 for cells, count in pairs):
            return original(input, size, scale_factor, mode, *others, **more)
        for axis, (cells, count) in enumerate(pairs, 2):
            input = input.index_select(axis, _nearest(cells, count, input.device))
        return input

    return resize


def _nearest(cells: Any, count: Any, device: Any) -> Tensor:
    """Of ``cells`` the one at each of ``count`` places, int64 (count,), in PyTorch's steps."""
    size = torch.as_tensor(cells, device=device)
    ratio = size.to(torch.float32) / torch.as_tensor(count, device=device).to(torch.float32)
    at = torch.floor(torch.arange(count, device=device).to(torch.float32) * ratio)
    return torch.minimum(at.to(torch.int64), size - 1)


def cut_sum(original: Any) -> Any:
    """mmdet's ``FPN_CARAFE.tensor_add``, whose second map is cut to the first one's size."""
    del original

    def add(neck: Any, a: Tensor, b: Tensor) -> Tensor:
        del neck
        return a + b[:, :, : a.shape[2], : a.shape[3]]

    return add


def adaptive_max_pool2d(original: Any) -> Any:
    """``torch.nn.functional.adaptive_max_pool2d`` to a size of the graph, as BFP uses it.

    Output cell i is the maximum of cells floor(i * size / out) to ceil((i + 1) * size / out), which
    are looked up axis by axis: as many as the longest run has, a shorter one repeats its last.
    """

    def pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        sizes = output_size if isinstance(output_size, Sequence) else (output_size,) * 2
        if return_indices or not any(torch.is_tensor(size) for size in sizes):
            return original(input, output_size, return_indices)
        for axis in (2, 3):
            cells, count = torch.as_tensor(input.shape[axis]), sizes[axis - 2]
            at = torch.arange(count, device=input.device)
            start = whole(at * cells, count)
            last = ceil_quotient((at + 1) * cells, count) - 1
            run = torch.arange(ceil_quotient(cells, count) + 1, device=input.device)
            index = torch.minimum(start[:, None] + run, last[:, None])
            shape = list(input.shape)
            shape[axis : axis + 1] = [count, ceil_quotient(cells, count) + 1]
            input = input.index_select(axis, index.flatten()).reshape(shape)
            input = input.amax(dim=axis + 1)
        return input

    return pool
