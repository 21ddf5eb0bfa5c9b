"""Faults that move every detection alike, within an allowance that is wide for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import GPU, HALF, Tolerance
from pytest_onnxdet.verify.bias import systematic
from pytest_onnxdet.verify.judge import Sides, TieProofs, judge


def scene(seed: int, detections: int = 12) -> Detections:
    rng = np.random.default_rng(seed)
    corner = 100.0 * np.arange(detections)[:, None] + rng.uniform(0, 20, (detections, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 70, (detections, 2))], axis=1)
    scores = np.sort(rng.uniform(0.3, 0.9, detections))[::-1]
    probs = rng.uniform(0, 1, (detections, 7, 7))
    labels = np.zeros(detections, np.int64)
    return Detections(
        boxes.astype(np.float32), scores.astype(np.float32), labels,
        mask_probs=probs.astype(np.float32),
    )  # fmt: skip


REFERENCE = [scene(seed) for seed in range(8)]


def rounded(boxes: float = 0.0, scores: float = 0.0, masks: float = 0.0) -> list[Detections]:
    """As fp16 may give them, and all off by so much."""
    rng = np.random.default_rng(9)
    return [
        replace(
            one,
            boxes=(one.boxes + rng.normal(0, 0.05, one.boxes.shape) + boxes).astype(np.float32),
            scores=(one.scores + rng.normal(0, 4e-4, one.scores.shape) + scores).astype(np.float32),
            mask_probs=(one.mask_probs + rng.normal(0, 3e-3, one.mask_probs.shape) + masks).astype(
                np.float32
            ),
        )
        for one in REFERENCE
        if one.mask_probs is not None
    ]


def test_roundings_cancel() -> None:
    assert judge(Sides(REFERENCE, rounded()), HALF).ok
    assert systematic(REFERENCE, rounded(), HALF) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"boxes": 0.5}, "x1 of boxes are +0."),
        ({"boxes": -0.5}, "y2 of boxes are -0."),
        ({"scores": 0.001}, "scores are +0.00"),
        ({"masks": 0.01}, "mask probabilities are +0.0"),
    ],
)
def test_what_moves_all_does_not_fit_into_fp16(fault: dict[str, Any], words: str) -> None:
    """Each of these passed while only single detections were asked about."""
    moved = rounded(**fault)
    unasked = replace(HALF, **dict.fromkeys(("box_bias_px", "score_bias", "mask_bias"), np.inf))
    assert judge(Sides(REFERENCE, moved), unasked).ok
    verdict = judge(Sides(REFERENCE, moved), HALF)
    assert not verdict.ok
    assert all(fault.startswith("detections: ") for fault in verdict.faults)
    assert any(words in fault for fault in verdict.faults), verdict.faults


def test_one_detection_off_is_no_bias() -> None:
    moved = rounded()
    moved[0] = replace(moved[0], boxes=moved[0].boxes + np.float32([[1.5] * 4] + [[0] * 4] * 11))
    assert systematic(REFERENCE, moved, HALF) == []


def test_what_scores_too_little_is_not_asked() -> None:
    low = [replace(one, scores=one.scores * np.float32(0.1)) for one in REFERENCE]
    moved = [replace(one, boxes=one.boxes + np.float32(0.5)) for one in low]
    assert systematic(low, moved, HALF) == []
    assert systematic(low, moved, replace(HALF, min_score=0.0))


@pytest.mark.parametrize("tolerance", [Tolerance(), GPU], ids=["cpu", "gpu"])
def test_where_allowances_are_noise_nothing_more_is_asked(tolerance: Tolerance) -> None:
    assert systematic(REFERENCE, rounded(boxes=0.5), tolerance) == []


def test_what_is_proven_to_tie_is_no_bias() -> None:
    """It is compared with what the reference might have detected, not with what it did."""
    moved = [replace(one, boxes=one.boxes + np.float32(5)) for one in REFERENCE]
    proofs = TieProofs(lambda index, candidate, singly: [moved[index]])
    assert judge(Sides(REFERENCE, moved), HALF, proofs).ok
    assert not judge(Sides(REFERENCE, moved), HALF).ok


def test_nothing_and_nan_are_left_to_the_judge() -> None:
    none = [replace(scene(0, 2), scores=np.full(2, np.nan, np.float32))]
    assert systematic([scene(0, 2)], none, HALF) == []
    assert systematic([scene(0, 1)], [scene(0, 1)], HALF) == []
