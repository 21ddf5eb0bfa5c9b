"""How far two runtimes' float32 results lie apart by rounding alone: what counts as a tie.

An allowance says how wrong a result may be. A tie is something else: two values so close that
rounding decides which is greater. The figures here are of the second kind, measured, and far below
the allowances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of logits. PyTorch's float32 is off by up to 4.1e-5 from float64 in the full-size detectors with
#: dense heads and region heads (tools/rounding_table.py); two runtimes by twice that.
LOGIT = 1e-4
#: Of box coordinates in pixels: three times the 1.7e-4 px that two-stage detectors at full size
#: are seen to differ by.
PIXEL = 5e-4
#: Steps of float32 just below 1 that exp and a division may be off by.
STEPS = 2


def score_slack(scores: NDArray[Any]) -> NDArray[np.float64]:
    """By how much scores that come of logits may differ between two runtimes.

    The derivative of the logistic function is s (1 - s), that of softmax at most twice that for an
    error of each logit, as is that of a product of two logistic functions. Of saturated scores
    only the last digits are left: a logit's error no longer shows.

    Args:
        scores: probabilities, any shape.

    Returns:
        float64, of the same shape.
    """
    s = np.clip(scores.astype(np.float64), 0.0, 1.0)
    return 2 * LOGIT * s * (1 - s) + STEPS * float(np.finfo(np.float32).epsneg)


def mask_slack(threshold: float) -> float:
    """By how much a mask's probability near its threshold may differ between two runtimes.

    Args:
        threshold: the probability from which a pixel belongs to the mask.
    """
    return float(score_slack(np.array(threshold)))


def box_slack(boxes: NDArray[Any], shift: float = 0.0) -> float:
    """Pixels by which coordinates may differ between two runtimes when overlaps are computed.

    mmcv's ``batched_nms`` moves the boxes of a class away from those of the others, where float32
    has fewer digits: a difference that is nothing may be rounded to a step of float32 there.

    Args:
        boxes: (P, 4), corners.
        shift: pixels that they are moved by.
    """
    largest = float(np.abs(boxes).max(initial=0.0)) + shift
    return PIXEL + float(np.spacing(np.float32(largest)))
