"""Matrix NMS (SOLOv2, arXiv:2003.10152, section 3.3): scores decay by how masks overlap."""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = ("gaussian", "linear")


def matrix_nms(
    masks: Tensor, areas: Tensor, labels: Tensor, scores: Tensor, kernel: str, sigma: float
) -> Tensor:
    """Scores after decay, batch-first, with the arithmetic of mmdet's ``mask_matrix_nms``.

    Args:
        masks: float32 (N, K, A), 0 or 1, the pixels of each mask.
        areas: float32 (N, K), their sums.
        labels: int64 (N, K).
        scores: float32 (N, K) in descending order, 0 in empty slots, which come last.
        kernel: one of :data:`KERNELS`.
        sigma: of the Gaussian.

    Returns:
        float32 (N, K), not sorted; 0 in empty slots.
    """
    shared = torch.matmul(masks, masks.transpose(1, 2))
    union = areas[:, None] + areas[:, :, None] - shared
    return decayed(shared, union, labels, scores, kernel, sigma)


def decayed(
    shared: Tensor, union: Tensor, labels: Tensor, scores: Tensor, kernel: str, sigma: float
) -> Tensor:
    """:func:`matrix_nms` of the masks' common and joint areas, float32 (N, K, K)."""
    rank = torch.arange(scores.shape[1], device=scores.device)
    before = (rank[:, None] < rank[None])[None] & (labels[:, :, None] == labels[:, None])
    before = before & (scores > 0)[:, None] & (scores > 0)[:, :, None]
    # What a slot of no mask divides by 0 is not looked at.
    overlap = torch.where(before, shared / union.clamp(min=1.0), 0.0)
    most = overlap.amax(dim=1)[:, :, None]
    if kernel == "gaussian":
        factor = torch.exp(-1 * sigma * overlap**2) / torch.exp(-1 * sigma * most**2)
    else:
        factor = (1 - overlap) / (1 - most)
    return scores * factor.amin(dim=1)
