"""Boxes from buckets (Side-Aware Boundary Localization, arXiv:1912.04260, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.classes import UnsupportedPart, objection
from pytest_onnxdet.families.ops.boxes import clip

BUCKETS = "mmdet.core.bbox.coder.BucketingBBoxCoder"


def require_buckets(coder: Any) -> None:
    """Refuses a box coder other than mmdet's ``BucketingBBoxCoder``; raises `UnsupportedPart`."""
    why = objection(coder, (BUCKETS,), ("decode",))
    if why is not None:
        raise UnsupportedPart(f"the box coder {type(coder).__name__} has no lowering: {why}")


def decode_buckets(
    coder: Any, boxes: Tensor, classes: Tensor, offsets: Tensor, image_shape: Tensor
) -> tuple[Tensor, Tensor]:
    """Each side in the likeliest of its buckets, and how sure the network is of all four.

    The steps are those of mmdet's ``BucketingBBoxCoder``. Sides come as left, right, top, bottom.

    Args:
        coder: mmdet's ``BucketingBBoxCoder``.
        boxes: float32 (N, K, 4), corners in network-input pixels.
        classes: float32 (N, K, 4 * B), logits of each side's B buckets, the outermost first.
        offsets: float32 (N, K, 4 * B), distances from the buckets' centres, in buckets.
        image_shape: int64 (N, 2).

    Returns:
        float32 (N, K, 4) corners, clipped to the last pixels' corners where the coder clips;
        float32 (N, K) confidences, the mean over the sides of the likeliest bucket's probability
        and, where it is the neighbour, the second likeliest's.
    """
    classes, offsets = classes.unflatten(2, (4, -1)), offsets.unflatten(2, (4, -1))
    probability, bucket = torch.topk(classes.softmax(dim=3), 2, dim=3)
    first, second = bucket[..., 0], bucket[..., 1]
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    size = (boxes[..., 2:] - boxes[..., :2]) * coder.scale_factor
    low, high = centre - 0.5 * size, centre + 0.5 * size
    # The size of the grown box once more: mmdet takes it from the corners.
    across, down = ((high - low) / coder.num_buckets).unbind(dim=2)
    step = torch.stack([across, -across, down, -down], dim=2)
    start = torch.stack([low[..., 0], high[..., 0], low[..., 1], high[..., 1]], dim=2)
    side = start + (0.5 + first.to(boxes.dtype)) * step
    side = side - torch.gather(offsets, 3, first[..., None])[..., 0] * step.abs()
    corners = torch.stack([side[..., 0], side[..., 2], side[..., 1], side[..., 3]], dim=2)
    if coder.clip_border:
        corners = clip(corners, image_shape - 1)
    beside = ((first - second).abs() == 1).to(boxes.dtype)
    confidence = probability[..., 0] + probability[..., 1] * beside
    return corners, confidence.mean(dim=2)
