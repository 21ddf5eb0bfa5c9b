"""What mmdet finds when the cells that a backend takes for CornerNet's or CenterNet's peaks are.

A corner is a cell that equals the greatest value around it (CornerNet, arXiv:1808.01244, section
3.4). Corner pooling spreads one value over whole rows, so neighbours are often equal or a rounding
apart, and which of them are peaks is left open: in one runtime both are, in another either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.reference.ties.cuts import first
from pytest_onnxdet.reference.ties.replace import replaced
from pytest_onnxdet.reference.ties.rounding import score_slack
from pytest_onnxdet.reference.ties.suppression import Unproven


@contextlib.contextmanager
def played_back_peaks(maps: Sequence[Tensor]) -> Iterator[None]:
    """For the duration of the block, mmdet's corners are at the peaks of these maps.

    Args:
        maps: a backend's heat maps as logits, float32 (N, C, H, W), in the order in which mmdet
            looks for peaks: top-left, bottom-right.

    Raises:
        Unproven: within the block, where a peak, or one among the best, is none by more than
            rounding.
    """
    from mmdet.models.utils.gaussian_target import get_local_maximum, get_topk_from_heatmap

    left, seen = list(maps), []

    def chosen(heat: Tensor, kernel: int = 3) -> Tensor:
        theirs = left.pop(0).sigmoid()
        peaks = judge_peaks(heat, theirs, kernel)
        seen.append(theirs * peaks)
        return heat * peaks

    def best(scores: Tensor, k: int = 20) -> Any:
        # All others are put behind them; what mmdet computes of these cells is its own.
        return get_topk_from_heatmap(
            torch.where(judge_first(scores, seen.pop(0), k), scores, -1.0), k
        )

    with replaced(get_local_maximum, chosen), replaced(get_topk_from_heatmap, best):
        yield


def judge_first(heat: Tensor, theirs: Tensor, count: int) -> Tensor:
    """Which cells are the best of ``theirs``, if rounding alone may make them the best of ``heat``.

    Args:
        heat: PyTorch's scores, float32 (N, C, H, W), 0 where no peak is.
        theirs: the backend's; of equal ones the first are taken, as in ONNX.
        count: how many are taken of each image.

    Returns:
        bool (N, C, H, W).

    Raises:
        Unproven: a cell is taken in one of the two, and not by a tie.
    """
    ours = heat.flatten(1)
    index = torch.sort(theirs.flatten(1), dim=1, descending=True, stable=True).indices[:, :count]
    taken = torch.zeros_like(ours, dtype=torch.bool).scatter(1, index, True)
    for image, scores in zip(taken.numpy(), ours.numpy(), strict=True):
        sure, possible = first(scores, count)
        wrong = (image & ~possible) | (sure & ~image)
        if wrong.any():
            score = float(scores[wrong.argmax()])
            raise Unproven(
                f"a corner of score {score:.6g} is among the best in one of the two only"
            )
    return taken.reshape(heat.shape)


def judge_peaks(heat: Tensor, theirs: Tensor, kernel: int) -> Tensor:
    """Which cells are peaks of ``theirs``, if rounding alone may make them peaks of ``heat``.

    Args:
        heat: PyTorch's scores, float32 (N, C, H, W).
        theirs: the backend's.
        kernel: side of the square around a cell in which it is the greatest.

    Returns:
        bool (N, C, H, W).

    Raises:
        Unproven: a cell is a peak of one of the two, and not by a tie.
    """
    ours, others = _around(heat, kernel)
    peaks = theirs == functional.max_pool2d(theirs, kernel, stride=1, padding=(kernel - 1) // 2)
    tie = torch.from_numpy(2 * score_slack(heat.numpy())).to(heat.dtype)
    gained, lost = peaks & ~ours, ours & ~peaks
    wrong = (gained & (heat < others - tie)) | (lost & (others < heat - tie))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong.numpy())[0])
        raise Unproven(f"cell {at} of score {float(heat[at]):.6g} is a peak in one of the two only")
    return peaks


def _around(heat: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Which cells are peaks, and the greatest value around each, itself left out."""
    n, channels, height, width = heat.shape
    padding = (kernel - 1) // 2
    windows = functional.unfold(heat.flatten(0, 1)[:, None], kernel, padding=padding)
    windows[:, kernel * kernel // 2] = -1.0
    others = windows.amax(dim=1).reshape(n, channels, height, width)
    return heat >= others, others
