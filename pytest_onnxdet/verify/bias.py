"""Whether detections are off all together, where each alone is within a wide allowance.

Roundings go either way and their mean goes to 0 with the number of detections; a fault that moves
every box, score or mask alike does not. In fp16 an allowance that fits every rounding has room for
half a pixel, so there the mean is held to less than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.match import match
from pytest_onnxdet.verify.pixels import probabilities

#: Standard errors by which chance alone may move a mean: in one of 16,000 comparisons.
ERRORS = 4.0


def systematic(
    reference: Sequence[Detections], candidate: Sequence[Detections], tolerance: Tolerance
) -> list[str]:
    """What is off all together, in words; nothing where the tolerance does not ask.

    Args:
        reference: one entry per image.
        candidate: the same images in the same order.
        tolerance: its ``box_bias_px``, ``score_bias`` and ``mask_bias`` are the allowances.
    """
    limits = (tolerance.box_bias_px, tolerance.score_bias, tolerance.mask_bias)
    if not reference or all(map(math.isinf, limits)):
        return []
    gaps: dict[str, list[NDArray[np.float64]]] = {}
    for ours, theirs in zip(reference, candidate, strict=True):
        for name, of_image in differences(ours, theirs, tolerance).items():
            gaps.setdefault(name, []).append(of_image)
    every = {name: np.concatenate(of_all) for name, of_all in gaps.items()}
    lines = [
        _beyond(f"{corner} of boxes", every["box"][:, at], limits[0], " px")
        for at, corner in enumerate(("x1", "y1", "x2", "y2"))
    ]
    lines.append(_beyond("scores", every["score"], limits[1]))
    if "mask" in every:
        lines.append(_beyond("mask probabilities", every["mask"], limits[2]))
    return [line for line in lines if line]


def differences(
    ours: Detections, theirs: Detections, tolerance: Tolerance
) -> dict[str, NDArray[np.float64]]:
    """The signed differences, theirs less ours, of an image's M matched detections that count.

    Returns:
        ``box`` (M, 4) in pixels, ``score`` (M,), and where both have masks ``mask`` (M,), means
        over each one's cells.
    """
    pairs = match(ours, theirs, tolerance)
    i, j = (np.array([pair[side] for pair in pairs], dtype=int) for side in (0, 1))
    counts = np.maximum(ours.scores[i], theirs.scores[j]) >= tolerance.min_score
    i, j = i[counts], j[counts]
    gaps = {
        "box": theirs.boxes[j].astype(np.float64) - ours.boxes[i],
        "score": theirs.scores[j].astype(np.float64) - ours.scores[i],
    }
    if ours.mask_probs is not None and theirs.mask_probs is not None and len(i):
        change = probabilities(theirs, j) - probabilities(ours, i)
        gaps["mask"] = change.reshape(len(i), -1).mean(axis=1)
    return gaps


def _beyond(what: str, gaps: NDArray[np.float64], limit: float, unit: str = "") -> str:
    if len(gaps) < 2 or not np.isfinite(gaps).all():  # of one, and of NaN, the judge says all
        return ""
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if abs(mean) <= limit + ERRORS * error:
        return ""
    return (
        f"{what} are {mean:+.3g}{unit} off in the mean of {len(gaps)} detections (up to "
        f"{limit:g}{unit} allowed, and {ERRORS:g} standard errors of {error:.2g}): roundings "
        "cancel, a fault does not"
    )
