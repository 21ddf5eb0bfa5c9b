"""Whether detections are off all together, where each alone is within a wide allowance.

Roundings go either way and their mean goes to 0 with the number of detections; a fault that moves
every box, score or mask alike does not. In fp16 an allowance that fits every rounding has room for
half a pixel, so there the mean is held to less than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.match import match

#: Standard errors by which chance alone may move a mean: in one of 16,000 comparisons.
ERRORS = 4.0
_CORNERS = ("x1", "y1", "x2", "y2")


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
    if all(map(math.isinf, limits)):
        return []
    gaps: dict[str, list[float]] = {}
    for ours, theirs in zip(reference, candidate, strict=True):
        for i, j in match(ours, theirs, tolerance):
            if max(ours.scores[i], theirs.scores[j]) >= tolerance.min_score:
                for name, gap in _signed(ours, theirs, i, j):
                    gaps.setdefault(name, []).append(gap)
    units = dict.fromkeys(_CORNERS, (limits[0], " px"))
    units |= {"score": (limits[1], ""), "mask": (limits[2], "")}
    return [
        line
        for name, values in gaps.items()
        if (line := _beyond(name, np.array(values), *units[name]))
    ]


def _signed(ours: Detections, theirs: Detections, i: int, j: int) -> Iterator[tuple[str, float]]:
    """The signed differences of a pair; of masks the mean over the probabilities."""
    moved = theirs.boxes[j].astype(np.float64) - ours.boxes[i]
    yield from zip(_CORNERS, moved.tolist(), strict=True)
    yield "score", float(theirs.scores[j]) - float(ours.scores[i])
    if ours.mask_probs is not None and theirs.mask_probs is not None:
        change = theirs.mask_probs[j].astype(np.float64) - ours.mask_probs[i]
        yield "mask", float(change.mean())


def _beyond(name: str, gaps: NDArray[np.float64], limit: float, unit: str) -> str:
    if len(gaps) < 2 or not np.isfinite(gaps).all():  # of one, and of NaN, the judge says all
        return ""
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    if abs(mean) <= limit + ERRORS * error:
        return ""
    what = {"score": "scores", "mask": "mask probabilities"}.get(name, f"{name} of boxes")
    return (
        f"{what} are {mean:+.3g}{unit} off in the mean of {len(gaps)} detections (up to "
        f"{limit:g}{unit} allowed, and {ERRORS:g} standard errors of {error:.2g}): roundings "
        "cancel, a fault does not"
    )
