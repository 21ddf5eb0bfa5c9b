"""Between which scores a mask is left, however its pixels at the threshold are decided.

SOLO's score is a class's times the mean of the mask's probabilities above a threshold, and matrix
NMS (SOLOv2, arXiv:2003.10152, section 3.3) lowers it by how masks above the threshold overlap. A
pixel within rounding of the threshold belongs to a mask in one runtime and not in another, and of
a mask of 300 pixels one is 0.3 % of its overlap, which is far more than rounding. The bounds of
areas, means and overlaps are carried through by interval arithmetic. MaskFormer's scores are
multiplied by such a mean alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pytest_onnxdet.reference.ties.rounding import LOGIT, mask_slack

if TYPE_CHECKING:
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.families.family import MapNote


def score_ranges(note: MapNote) -> Tensor | None:
    """The smallest and the largest score of each of an image's masks: float64 (K, 2).

    Args:
        note: with the masks' ``candidates``; None is returned where it has none.
    """
    made = note.candidates
    if made is None:
        return None
    slack = mask_slack(made.threshold)
    maps = made.maps.flatten(1).double()
    sure, possible = maps > made.threshold + slack, maps > made.threshold - slack
    # A pixel at the threshold is below the mean of those above it.
    means = [(maps * some).sum(dim=1) / some.sum(dim=1).clamp(min=1) for some in (possible, sure)]
    means[1] = torch.where(sure.any(dim=1), means[1], made.threshold + slack)
    low, high = (made.scores.double() * mean for mean in means)
    order = torch.argsort(low + high, descending=True, stable=True)
    if made.nms_pre > 0:
        order = order[: made.nms_pre]
    low, high, labels = low[order], high[order], made.labels[order]
    shared, joint = zip(*(_areas(some[order].float()) for some in (sure, possible)), strict=True)
    least = shared[0] / joint[1].clamp(min=1)
    most = (shared[1] / joint[0].clamp(min=1)).clamp(max=1)
    same = (labels[:, None] == labels[None]) & ~torch.eye(len(labels), dtype=torch.bool)
    least = torch.where(same & (low[:, None] > high[None]), least, 0.0)
    most = torch.where(same & (high[:, None] >= low[None]), most, 0.0)
    at_least = _decay(most, least.amax(dim=0), made.kernel, made.sigma).amin(dim=0)
    at_most = _decay(least, most.amax(dim=0), made.kernel, made.sigma).amin(dim=0).clamp(max=1)
    ranges = torch.stack([low * at_least, high * at_most], dim=1)
    return ranges[_places(note, order)]


def with_weights_ranged(one: Detections) -> Detections:
    """An image's detections with the ``score_range`` of scores that are weighted by masks.

    Args:
        one: as the reference finds them; what is weighted by no mask is returned as it is.
    """
    frame = one.frame
    if frame is None or not frame.maps.weighted or one.mask_probs is None or one.masks is None:
        return one
    size, threshold = one.masks[0].shape, frame.maps.threshold
    own, low, high = (
        frame.certainty(one.mask_probs, size, threshold + by) for by in (0.0, -LOGIT, LOGIT)
    )
    # Of a mask without a pixel, or without a sure one, the score is what it is at least or most.
    base = np.divide(one.scores, own, out=np.zeros_like(own), where=own > 0)
    ranges = np.stack([np.minimum(low, own) * base, np.maximum(high, own) * base], axis=1)
    return replace(one, score_range=np.where(own[:, None] > 0, ranges, one.scores[:, None]))


def _areas(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Common and joint pixels of all pairs of masks float32 (M, A): float64 (M, M) each."""
    shared = (masks @ masks.T).double()
    area = masks.sum(dim=1).double()
    return shared, area[:, None] + area[None] - shared


def _decay(overlap: Tensor, most: Tensor, kernel: str, sigma: float) -> Tensor:
    """What a score is multiplied by for each mask before it: float64 (M, M), row by column.

    Args:
        overlap: float64 (M, M), of a mask with each that comes before it.
        most: float64 (M,), the greatest of a mask with one before it.
        kernel, sigma: matrix NMS's.
    """
    if kernel == "gaussian":
        return torch.exp(-sigma * overlap**2) / torch.exp(-sigma * most[:, None] ** 2)
    return (1 - overlap) / (1 - most[:, None])


def _places(note: MapNote, order: Tensor) -> Tensor:
    """Where each of an image's masks is among the candidates in ``order``: int64 (K,)."""
    made = note.candidates
    assert made is not None
    candidates = made.maps[order].double().sum(dim=(1, 2))
    own = note.maps.double().sum(dim=(1, 2))
    same = (own[:, None] == candidates[None]) & (note.labels[:, None] == made.labels[order][None])
    if not bool(same.any(dim=1).all()):
        raise ValueError("a mask of the result is none of the candidates")
    return same.int().argmax(dim=1)
