"""Which candidate detection answers which reference detection: one to one, within a class.

Greedy matching by IoU is not enough here: two boxes that NMS left on one object, or a box that
appears twice with different scores, can be paired crosswise and then look like two faults. The
assignment below is optimal, so whenever *some* pairing is within the allowances, it is found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.masks import RunLengthMasks
from pytest_onnxdet.models.spec import Tolerance

Floats = NDArray[np.float64]

OVERLAP = 0.5
"""Two boxes of one class at this IoU or above are taken for the same object."""

# Costs by rank: any pair beats none, and a pair within the allowances beats any that is not. The
# steps are far apart, so that no sum over one image's detections reaches the next.
_LOOSE, _FORBIDDEN = 1e4, 1e8


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Intersection over union of every pair of boxes.

    Args:
        a: (M, 4), x1, y1, x2, y2 in pixels, without the legacy "+1" of widths and heights.
        b: (N, 4), likewise.

    Returns:
        float64 (M, N) in [0, 1]; 0 where a box is empty, inverted or not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        low = np.maximum(a[:, None, :2], b[None, :, :2])
        high = np.minimum(a[:, None, 2:], b[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=2)
        union = _area(a)[:, None] + _area(b)[None, :] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.nan_to_num(overlap, nan=0.0, posinf=0.0, neginf=0.0)


def _area(boxes: Floats) -> Floats:
    area: Floats = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return area


def box_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """The largest difference of a coordinate, in pixels, for every pair: float64 (M, N)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        gap: Floats = np.abs(a[:, None] - b[None]).max(axis=2, initial=0.0)
    return gap


def box_allowance(boxes: NDArray[np.floating], tolerance: Tolerance) -> Floats:
    """Pixels by which each box's coordinates may differ.

    Args:
        boxes: (M, 4), corners in pixels.
        tolerance: ``box_px``, or ``box_rel`` of a box's longer side where that is more.

    Returns:
        float64 (M,); ``box_px`` where a box is not finite.
    """
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        longer = np.abs(corners[:, 2:] - corners[:, :2]).max(axis=1, initial=0.0)
    sides = np.where(np.isfinite(longer), longer, 0.0)
    return np.maximum(tolerance.box_px, tolerance.box_rel * sides)


def assign(cost: Floats, allowed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The one-to-one assignment of least cost (Kuhn-Munkres) that uses only allowed pairs.

    Args:
        cost: (M, N), below 1e4 wherever allowed.
        allowed: (M, N).

    Returns:
        (row, column) pairs, as many as possible, of the least total cost among those.
    """
    if not allowed.any():
        return []
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.where(allowed, cost, _FORBIDDEN))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]


def match(
    reference: Detections, candidate: Detections, tolerance: Tolerance
) -> list[tuple[int, int]]:
    """Pairs the detections of one image, class by class.

    A pair is possible within the allowances for box and score, or at IoU 0.5 or above. As many
    pairs as possible are made, then as many as possible within the allowances, then the closest.
    Where detections have masks and no boxes, as SOLO's, the IoU is that of masks.

    Returns:
        (position in reference, position in candidate), by position in reference.
    """
    pairs: list[tuple[int, int]] = []
    shared = _mask_overlap(reference, candidate)
    distance = score_distance(reference, candidate)
    for label in np.intersect1d(reference.labels, candidate.labels):
        ours = np.flatnonzero(reference.labels == label)
        theirs = np.flatnonzero(candidate.labels == label)
        overlap = iou(reference.boxes[ours], candidate.boxes[theirs])
        gap = box_distance(reference.boxes[ours], candidate.boxes[theirs])
        drift = distance[np.ix_(ours, theirs)]
        allowed = box_allowance(reference.boxes[ours], tolerance)[:, None]
        good = (gap <= allowed) & (drift <= tolerance.score)
        near = np.isfinite(drift) & (overlap >= OVERLAP)
        within = (_share(gap, allowed) + _share(drift, tolerance.score)) / 2
        if shared is not None:
            overlap = shared[np.ix_(ours, theirs)]
            near = np.isfinite(drift) & (overlap >= OVERLAP)
            within = within + 2 * (1 - overlap)
        cost = np.where(good, within, _LOOSE + (1 - overlap) + drift)
        pairs += [(int(ours[r]), int(theirs[c])) for r, c in assign(cost, good | near)]
    return sorted(pairs)


def score_bounds(detections: Detections) -> tuple[Floats, Floats]:
    """The smallest and the largest score that float ties leave open: float64 (K,) each."""
    if detections.score_range is None:
        scores = detections.scores.astype(np.float64)
        return scores, scores
    low, high = detections.score_range.astype(np.float64).T
    return low, high


def score_distance(reference: Detections, candidate: Detections) -> Floats:
    """By how much each candidate's score is outside of what each reference's may be: (M, N)."""
    low, high = score_bounds(reference)
    scores = candidate.scores.astype(np.float64)[None]
    with np.errstate(invalid="ignore"):
        beyond = np.maximum(low[:, None] - scores, scores - high[:, None])
        distance: Floats = np.maximum(beyond, 0.0)
    return distance


def _mask_overlap(reference: Detections, candidate: Detections) -> Floats | None:
    """IoU of every pair of masks, float64 (M, N); None where boxes tell detections apart."""
    sides = (reference, candidate)
    if any(one.frame is None or one.boxes.any() for one in sides):
        return None
    from pycocotools import mask as coco_mask

    masks = [one.packed().masks for one in sides]
    if not all(isinstance(one, RunLengthMasks) and len(one) for one in masks):
        return None
    ours, theirs = (one.encoded for one in masks if isinstance(one, RunLengthMasks))
    if ours[0]["size"] != theirs[0]["size"]:
        return None
    return np.nan_to_num(np.asarray(coco_mask.iou(ours, theirs, [0] * len(theirs)), np.float64))


def _share(difference: Floats, allowance: Floats | float) -> Floats:
    """How much of an allowance a difference uses: 0 for none, 1 for all of it."""
    allowed = np.broadcast_to(np.asarray(allowance, dtype=np.float64), difference.shape)
    return np.divide(difference, allowed, out=np.zeros_like(difference), where=allowed > 0)
