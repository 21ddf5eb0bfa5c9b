"""CornerNet's pieces in default-domain operators: corner pooling and Gaussian soft-NMS."""

from __future__ import annotations

import torch
from torch import Tensor

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
def _soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, limit: int
) -> tuple[Tensor, Tensor]:
    area = (boxes[:, :, 2] - boxes[:, :, 0]) * (boxes[:, :, 3] - boxes[:, :, 1])
    column = torch.arange(boxes.size(1), device=boxes.device)[None]
    kept = torch.zeros([boxes.size(0), limit], dtype=boxes.dtype, device=boxes.device)
    index = torch.zeros([boxes.size(0), limit], dtype=torch.int64, device=boxes.device)
    slots = torch.arange(limit, device=boxes.device)[None]
    for i in range(limit):
        best, at = scores.max(dim=1, keepdim=True)
        kept = torch.where(slots == i, best, kept)
        index = torch.where(slots == i, at, index)
        picked = torch.gather(boxes, 1, at[:, :, None].expand(-1, -1, 4))
        low = torch.maximum(boxes[:, :, :2], picked[:, :, :2])
        high = torch.minimum(boxes[:, :, 2:], picked[:, :, 2:])
        side = (high - low).clamp(min=0.0)
        shared = side[:, :, 0] * side[:, :, 1]
        overlap = shared / (torch.gather(area, 1, at) + area - shared)
        same = labels == torch.gather(labels, 1, at)
        overlap = torch.where(same, overlap, torch.zeros_like(overlap))
        scores = scores * torch.exp(-(overlap * overlap) / sigma)
        gone = (scores < min_score) | (column == at)
        scores = torch.where(gone, torch.full_like(scores, -1.0), scores)
    return kept, index


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, sigma: float, min_score: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS (arXiv:1704.04503), class by class, as mmcv's ``soft_nms`` computes it.

    The best box is taken, the scores of its class decay by exp(-IoU^2 / sigma), boxes below
    ``min_score`` leave, and so on. The best ``limit`` boxes are the first ``limit`` taken.

    Args:
        boxes: float32 (N, P, 4), corners; scores float32 (N, P), -1 where there is no box;
            labels int64 (N, P).
        sigma, min_score: as in mmcv.
        limit: how many boxes of an image are kept.

    Returns:
        float32 (N, limit) decayed scores in descending order, negative in empty slots;
        int64 (N, limit) columns.
    """
    result: tuple[Tensor, Tensor] = _soft_nms(boxes, scores, labels, sigma, min_score, limit)
    return result
