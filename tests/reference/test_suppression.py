"""Choices of suppression: those that hold are played back into mmdet, others are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from pytest_onnxdet.data.batches import collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.families import lower
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.suppression import Choice, Unproven, judge, overlaps, played_back

ALLOWED = Tolerance()
THRESHOLD = 0.5
# Each overlaps the next by an IoU of 0.6, and the one after it by 1/3.
ROW = np.float32([[0, 0, 100, 100], [25, 0, 125, 100], [50, 0, 150, 100]])


def held(
    boxes: Any,
    scores: Any,
    rows: list[int],
    labels: Any = None,
    limit: int | None = None,
    allowed: Tolerance = ALLOWED,
) -> list[int]:
    """The rows that :func:`judge` finds for a choice of these rows."""
    boxes, scores = np.float32(boxes), np.float32(scores)
    labels = np.zeros(len(scores), np.int64) if labels is None else np.int64(labels)
    choice = Choice(boxes[rows], scores[rows], labels[rows], limit)
    return judge(boxes, scores, labels, THRESHOLD, choice, allowed).tolist()


def crowd(seed: int) -> tuple[Any, Any, Any, list[int]]:
    """Boxes, scores and labels, and which of them mmcv keeps."""
    from mmcv.ops import batched_nms

    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 200, (300, 2)), rng.uniform(20, 90, (300, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    scores, labels = rng.random(300).astype(np.float32), rng.integers(0, 3, 300)
    tensors = (torch.from_numpy(each) for each in (boxes, scores, labels))
    _, keep = batched_nms(*tensors, {"iou_threshold": THRESHOLD})
    return boxes, scores, labels, keep.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_what_mmcv_keeps_holds_and_one_box_less_or_more_does_not(seed: int) -> None:
    boxes, scores, labels, keep = crowd(seed)
    strict = {"labels": labels, "allowed": Tolerance(box_px=1e-4, score=1e-6, reason="no ties")}
    assert held(boxes, scores, keep, **strict) == keep
    for place in range(0, len(keep), 7):
        with pytest.raises(Unproven, match="is not kept"):
            held(boxes, scores, keep[:place] + keep[place + 1 :], **strict)
    for dropped in sorted(set(range(300)) - set(keep))[::20]:
        with pytest.raises(Unproven, match="both"):
            held(boxes, scores, [*keep, dropped], **strict)


def test_of_scores_that_tie_either_box_may_be_kept() -> None:
    scores = [0.7, 0.70005, 0.1]
    assert held(ROW, scores, [0, 2]) == [0, 2]
    assert held(ROW, scores, [1]) == [1]
    with pytest.raises(Unproven, match="is not kept"):
        held(ROW, [0.7, 0.7002, 0.1], [0, 2])


def test_of_saturated_scores_only_the_last_digits_tie() -> None:
    """1e-4 is nothing at 0.7. At 0.9999 it is a logit of 1, and no rounding."""
    near = [0.99999994, 0.9999999, 0.1]
    assert held(ROW, near, [1]) == [1]
    with pytest.raises(Unproven, match="is not kept"):
        held(ROW, [0.99999, 0.99998, 0.1], [1])


def test_no_more_are_kept_than_may_be() -> None:
    distant = [[200 * i, 0, 200 * i + 100, 100] for i in range(4)]
    assert held(distant, [0.9, 0.8, 0.7, 0.6], [0, 1], limit=2) == [0, 1]
    with pytest.raises(Unproven, match="3 boxes are kept, and 2 may be"):
        held(distant, [0.9, 0.8, 0.7, 0.6], [0, 1, 2], limit=2)


def test_boxes_that_are_moved_far_are_rounded_there() -> None:
    """Of class 79 in an image of 1,333 px, overlaps are known to 1/128 px."""
    boxes = np.float32([[0, 0, 100, 100], [33.345, 0, 133.345, 100], [1200, 0, 1333, 10]])
    scores = [0.9, 0.8, 0.1]
    assert held(boxes, scores, [0, 2], labels=[79] * 3) == [0, 2]
    with pytest.raises(Unproven, match="is not kept"):
        held(boxes, scores, [0, 2], labels=[0] * 3)


def test_where_classes_do_not_matter_boxes_of_others_are_dropped() -> None:
    labels = np.int64([0, 1, 2])
    choice = Choice(ROW[[0, 2]], np.float32([0.9, 0.7]), labels[[0, 2]], None)
    arguments = (ROW, np.float32([0.9, 0.8, 0.7]), labels, THRESHOLD, choice, ALLOWED)
    assert judge(*arguments, class_agnostic=True).tolist() == [0, 2]
    with pytest.raises(Unproven, match="is not kept"):
        judge(*arguments)


@pytest.mark.parametrize(("shift", "open_"), [(0.0, True), (5e-4, True), (0.02, False)])
def test_an_overlap_at_the_threshold_may_count_or_not(shift: float, open_: bool) -> None:
    third = 100 / 3
    boxes = [[0, 0, 100, 100], [third - shift, 0, 100 + third - shift, 100]]
    assert held(boxes, [0.9, 0.8], [0]) == [0]
    if open_:
        assert held(boxes, [0.9, 0.8], [0, 1]) == [0, 1]
    else:
        with pytest.raises(Unproven, match="both"):
            held(boxes, [0.9, 0.8], [0, 1])


def test_the_cut_excuses_what_scores_no_higher() -> None:
    distant = [[200 * i, 0, 200 * i + 100, 100] for i in range(4)]
    scores = [0.9, 0.5, 0.50005, 0.2]
    assert held(distant, scores, [0, 1], limit=2) == [0, 1]
    assert held(distant, scores, [0, 2], limit=2) == [0, 2]
    for rows, limit in (([0, 3], 2), ([0, 1], 3), ([0, 1], None)):
        with pytest.raises(Unproven, match="is not kept"):
            held(distant, scores, rows, limit=limit)


def test_other_classes_neither_suppress_nor_lend_their_candidates() -> None:
    assert held(ROW, [0.9, 0.8, 0.7], [0, 1, 2], labels=[0, 1, 2]) == [0, 1, 2]
    equal = ROW[[0, 0, 1]]  # as proposals of two levels, clipped to the image
    assert held(equal, [0.90001, 0.9, 0.8], [1, 0], labels=[0, 1, 1]) == [1, 0]
    with pytest.raises(Unproven, match="no candidate"):
        judge(
            ROW,
            np.float32([0.9, 0.8, 0.7]),
            np.int64([0, 1, 2]),
            THRESHOLD,
            Choice(ROW[:1], np.float32([0.9]), np.int64([1]), None),
            ALLOWED,
        )


@pytest.mark.parametrize(
    ("box", "score", "good"),
    # The box is 100 px long, and may be off by 2e-4 of that.
    [(0.005, 0.0, True), (0.0, 5e-5, True), (0.03, 0.0, False), (0.0, 2e-4, False)],
)
def test_a_kept_box_is_a_candidate_within_the_allowances(
    box: float, score: float, good: bool
) -> None:
    choice = Choice(ROW[:1] + np.float32(box), np.float32([0.9 + score]), np.int64([4]), None)
    arguments = (ROW[:2], np.float32([0.9, 0.8]), np.int64([4, 4]), THRESHOLD, choice, ALLOWED)
    if good:
        assert judge(*arguments).tolist() == [0]
    else:
        with pytest.raises(Unproven, match="no candidate"):
            judge(*arguments)


def test_a_candidate_is_not_kept_twice() -> None:
    with pytest.raises(Unproven, match="no candidate"):
        held(ROW[:1], [0.9], [0, 0])


def test_overlaps_bound_what_boxes_off_by_the_slack_have() -> None:
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 50, (40, 2)), rng.uniform(0.01, 40, (40, 2))
    boxes = np.concatenate([corner, corner + size], 1)
    low, high = overlaps(boxes, boxes, 0.1)
    exact, same = overlaps(boxes, boxes, 0.0)
    np.testing.assert_allclose(exact, same)
    np.testing.assert_allclose(np.diag(exact), 1)
    for seed in range(20):
        moved = boxes + np.random.default_rng(seed).uniform(-0.1, 0.1, boxes.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        result, _ = overlaps(moved, moved, 0.0)
        other = ~np.eye(len(boxes), dtype=bool)
        assert (result >= low - 1e-12)[other].all() and (result <= high + 1e-12)[other].all()


@pytest.fixture(scope="module")
def two_stage() -> Any:
    """A mini Faster R-CNN with one image, its raw outputs, and what PyTorch chooses twice."""
    spec = builtin_registry().get("faster_rcnn")
    detector: Any = build_detector(spec)
    batch = collate([load_dataset(builtin_datasets().get("shapes"), load_config(spec)).sample(1)])
    reference = Reference(detector)
    raw = reference.raw(batch)
    limit = detector.rpn_head.test_cfg.max_per_img
    with torch.no_grad():
        outputs = lower(detector, "onnxruntime").raw(
            torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape)
        )
    (result,) = outputs["proposals"].numpy()
    (final,) = reference.run(batch)
    proposals = Choice(result[:, :4], result[:, 4], result[:, 5].astype(int), limit)
    last = Choice(final.boxes, final.scores, final.labels, 100)
    return reference, raw, batch, proposals, last


def test_mmdets_own_choices_played_back_give_its_detections(two_stage: Any) -> None:
    from mmcv.ops import batched_nms
    from mmdet.models.dense_heads import rpn_head

    reference, raw, batch, proposals, last = two_stage
    assert len(last.scores) >= 1 and len(proposals.scores) > 50
    with played_back([proposals, last], ALLOWED):
        (again,) = reference.post_process(raw, batch)
    np.testing.assert_allclose(again.boxes, last.boxes, atol=1e-4)
    np.testing.assert_allclose(again.scores, last.scores, atol=1e-6)
    assert rpn_head.batched_nms is batched_nms  # and all is as it was
    assert len(reference.run(batch)[0]) == len(last.scores)


def test_choices_that_do_not_hold_are_refused(two_stage: Any) -> None:
    reference, raw, batch, proposals, last = two_stage
    first = (proposals.boxes[1:], proposals.scores[1:], proposals.labels[1:])
    less = Choice(*first, proposals.limit)
    none = Choice(last.boxes[:0], last.scores[:0], last.labels[:0], 100)
    for choices in ([less, last], [proposals, none], [proposals], [proposals, last, last]):
        with pytest.raises(Unproven), played_back(choices, ALLOWED):
            reference.post_process(raw, batch)


def test_another_network_output_is_another_result(two_stage: Any) -> None:
    """The given raw outputs are used, not the detector's own."""
    reference, raw, batch, _, last = two_stage
    silent = {
        name: np.full_like(value, -20) if name.startswith("cls") else np.zeros_like(value)
        for name, value in raw.items()
    }
    (result,) = reference.post_process(silent, batch)
    assert len(result) != len(last.scores) or not np.allclose(result.boxes, last.boxes, atol=1)
