"""Peaks of heat maps, by which CornerNet finds corners and CenterNet objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.ops.boxes import quotient, take_rows
from pytest_onnxdet.families.ops.lowering import sigmoid
from pytest_onnxdet.families.settings import TEST_CFG, require_count


def best_peaks(heat: Tensor, k: int, kernel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The k best local maxima of a heat map.

    Args:
        heat: float32 (N, C, H, W), logits.
        k: how many; where there are fewer maxima, the others are cells of score 0.
        kernel: side of the square around a cell in which it is the greatest, odd.

    Returns:
        scores float32 (N, k), descending; cells int64 (N, k); classes int64 (N, k); x and y in
        cells, float32 (N, k, 2).
    """
    heat = sigmoid(heat)
    peak = functional.max_pool2d(heat, kernel, stride=1, padding=(kernel - 1) // 2)
    heat = torch.where(peak == heat, heat, 0.0)
    score, index = torch.topk(heat.flatten(1), k, dim=1)
    width, cells = heat.shape[3], heat.shape[2] * heat.shape[3]
    label = quotient(index, cells)
    cell = index - label * cells
    row = quotient(cell, width)
    return score, cell, label, torch.stack([cell - row * width, row], dim=-1).to(torch.float32)


def at_cells(maps: Tensor, cell: Tensor) -> Tensor:
    """Values of maps (N, C, H, W) at cells (N, k): (N, k, C)."""
    return take_rows(maps.flatten(2).transpose(1, 2), cell)


def cell_size(input: Tensor, heat: Tensor) -> Tensor:
    """Input pixels per cell, across and down: float32 (2,).

    Args:
        input: (N, C, H, W), the image; ``heat``: (N, C, h, w), a map of it.
    """
    return torch.stack(
        [
            torch.ones(()) * input.shape[3] / heat.shape[3],
            torch.ones(()) * input.shape[2] / heat.shape[2],
        ]
    )


def require_kernel(cfg: Any) -> None:
    """Refuses a square around peaks with which mmdet fails.

    Args:
        cfg: a head's test_cfg, with ``local_maximum_kernel``.

    Raises:
        UnsupportedPart: the message names the key's path.
    """
    kernel = cfg.local_maximum_kernel
    require_count(kernel, TEST_CFG, "local_maximum_kernel")
    if kernel % 2 == 0:
        raise UnsupportedPart(
            f"{TEST_CFG}.local_maximum_kernel is {kernel}: mmdet's maps of maxima are of "
            "another size then, and it fails: give an odd number"
        )
