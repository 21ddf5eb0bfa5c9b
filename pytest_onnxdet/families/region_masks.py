"""Masks of regions: probabilities of each detection's own class, one small map per detection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.roi_heads import ImageFeatures, Regions, ordered


def own_class(logits: Tensor, labels: Tensor, head: Any, back: Tensor | None = None) -> Tensor:
    """Of logits (N * K, C, h, w), each detection's own class: (N, K, h, w).

    Args:
        labels: int64 (N, K).
        head: what gave them; may be class-agnostic.
        back: int64 (N * K,), the row of each detection; None: they are in order.
    """
    channels = logits.shape[1]
    slot = torch.arange(labels.shape[0], device=labels.device)[:, None] * labels.shape[1]
    slot = slot + torch.arange(labels.shape[1], device=labels.device)
    row = slot if back is None else back[slot]
    channel = torch.zeros_like(labels) if head.class_agnostic else labels.clamp(min=0)
    return logits.flatten(0, 1)[row * channels + channel]


def mean_of_stages(stages: list[Tensor]) -> Tensor:
    """The mean of probabilities (N, K, h, w) of several mask heads."""
    return stages[0] if len(stages) == 1 else sum(stages[1:], stages[0]) / len(stages)


def masks_of_stages(
    head: Any, regions: Regions, images: ImageFeatures, boxes: Tensor, labels: Tensor
) -> Tensor:
    """Mask R-CNN's masks (arXiv:1703.06870), of a cascade the mean over its stages.

    Args:
        head: mmdet's RoI head.
        regions, images: its features.
        boxes: float32 (N, K, 4), detections; ``labels``: int64 (N, K).

    Returns:
        float32 (N, K, h, w) probabilities.
    """
    extractors, heads = [head.mask_roi_extractor], [head.mask_head]
    if hasattr(head, "num_stages"):
        extractors, heads = list(head.mask_roi_extractor), list(head.mask_head)
    stages = []
    for extractor, mask_head in zip(extractors, heads, strict=True):
        seen, back = regions.pool(extractor, images, boxes, "mask")
        stages.append(own_class(mask_head(seen), labels, mask_head, back).sigmoid())
    return mean_of_stages(stages)


def flowing_masks(
    head: Any, regions: Regions, images: ImageFeatures, boxes: Tensor, labels: Tensor
) -> Tensor:
    """HTC's masks: all stages see the same regions, and each what the one before made of them.

    Args and result are those of :func:`masks_of_stages`.
    """
    seen, back = regions.pool(head.mask_roi_extractor[-1], images, boxes, "mask")
    stages, last = [], None
    for mask_head in head.mask_head:
        if head.mask_info_flow:
            logits, last = mask_head(seen, last)
        else:
            logits = mask_head(seen)
        stages.append(own_class(logits, labels, mask_head, back).sigmoid())
    return mean_of_stages(stages)


def relayed_masks(
    head: Any, regions: Regions, images: ImageFeatures, boxes: Tensor, labels: Tensor
) -> Tensor:
    """SCNet's masks: the last stage's box head looks at the detections first.

    Args and result are those of :func:`masks_of_stages`.
    """
    looked, order = regions.pool(head.bbox_roi_extractor[-1], images, boxes, "bbox")
    shared = head.bbox_head[-1](ordered(looked, order), return_shared_feat=True)[2]
    seen, back = regions.pool(head.mask_roi_extractor, images, boxes, "mask")
    seen = ordered(seen, back) + head.feat_relay_head(shared)
    return own_class(head.mask_head(seen), labels, head.mask_head).sigmoid()
