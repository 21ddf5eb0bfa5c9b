"""Attention in shifted windows (Swin, arXiv:2103.14030) for images of any size and number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.ops.sizes import missing, whole

#: What is added to the attention between two cells that are neighbours by the cyclic shift alone.
FAR = -100.0


def shifted_window_attention(original: Any) -> Any:
    """mmdet's ``ShiftWindowMSA.forward`` with the number of windows in the graph."""
    del original

    def forward(layer: Any, query: Tensor, hw_shape: tuple[Any, Any]) -> Tensor:
        size, shift = layer.window_size, layer.shift_size
        height, width = hw_shape
        n, channels = query.shape[0], query.shape[2]
        x = query.reshape(n, height, width, channels)
        below, right = missing(height, size, size, 1), missing(width, size, size, 1)
        x = functional.pad(x, (0, 0, 0, right, 0, below))
        rows, columns = x.shape[1], x.shape[2]
        mask = None
        if shift > 0:
            x = torch.roll(x, (-shift, -shift), (1, 2))
            mask = shift_mask(rows, columns, size, shift)
        windows = layer.w_msa(_partition(x, size).flatten(1, 2), mask=mask)
        x = _merged(windows, rows, columns, size)
        if shift > 0:
            x = torch.roll(x, (shift, shift), (1, 2))
        x = x[:, :height, :width].reshape(n, height * width, channels)
        result: Tensor = layer.drop(x)
        return result

    return forward


def _partition(x: Tensor, size: int) -> Tensor:
    """Maps (N, H, W, C), whole windows wide and high, as windows (N * windows, size, size, C)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, whole(height, size), size, whole(width, size), size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size, size, channels)


def _merged(windows: Tensor, height: Any, width: Any, size: int) -> Tensor:
    """Windows (N * windows, size * size, C) as maps (N, height, width, C)."""
    channels = windows.shape[2]
    x = windows.reshape(-1, whole(height, size), whole(width, size), size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def shift_mask(height: Any, width: Any, size: int, shift: int) -> Tensor:
    """Which cells of a window do not see each other after the cyclic shift (section 3.2).

    Args:
        height, width: of the padded map, whole windows.
        size: of a window.
        shift: of the map, towards the upper left.

    Returns:
        float32 (windows, size * size, size * size): 0, or :data:`FAR` between parts of the map
        that are no neighbours.
    """

    def parts(length: Any) -> Tensor:
        # The last window has the cells that were shifted across the border, and others.
        at = torch.arange(length)
        return (at >= length - size).to(torch.int64) + (at >= length - shift).to(torch.int64)

    part = parts(height)[:, None] * 3 + parts(width)[None]
    part = _partition(part[None, :, :, None], size).flatten(1)
    return torch.where(part[:, None] != part[:, :, None], FAR, 0.0)
