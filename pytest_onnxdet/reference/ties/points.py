"""Between which probabilities PointRend's masks lie, whichever of nearly equal points it refines.

PointRend (arXiv:1912.08193, section 3.1) upsamples a mask step by step and lets the point head
decide anew about the k points whose logits are nearest to 0. Where the k-th and the next point are
as near as two floats, a runtime may refine either, and the mask differs there by much more than
rounding. How much is known: a point holds the upsampled logit or the point head's. Both bounds
are carried through all steps by interval arithmetic; as bilinear weights are not negative,
upsampling the bounds bounds the upsampled logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

# By how much a logit may differ between two runtimes: some ten times what is seen (1e-5 of
# logits of about 10). Points whose certainty is closer than twice this are not distinguished.
SLACK = 1e-4


@contextlib.contextmanager
def watched_choices(detector: nn.Module) -> Iterator[list[NDArray[np.float32]]]:
    """Notes the bounds of each image's masks while the detector runs; see :func:`mask_bounds`.

    Args:
        detector: one that refines its masks point by point, as mmdet's ``PointRendRoIHead``.

    Yields:
        An entry per image that has detections, in the order of the mask head's input.
    """
    seen: list[NDArray[np.float32]] = []
    head: Any = detector.roi_head
    original = head._mask_point_forward_test

    def watched(maps: Any, rois: Tensor, labels: Tensor, coarse: Tensor, metas: Any) -> Any:
        seen.append(mask_bounds(head, maps, rois, labels, coarse, metas).numpy())
        return original(maps, rois, labels, coarse, metas)

    head._mask_point_forward_test = watched
    try:
        yield seen
    finally:
        del head._mask_point_forward_test


def mask_bounds(
    head: Any, maps: Sequence[Tensor], rois: Tensor, labels: Tensor, coarse: Tensor, metas: Any
) -> Tensor:
    """The least and the greatest probability of each pixel, over all choices that float ties leave.

    Args:
        head: mmdet's ``PointRendRoIHead``.
        maps: one image's feature maps, finest first.
        rois: float32 (K, 5), image index and box.
        labels: int64 (K,).
        coarse: float32 (K, C, h, w), the coarse mask head's logits.
        metas: the img_metas that the head hands on.

    Returns:
        float32 (K, 2, H, W); where no choice is open, both are what mmdet computes.
    """
    from mmcv.ops import point_sample

    cfg = head.test_cfg
    low = high = _own(coarse, labels, head.mask_head)[:, None]
    for step in range(cfg.subdivision_steps):
        low, high = (
            functional.interpolate(
                one, scale_factor=cfg.scale_factor, mode="bilinear", align_corners=False
            )
            for one in (low, high)
        )
        height, width = low.shape[2:]
        enough = cfg.subdivision_num_points >= cfg.scale_factor**2 * height * width
        if enough and step < cfg.subdivision_steps - 1:
            continue
        shape = low.shape
        low, high = low.flatten(1), high.flatten(1)
        sure, possible = choices(low, high, min(height * width, cfg.subdivision_num_points))
        count = int(possible.sum(1).max())
        index = torch.topk(possible.float(), count, dim=1).indices
        column, row = index % width, torch.div(index, width, rounding_mode="floor")
        points = torch.stack([(column + 0.5) / width, (row + 0.5) / height], dim=2)
        fine = head._get_fine_grained_point_feats(maps, rois, points, metas)
        around = point_sample(coarse, points)
        refined = _own(head.point_head(fine, around), labels, head.point_head)
        takes, may = sure.gather(1, index), possible.gather(1, index)
        bounds = []
        for one, hull in ((low, torch.minimum), (high, torch.maximum)):
            old = one.gather(1, index)
            new = torch.where(takes, refined, torch.where(may, hull(old, refined), old))
            bounds.append(one.scatter(1, index, new).reshape(shape))
        low, high = bounds
    return torch.cat([low, high], dim=1).sigmoid()


def choices(low: Tensor, high: Tensor, count: int, slack: float = SLACK) -> tuple[Tensor, Tensor]:
    """Which points are among the ``count`` nearest to 0 in any case, and which may be.

    Args:
        low, high: float32 (K, P), bounds of each point's logit.
        count: how many points are taken, at most P.
        slack: what is added to the bounds on either side.

    Returns:
        Two bool (K, P): a point is sure when fewer than ``count`` others can come before it, and
        possible unless ``count`` others surely do.
    """
    nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
    nearest, farthest = nearest - slack, torch.maximum(low.abs(), high.abs()) + slack
    if count == low.shape[1]:
        return torch.ones_like(low, dtype=torch.bool), torch.ones_like(low, dtype=torch.bool)
    possible = nearest <= farthest.kthvalue(count, dim=1, keepdim=True).values
    sure = farthest < nearest.kthvalue(count + 1, dim=1, keepdim=True).values
    return sure, possible


def _own(logits: Tensor, labels: Tensor, head: Any) -> Tensor:
    """The row of each detection's own class: (K, C, ...) to (K, ...)."""
    if head.class_agnostic:
        return logits[:, 0]
    return logits[torch.arange(len(logits)), labels]
