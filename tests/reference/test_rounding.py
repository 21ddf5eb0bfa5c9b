"""What counts as a tie bounds what an error of logits makes of scores, and is no more than that."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.ties.proof import OPEN, open_share
from pytest_onnxdet.reference.ties.rounding import LOGIT, PIXEL, box_slack, score_slack

RNG = np.random.default_rng(0)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_scores_move_by_no_more_than_the_slack() -> None:
    for _ in range(20):
        logits = RNG.normal(0, 6, (500, 4))
        other = logits + RNG.uniform(-LOGIT, LOGIT, logits.shape)
        for of in (logistic, softmax, lambda x: logistic(x[:, 0]) * logistic(x[:, 1])):
            ours, theirs = of(logits), of(other)
            assert (np.abs(ours - theirs) <= score_slack(ours)).all()


def test_the_slack_is_below_the_allowance_and_shrinks_where_scores_saturate() -> None:
    scores = np.linspace(0, 1, 101).astype(np.float32)
    assert score_slack(scores).max() <= Tolerance().score / 2 + 1e-6
    assert score_slack(np.float32(0.9999)) < 2e-7
    assert (score_slack(np.float32([0.0, 1.0])) > 0).all()
    assert Tolerance().box_px / 10 > PIXEL


@pytest.mark.parametrize(("shift", "low", "high"), [(0, 5e-4, 7e-4), (79 * 1334, 7e-3, 9e-3)])
def test_boxes_that_are_moved_are_rounded(shift: float, low: float, high: float) -> None:
    boxes = np.float32([[0, 0, 1333, 800]])
    assert low < box_slack(boxes, shift) < high


def test_how_many_mask_pixels_are_open() -> None:
    ranges = np.zeros((2, 2, 10, 10), np.float32)
    ranges[:, 1] = 0.0005  # narrower than the allowance
    ranges[0, 1, 0, :4] = 1.0
    result = Detections(np.zeros((2, 4)), np.ones(2), np.zeros(2, int), mask_range=ranges)
    assert open_share(result, 1e-3) == pytest.approx(4 / 200)
    assert open_share(result, 1e-3) > OPEN
    assert open_share(Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)), 1e-3) == 0
