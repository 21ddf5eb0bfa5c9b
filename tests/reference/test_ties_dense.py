"""Scores at a threshold, and places among a level's first, of heads without proposals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tie_samples import Scene, differ, logit

# What rounding makes of a logit, and what it does not.
TIE, NONE = 2e-5, 2e-3
# Cells of the finest level that are far enough from each other.
CELLS = [(2, 2), (2, 8), (2, 14), (8, 2), (8, 8), (8, 14)]


@pytest.fixture(scope="module")
def retinanet() -> Scene:
    return Scene.of("retinanet")


@pytest.fixture(scope="module")
def yolov3() -> Scene:
    return Scene.of("yolov3")


def scored(scene: Scene, logits: list[float]) -> dict[str, Any]:
    """Raw outputs of a RetinaNet that finds boxes of class 0 with these logits, far apart."""
    raw = scene.silent()
    for (row, column), value in zip(CELLS, logits, strict=False):
        raw["cls_score_0"][0, 0, row, column] = value
    return raw


def sided(sign: int, gap: float) -> tuple[float, float]:
    return sign * gap, -sign * gap


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_at_the_threshold_may_be_missing_or_not(retinanet: Scene, sign: int) -> None:
    level = logit(retinanet.reference.detector.bbox_head.test_cfg.score_thr)
    for gap, good in ((TIE, True), (NONE, False)):
        ours, theirs = (scored(retinanet, [2.0, 1.0, level + by]) for by in sided(sign, gap))
        candidate = retinanet.detected(theirs)
        assert len(candidate) == (2 if sign > 0 else 3)
        assert retinanet.proven(ours, candidate) is good


def test_beside_a_score_at_the_threshold_nothing_else_may_be_missing(retinanet: Scene) -> None:
    level = logit(retinanet.reference.detector.bbox_head.test_cfg.score_thr)
    ours = scored(retinanet, [2.0, 1.0, level + TIE])
    assert not retinanet.proven(ours, retinanet.detected(scored(retinanet, [2.0])))


@pytest.mark.parametrize("sign", [1, -1])
def test_of_scores_that_tie_for_the_last_place_either_is_taken(retinanet: Scene, sign: int) -> None:
    with retinanet.settings("bbox_head", nms_pre=3):
        for gap, good in ((TIE, True), (NONE, False)):
            first, second = sided(sign, gap)
            ours = scored(retinanet, [2.0, 1.0, first, second, -1.0])
            theirs = scored(retinanet, [2.0, 1.0, second, first, -1.0])
            assert retinanet.proven(ours, retinanet.detected(theirs)) is good


@pytest.mark.parametrize("count", [2, 4])
def test_just_as_many_are_taken_as_there_are_places(retinanet: Scene, count: int) -> None:
    ours = scored(retinanet, [2.0, 1.0, TIE, -TIE, -1.0])
    with retinanet.settings("bbox_head", nms_pre=count):
        wrong = retinanet.detected(ours)
    assert len(wrong) == count
    with retinanet.settings("bbox_head", nms_pre=3):
        assert not retinanet.proven(ours, wrong)


def test_equal_scores_are_taken_in_any_order(retinanet: Scene) -> None:
    """mmdet sorts, and its sort leaves open which of equal scores comes first."""
    ours = scored(retinanet, [2.0, 0.0, 0.0, 0.0])
    with retinanet.settings("bbox_head", nms_pre=2):
        own = retinanet.detected(ours)
        others = 0
        for chosen in (1, 2, 3):
            logits = [2.0, -9.0, -9.0, -9.0]
            logits[chosen] = 0.0
            candidate = retinanet.detected(scored(retinanet, logits))
            if differ(own, candidate):
                others += 1
                assert retinanet.proven(ours, candidate)
        assert others == 2


@pytest.mark.parametrize(("gap", "good"), [(TIE, True), (NONE, False)])
def test_the_cut_of_an_images_detections(retinanet: Scene, gap: float, good: bool) -> None:
    ours = scored(retinanet, [2.0, 1.0, gap, -gap])
    theirs = scored(retinanet, [2.0, 1.0, -gap, gap])
    with retinanet.settings("bbox_head", max_per_img=3):
        assert retinanet.proven(ours, retinanet.detected(theirs), max_per_img=3) is good


def sure(scene: Scene, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Raw outputs of a YOLOv3 with boxes of these confidences and class 0 scores, as logits."""
    raw = {name: np.zeros_like(value) for name, value in scene.raw.items()}
    head: Any = scene.reference.detector.bbox_head
    for value in raw.values():
        by_prior = value.reshape(1, -1, head.num_attrib, *value.shape[2:])
        by_prior[:, :, 4:] = -20.0
    name = list(raw)[-1]  # the finest level
    for (row, column), (confidence, score) in zip(CELLS, pairs, strict=False):
        raw[name][0, 4, row, column] = confidence
        raw[name][0, 5, row, column] = score
    return raw


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("what", ["confidence", "score"])
def test_a_confidence_and_a_score_at_their_thresholds(yolov3: Scene, what: str, sign: int) -> None:
    cfg = yolov3.reference.detector.bbox_head.test_cfg
    level = logit(cfg.conf_thr if what == "confidence" else cfg.score_thr)
    for gap, good in ((TIE, True), (NONE, False)):
        ours, theirs = (
            sure(
                yolov3,
                [(2.0, 2.0), (level + by, 3.0) if what == "confidence" else (3.0, level + by)],
            )
            for by in sided(sign, gap)
        )
        candidate = yolov3.detected(theirs)
        assert len(candidate) == (1 if sign > 0 else 2)
        assert yolov3.proven(ours, candidate) is good


def test_mmdet_is_as_before_afterwards(yolov3: Scene, retinanet: Scene) -> None:
    from mmdet.core.post_processing.bbox_nms import multiclass_nms
    from mmdet.core.utils import filter_scores_and_topk
    from mmdet.models.dense_heads import base_dense_head, yolo_head

    cfg = yolov3.reference.detector.bbox_head.test_cfg
    level, before = logit(cfg.conf_thr), dict(cfg)
    ours, theirs = (sure(yolov3, [(2.0, 2.0), (level + by, 3.0)]) for by in (TIE, -TIE))
    assert yolov3.proven(ours, yolov3.detected(theirs))
    assert yolo_head.multiclass_nms is multiclass_nms
    assert base_dense_head.filter_scores_and_topk is filter_scores_and_topk
    assert yolov3.reference.detector.bbox_head.test_cfg is cfg and dict(cfg) == before
