"""Ties of heads that threshold by themselves, or move boxes after suppression, are proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from test_dense import HEADS, overrides
from tiny_detectors import Tiny, tiny

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.proof import alternatives
from pytest_onnxdet.verify.compare import compare_detections

NOTHING = -20.0  # a logit that no threshold lets pass


def made(name: str) -> Tiny:
    _, config, more = HEADS[name]
    return tiny(config, overrides(more))


def silent(one: Tiny) -> dict[str, Any]:
    """Raw outputs of nothing; boxes are their priors, factors are nearly 1."""
    fill = {"cls_score": NOTHING, "objectness": NOTHING, "iou_pred": -NOTHING}
    return {
        name: np.full_like(value, fill.get(name.rpartition("_")[0], 0.0))
        for name, value in one.raw().items()
    }


def detected(one: Tiny, raw: Mapping[str, Any]) -> Detections:
    return Reference(one.detector).post_process(raw, one.batch)[0]


def proven(one: Tiny, raw: Mapping[str, Any], candidate: Detections) -> bool:
    """Whether mmdet, deciding ties as the candidate does, finds just that."""
    allowed = Tolerance()
    assert compare_detections([detected(one, raw)], [candidate], allowed).faults
    reference = Reference(one.detector)
    possible = alternatives(reference, one.batch, 0, candidate, raw, None, None, allowed, 100)
    return any(not compare_detections([found], [candidate], allowed).faults for found in possible)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sign", [1, -1])
def test_a_product_at_yoloxs_threshold(sign: int) -> None:
    one = made("yolox")
    head: Any = one.detector.bbox_head
    share = 1 / (1 + np.exp(-6.0))  # the class's, of which the objectness is a factor
    level = head.test_cfg.score_thr / share
    level = np.log(level / (1 - level))

    def scored(last: float) -> dict[str, Any]:
        raw = silent(one)
        for row, value in ((1, 2.0), (7, 1.0), (13, last)):
            raw["cls_score_0"][0, 0, row, 4] = 6.0
            raw["objectness_0"][0, 0, row, 4] = value
        return raw

    for gap, good in ((2e-5, True), (2e-3, False)):
        ours, theirs = scored(level + sign * gap), scored(level - sign * gap)
        candidate = detected(one, theirs)
        assert len(candidate) == (2 if sign > 0 else 3)
        assert proven(one, ours, candidate) is good


@pytest.mark.filterwarnings("ignore")
def test_which_of_two_boxes_is_kept_before_a_vote() -> None:
    """Boxes are voted on after suppression: a kept one is known by its score."""
    one = made("paa")

    def scored(first: float, second: float) -> dict[str, Any]:
        raw = silent(one)
        raw["cls_score_0"][0, 0, 8, 8] = first
        raw["cls_score_0"][0, 0, 8, 9] = second
        raw["cls_score_0"][0, 1, 2, 2] = 1.0
        raw["bbox_pred_0"][0, 0, 8, 9] = -0.8  # a little to the left
        return raw

    for gap, good in ((2e-5, True), (2e-3, False)):
        ours, theirs = scored(1.0 + gap, 1.0 - gap), scored(1.0 - gap, 1.0 + gap)
        candidate = detected(one, theirs)
        assert len(candidate) == 2
        assert proven(one, ours, candidate) is good
