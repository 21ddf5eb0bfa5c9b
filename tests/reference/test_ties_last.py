"""The last of an image's places where no suppression chooses: DETR's queries, CornerNet's pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tie_samples import ALLOWED, NOTHING, Scene, differ

# What rounding makes of a logit, and what it does not.
TIE, NONE = 2e-5, 2e-3
Scored = Callable[[Scene, list[float]], dict[str, Any]]
Kind = tuple[Scene, Scored]
CELLS = [(2, 2), (2, 10), (2, 18), (10, 2), (10, 10), (10, 18)]


def queries(scene: Scene, logits: list[float]) -> dict[str, Any]:
    """Raw outputs of a DETR whose queries have these logits of class 0, on boxes side by side."""
    scores, boxes = (np.full_like(scene.raw[name], 0.1) for name in ("cls_score", "bbox_pred"))
    scores[...] = NOTHING
    scores[..., -1] = 0.0  # no object
    scores[0, : len(logits), 0] = logits
    boxes[0, :, 0] = np.linspace(0.1, 0.9, boxes.shape[1])
    return {"cls_score": scores, "bbox_pred": boxes}


def pairs(scene: Scene, logits: list[float]) -> dict[str, Any]:
    """Raw outputs of a CornerNet with corners of class 0 that have these logits, boxes apart."""
    raw = {name: np.zeros_like(value) for name, value in scene.raw.items()}
    for number, ((row, column), value) in enumerate(zip(CELLS, logits, strict=False)):
        _corners(raw, row, column, value, 10.0 * (number + 1))
    return _silent_elsewhere(raw)


def _corners(raw: dict[str, Any], row: int, column: int, value: float, embedding: float) -> None:
    for end, by in (("tl", 0), ("br", 4)):
        raw[f"{end}_heat"][0, 0, row + by, column + by] = value - NOTHING
        raw[f"{end}_emb"][0, 0, row + by, column + by] = embedding


def _silent_elsewhere(raw: dict[str, Any]) -> dict[str, Any]:
    for name in ("tl_heat", "br_heat"):
        raw[name] += np.float32(NOTHING)
    return raw


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {name: Scene.of(name) for name in ("detr", "cornernet")}


@pytest.fixture(params=[("detr", queries), ("cornernet", pairs)], ids=lambda pair: pair[0])
def kind(request: pytest.FixtureRequest, scenes: dict[str, Scene]) -> Iterator[Kind]:
    """A detector that keeps three detections of an image, and what writes its raw outputs."""
    name, scored = request.param
    with scenes[name].settings("bbox_head", max_per_img=3):
        yield scenes[name], scored


@pytest.mark.parametrize(("gap", "good"), [(TIE, True), (NONE, False)])
def test_of_scores_that_tie_for_the_last_place_either_is_kept(
    kind: Kind, gap: float, good: bool
) -> None:
    scene, scored = kind
    ours = scored(scene, [2.0, 1.0, gap, -gap, -1.0])
    theirs = scored(scene, [2.0, 1.0, -gap, gap, -1.0])
    candidate = scene.detected(theirs)
    assert len(candidate) == 3
    assert scene.proven(ours, candidate) is good


def test_with_the_backends_peaks_too(scenes: dict[str, Scene]) -> None:
    from pytest_onnxdet.reference.ties.proof import _with_last_places

    scene = scenes["cornernet"]
    ours, theirs = (pairs(scene, [2.0, 1.0, by, -by, -1.0]) for by in (TIE, -TIE))
    heats = [theirs[name] for name in scene.reference.family.ties.peaks]
    with scene.settings("bbox_head", max_per_img=3):
        candidate = scene.detected(theirs)
        (found,) = _with_last_places(scene.reference, ours, scene.batch, candidate, ALLOWED, heats)
    assert not differ(found, candidate)


@pytest.mark.parametrize("count", [2, 4])
def test_just_as_many_are_kept_as_there_are_places(kind: Kind, count: int) -> None:
    scene, scored = kind
    ours = scored(scene, [2.0, 1.0, TIE, -TIE, -1.0])
    with scene.settings("bbox_head", max_per_img=count):
        wrong = scene.detected(ours)
    assert len(wrong) == count
    assert not scene.proven(ours, wrong)


def test_beside_a_tie_nothing_else_may_be_missing(kind: Kind) -> None:
    scene, scored = kind
    ours = scored(scene, [2.0, 1.0, TIE, -TIE, -1.0])
    assert not scene.proven(ours, scene.detected(scored(scene, [2.0, -9.0, TIE, -TIE, -1.0])))


def test_scores_and_boxes_are_mmdets(kind: Kind) -> None:
    """A choice is taken over, and nothing that is computed."""
    scene, scored = kind
    ours = scored(scene, [2.0, 1.0, TIE, -TIE, -1.0])
    assert not scene.proven(ours, scene.detected(scored(scene, [2.0, 1.01, -TIE, TIE, -1.0])))


@pytest.mark.parametrize(("gap", "good"), [(TIE, True), (NONE, False)])
def test_pairs_of_query_and_class_tie_alike(
    scenes: dict[str, Scene], monkeypatch: pytest.MonkeyPatch, gap: float, good: bool
) -> None:
    """Where classes are independent, one query takes several places."""
    scene = scenes["detr"]
    monkeypatch.setattr(scene.reference.detector.bbox_head.loss_cls, "use_sigmoid", True)

    def scored(first: float, second: float) -> dict[str, Any]:
        raw = queries(scene, [2.0, second])
        raw["cls_score"] = np.ascontiguousarray(raw["cls_score"][..., :-1])
        raw["cls_score"][0, 0, 1:] = 1.0, first
        return raw

    with scene.settings("bbox_head", max_per_img=3):
        assert scene.proven(scored(gap, -gap), scene.detected(scored(-gap, gap))) is good


def test_where_one_lowers_the_others_score_there_is_no_proof(scenes: dict[str, Scene]) -> None:
    """Soft-NMS gives the second of two that overlap another score than the first would have."""
    scene = scenes["cornernet"]

    def overlapping(gap: float) -> dict[str, Any]:
        raw = {name: np.zeros_like(value) for name, value in scene.raw.items()}
        _corners(raw, 2, 18, 2.0, 10.0)
        _corners(raw, 10, 2, gap, 20.0)
        _corners(raw, 11, 3, -gap, 30.0)
        return _silent_elsewhere(raw)

    with scene.settings("bbox_head", max_per_img=2):
        assert not scene.proven(overlapping(TIE), scene.detected(overlapping(-TIE)))


def test_the_head_is_as_before_afterwards(kind: Kind) -> None:
    scene, scored = kind
    cfg: Any = scene.reference.detector.bbox_head.test_cfg
    before = dict(cfg)
    ours, theirs = (scored(scene, [2.0, 1.0, by, -by, -1.0]) for by in (TIE, -TIE))
    assert scene.proven(ours, scene.detected(theirs))
    assert scene.reference.detector.bbox_head.test_cfg is cfg and dict(cfg) == before
