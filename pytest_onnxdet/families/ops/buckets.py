"""Boxes as buckets and offsets within them: SABL's ``BucketingBBoxCoder`` (arXiv:1912.04260)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.classes import UnsupportedPart, objection
from pytest_onnxdet.families.ops.boxes import clip

#: Of which side of a box each of four rows of buckets is: left, right, top, bottom.
_SIDES = 4


def require_buckets(coder: Any) -> None:
    """Refuses a box coder other than mmdet's ``BucketingBBoxCoder``; raises `UnsupportedPart`."""
    why = objection(coder, ("mmdet.core.bbox.coder.BucketingBBoxCoder",), ("decode",))
    if why is not None:
        raise UnsupportedPart(f"the box coder {type(coder).__name__} has no lowering: {why}")


def decode_buckets(
    coder: Any, boxes: Tensor, buckets: Tensor, offsets: Tensor, image_shape: Tensor
) -> tuple[Tensor, Tensor]:
    """Boxes of the likeliest bucket of each side, and how sure the head is of them.

    Args:
        coder: mmdet's ``BucketingBBoxCoder``.
        boxes: float32 (N, K, 4), the corners that are refined.
        buckets: float32 (N, K, 4 * B), logits of the buckets of each side: left, right, top,
            bottom, each counted from the outside.
        offsets: float32 (N, K, 4 * B), in buckets.
        image_shape: int64 (N, 2), height and width before padding.

    Returns:
        float32 (N, K, 4) corners in network-input pixels, and float32 (N, K), the mean over sides
        of the likeliest bucket's probability, with the second one's where it is its neighbour.
    """
    probability, bucket = (
        buckets.unflatten(2, (_SIDES, -1)).softmax(dim=-1).topk(2, dim=-1, largest=True)
    )
    first = bucket[..., :1]
    offset = torch.gather(offsets.unflatten(2, (_SIDES, -1)), 3, first)[..., 0]

    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    size = (boxes[..., 2:] - boxes[..., :2]) * coder.scale_factor
    start, end = centre - 0.5 * size, centre + 0.5 * size
    width = (end - start) / coder.num_buckets
    place = 0.5 + first[..., 0].to(boxes.dtype)
    # Sides are left, right, top, bottom: starts are the even ones, ends the odd.
    low = start + place[..., 0::2] * width - offset[..., 0::2] * width
    high = end - place[..., 1::2] * width - offset[..., 1::2] * width
    corners = torch.cat([low, high], dim=-1)
    if coder.clip_border:
        corners = clip(corners, image_shape - 1)

    adjacent = (first[..., 0] - bucket[..., 1]).abs() == 1
    sure = probability[..., 0] + probability[..., 1] * adjacent.to(probability.dtype)
    return corners, sure.mean(dim=2)
