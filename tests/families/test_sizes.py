"""Padding, pooling and interpolation of sizes that only the graph's input says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import exported, run
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.filterwarnings("ignore")
FREE = {0: {0: "n", 2: "h", 3: "w"}, 1: {2: "h1", 3: "w1"}}


class ToSize(nn.Module):
    """One map brought to the size of another one, by a function of PyTorch's."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        if self.how == "pool":
            pooled: Tensor = functional.adaptive_max_pool2d(x, output_size=like.shape[2:])
            return pooled + 0 * like[:, :1]
        return functional.interpolate(x, size=like.shape[2:], mode="nearest") + 0 * like[:, :1]


def drawn(height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(1, channels, height, width, generator=generator)


#: Widths of which ONNX's Resize gives other cells than PyTorch, and others.
WIDTHS = [(50, 198), (2, 82), (14, 16), (58, 230), (25, 50), (13, 25), (7, 5), (3, 3), (1, 9)]


@pytest.mark.parametrize("traced", [(4, 13), (4, 8), (8, 4)])
def test_nearest_cells_are_pytorchs_at_every_ratio(traced: tuple[int, int], tmp_path: Path) -> None:
    module = ToSize("interpolate")
    example = (drawn(traced[0], traced[0]), drawn(traced[1], traced[1], 1))
    session = exported(module, example, tmp_path, FREE)
    neighbours = traced == (4, 8)
    for cells, count in WIDTHS:
        if neighbours and cells != (count + 1) // 2:
            continue
        x, like = drawn(cells, cells), drawn(count, count, 1)
        assert np.array_equal(run(session, x, like)[0], module(x, like).numpy()), (cells, count)


def test_adaptive_maxima_of_any_size(tmp_path: Path) -> None:
    module = ToSize("pool")
    session = exported(module, (drawn(8, 8), drawn(4, 4, 1)), tmp_path, FREE)
    for (height, width), (rows, columns) in [
        ((8, 8), (4, 4)),
        ((13, 20), (4, 7)),
        ((5, 9), (5, 3)),
        ((3, 2), (5, 4)),
        ((1, 1), (1, 1)),
    ]:
        x, like = drawn(height, width), drawn(rows, columns, 1)
        assert np.array_equal(run(session, x, like)[0], module(x, like).numpy())


class Merge(nn.Module):
    def __init__(self) -> None:
        from mmcv.ops.merge_cells import SumCell

        super().__init__()
        self.cell = SumCell(3, 3, with_out_conv=False)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        result: Tensor = self.cell(x, like, out_size=like.shape[2:])
        return result


@pytest.mark.parametrize(
    ("traced", "sizes"),
    [
        ((8, 4), [(13, 7), (9, 3), (4, 4), (1, 1), (20, 5)]),
        ((4, 8), [(7, 13), (3, 9), (4, 4), (1, 1)]),
        ((1, 1), [(13, 7), (7, 13), (1, 1)]),
    ],
)
def test_levels_merge_up_and_down(
    traced: tuple[int, int], sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Also where the trace does not show which of the two is finer."""
    module = Merge()
    example = (drawn(traced[0], traced[0]), drawn(traced[1], traced[1]))
    session = exported(module, example, tmp_path, FREE)
    for own, wanted in sizes:
        x, like = drawn(own, own), drawn(wanted, wanted)
        expected = module(x, like).numpy()
        assert np.array_equal(run(session, x, like)[0], expected), (own, wanted)


@pytest.mark.parametrize("mode", ["corner", "same"])
def test_patches_cover_any_image(mode: str, tmp_path: Path) -> None:
    from mmdet.models.utils.transformer import AdaptivePadding

    module = AdaptivePadding(kernel_size=5, stride=4, padding=mode)
    session = exported(module, (drawn(16, 16),), tmp_path, {0: FREE[0]})
    for height, width in [(16, 17), (19, 30), (4, 5)]:
        x = drawn(height, width)
        assert np.array_equal(run(session, x)[0], module(x).numpy())
