"""Proposals at a level's cut and at the least size, and regions at a pyramid level's border."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tie_samples import NOTHING, Scene, differ

from pytest_onnxdet.reference.ties.cuts import first
from pytest_onnxdet.reference.ties.levels import Decisions, played_back_levels
from pytest_onnxdet.reference.ties.replace import overridden
from pytest_onnxdet.reference.ties.thresholds import at_size

TIE, NONE = 2e-5, 2e-3
LEVEL = "cls_score_1"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A Faster R-CNN that goes on with two proposals: without a score all others would be some."""
    made = Scene.of("faster_rcnn")
    with made.settings("rpn_head", max_per_img=2):
        yield made


@pytest.fixture(scope="module")
def objects(scene: Scene) -> tuple[int, int]:
    """Two priors of one level, each at an object of its own."""
    scores = scene.raw[LEVEL]
    order = scores.ravel().argsort()[::-1]
    rows, columns = (np.unravel_index(order, scores.shape)[axis] for axis in (2, 3))
    far = np.hypot(rows - rows[0], columns - columns[0]) > 4
    return int(order[0]), int(order[far.argmax()])


def proposing(scene: Scene, logits: dict[int, float]) -> dict[str, Any]:
    """Raw outputs with the network's own boxes, of which just these priors have a score."""
    raw = {
        name: value.copy() if name.startswith("bbox") else np.full_like(value, NOTHING)
        for name, value in scene.raw.items()
    }
    for prior, value in logits.items():
        raw[LEVEL].flat[prior] = value
    return raw


@pytest.mark.parametrize("sign", [1, -1])
def test_of_proposals_that_tie_for_a_levels_last_place_either_is_taken(
    scene: Scene, objects: tuple[int, int], sign: int
) -> None:
    one, two = objects
    with scene.settings("rpn_head", nms_pre=1):
        for gap, good in ((TIE, True), (NONE, False)):
            ours = proposing(scene, {one: 2 + sign * gap, two: 2 - sign * gap})
            theirs = proposing(scene, {one: 2 - sign * gap, two: 2 + sign * gap})
            candidate, proposals = scene.suppressed(theirs)
            assert len(candidate) and scene.proven(ours, candidate, proposals) is good


def test_of_proposals_just_as_many_are_taken_as_there_are_places(
    scene: Scene, objects: tuple[int, int]
) -> None:
    raw = proposing(scene, {one: 2.0 + TIE * at for at, one in enumerate(objects)})
    candidate, proposals = scene.suppressed(raw)
    with scene.settings("rpn_head", nms_pre=1):
        assert not scene.proven(raw, candidate, proposals)


@pytest.mark.parametrize(("gap", "good"), [(TIE, True), (NONE, False)])
def test_the_cut_of_all_proposals(
    scene: Scene, objects: tuple[int, int], gap: float, good: bool
) -> None:
    one, two = objects
    with scene.settings("rpn_head", max_per_img=1):
        ours = proposing(scene, {one: 2 + gap, two: 2 - gap})
        candidate, proposals = scene.suppressed(proposing(scene, {one: 2 - gap, two: 2 + gap}))
        assert scene.proven(ours, candidate, proposals) is good


@pytest.mark.parametrize("sign", [1, -1])
def test_a_proposal_of_the_least_size_may_be_missing_or_not(
    scene: Scene, objects: tuple[int, int], sign: int
) -> None:
    raw = proposing(scene, dict(zip(objects, (3.0, 2.0), strict=True)))
    _, both = scene.suppressed(raw)
    sides = (both[0, :, 2:4] - both[0, :, :2]).min(axis=1)
    size, small = float(sides.min()), both[0, sides.argmin(), :4]
    assert np.abs(sides - size).max() > 1
    for gap, good in ((2e-4, True), (0.01, False)):
        with scene.settings("rpn_head", min_bbox_size=size - sign * gap):
            candidate, proposals = scene.suppressed(raw)
        there = np.abs(proposals[0, :, :4] - small).max(axis=1) < 1e-3
        assert there.any() == (sign > 0)
        with scene.settings("rpn_head", min_bbox_size=size + sign * gap):
            assert scene.proven(raw, candidate, proposals) is good


def test_boxes_beside_the_image_have_no_size_whatever_is_rounded() -> None:
    boxes = np.float32([[-9, 0, -1, 9], [-9, 0, 0, 9], [-9, 0, 1, 9], [31, 0, 99, 9]])
    large, perhaps = at_size(boxes, 0, (20, 30))
    assert large.tolist() == [False, False, True, False]
    assert perhaps.tolist() == [False, True, True, False]
    assert all(side.all() for side in at_size(boxes, 0, None))
    assert all(side.all() for side in at_size(boxes, -1, (20, 30)))


def test_the_first_of_scores_by_their_places() -> None:
    scores = np.float32([0.5, 0.9, 0.50001, 0.1, 0.50002])
    assert [flags.tolist() for flags in first(scores, 2)] == [
        [False, True, False, False, False],
        [True, True, True, False, True],
    ]
    assert all(side.all() for count in (-1, 0, 5, 9) for side in first(scores, count))


def at_border(scene: Scene, prior: int, off: float) -> tuple[dict[str, Any], float]:
    """A single proposal and the ``finest_scale`` that puts it beside the first border.

    Args:
        off: by which share the proposal is larger than the border.
    """
    raw = proposing(scene, {prior: 3.0})
    _, proposals = scene.suppressed(raw)
    width, height = (proposals[0, 0, 2:4] - proposals[0, 0, :2]).astype(np.float64)
    # floor(log2(scale / finest + 1e-6)) steps from 0 to 1 where the ratio is 2 - 1e-6.
    return raw, float(np.sqrt(width * height) / ((2 - 1e-6) * (1 + off)))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("off", "good"), [(2e-6, True), (2e-3, False)])
def test_a_region_at_a_border_is_of_either_level(
    scene: Scene, objects: tuple[int, int], off: float, good: bool, sign: int
) -> None:
    extractor: Any = scene.reference.detector.get_submodule("roi_head.bbox_roi_extractor")
    raw, finest = at_border(scene, objects[0], sign * off)
    with overridden(extractor, finest_scale=finest), scene.settings("rpn_head", max_per_img=1):
        own = extractor.map_roi_levels
        with overridden(extractor, map_roi_levels=lambda rois, number: 1 - own(rois, number)):
            candidate, proposals = scene.suppressed(raw)
        assert scene.proven(raw, candidate, proposals) is good
        assert "map_roi_levels" not in vars(extractor)


def test_each_region_at_a_border_is_decided_on_its_own(scene: Scene) -> None:
    """All ways are gone through, each once, and the same region is decided in the same way."""
    extractor: Any = scene.reference.detector.get_submodule("roi_head.bbox_roi_extractor")
    side = 112.0 * (1 - 5e-7)
    rois = torch.tensor([[0, x, 0, x + side, side] for x in (0, 64, 0)] + [[0, 0, 0, 30, 30]])
    asked, seen = [()], []
    for decided in asked:
        decisions = Decisions(decided)
        with played_back_levels(scene.reference.detector, decisions):
            levels = extractor.map_roi_levels(rois, 4)
            assert torch.equal(extractor.map_roi_levels(rois, 4), levels)
        assert levels[0] == levels[2] and levels[3] == 0
        seen.append(tuple(levels[:2].tolist()))
        asked += decisions.others()
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_without_a_difference_in_levels_nothing_is_decided(scene: Scene) -> None:
    decisions = Decisions()
    with played_back_levels(scene.reference.detector, decisions):
        again = scene.detected(scene.raw)
    assert not differ(again, scene.detected(scene.raw))
    assert decisions.made == [] and decisions.others() == []
