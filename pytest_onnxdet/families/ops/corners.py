"""CornerNet's pieces in default-domain operators: corner pooling and Gaussian soft-NMS."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_onnxdet.families.ops.boxes import shared_length

# Corner pooling's direction: the axis that is scanned, and whether it is scanned from its end.
SCANS = {"bottom": (2, False), "top": (2, True), "right": (3, False), "left": (3, True)}


@torch.jit.script
def _running_max(values: Tensor, axis: int, backwards: bool) -> Tensor:
    # Hillis and Steele's scan: after the step of size s, each cell holds the maximum of 2 s cells.
    step = 1
    while step < values.size(axis):
        count = values.size(axis) - step
        head, tail = values.narrow(axis, 0, count), values.narrow(axis, step, count)
        both = torch.maximum(head, tail)
        if backwards:
            values = torch.cat([both, values.narrow(axis, count, step)], dim=axis)
        else:
            values = torch.cat([values.narrow(axis, 0, step), both], dim=axis)
        step = step * 2
    return values


def corner_pool(values: Tensor, mode: str, size: int | None = None) -> Tensor:
    """The maximum of each cell and all cells before it in one direction.

    mmcv's ``CornerPool`` (CornerNet, arXiv:1808.01244, section 3.3) without ``cummax``, which ONNX
    lacks: the scan doubles its reach with each of log2(size) steps.

    Args:
        values: float32 (N, C, H, W).
        mode: ``top``, ``left``, ``bottom`` or ``right``, as mmcv names them.
        size: the scanned axis's size where it is fixed: the steps are laid out; None: a loop.

    Returns:
        float32 (N, C, H, W).
    """
    axis, backwards = SCANS[mode]
    if size is None:
        result: Tensor = _running_max(values, axis, backwards)
        return result
    step = 1
    while step < size:
        head = values.narrow(axis, 0, size - step)
        both = torch.maximum(head, values.narrow(axis, step, size - step))
        if backwards:
            values = torch.cat([both, values.narrow(axis, size - step, step)], dim=axis)
        else:
            values = torch.cat([values.narrow(axis, 0, step), both], dim=axis)
        step *= 2
    return values


@torch.jit.script
def _take_in_turn(remains: Tensor, scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    # The loop is all that cannot be done at once, and each of its eight operators costs time again
    # in each round. No box is taken out of it: scores only fall, so what is below ``min_score`` is
    # taken last, and the caller drops it.
    start = torch.arange(scores.size(0), device=scores.device) * scores.size(1)
    slots = torch.arange(limit, device=scores.device)[:, None]
    values = torch.zeros([limit, scores.size(0)], dtype=scores.dtype, device=scores.device)
    index = torch.zeros([limit, scores.size(0)], dtype=torch.int64, device=scores.device)
    for i in range(min(limit, scores.size(1))):
        best, at = scores.max(dim=1)
        now = slots == i
        values = torch.where(now, best, values)
        index = torch.where(now, at, index)
        scores = scores * remains[at + start]
    return values, index


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS (arXiv:1704.04503), class by class, as mmcv's ``soft_nms`` computes it.

    The best box is taken, the scores of its class decay by exp(-IoU^2 / sigma), boxes below
    ``min_score`` leave, and so on. The best ``limit`` boxes are the first ``limit`` taken.

    Args:
        boxes: float32 (N, P, 4), corners, P >= 1; scores float32 (N, P), not positive where there
            is no box; labels int64 (N, P).
        sigma, min_score: as in mmcv.
        limit: how many boxes of an image are kept.

    Returns:
        float32 (N, limit) decayed scores in descending order, 0 in empty slots;
        int64 (N, limit) columns.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=2)
    area = (x2 - x1) * (y2 - y1)
    shared = shared_length(x1, x2) * shared_length(y1, y2)
    overlap = shared / (area[:, :, None] + area[:, None] - shared)
    # Empty slots have no area, and what is not a number must not spread from them.
    meets = (labels[:, :, None] == labels[:, None]) & (shared > 0)
    remains = torch.where(meets, torch.exp(-(overlap * overlap) / sigma), 1.0)
    order = torch.arange(boxes.shape[1], device=boxes.device)
    remains = torch.where(order[:, None] == order[None], 0.0, remains)
    values, index = (
        part.transpose(0, 1) for part in _take_in_turn(remains.flatten(0, 1), scores, limit)
    )
    # mmcv keeps the first box whatever its score.
    first = torch.arange(limit, device=boxes.device) == 0
    return torch.where(first | (values >= min_score), values, 0.0), index
