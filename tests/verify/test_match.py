"""The assignment finds a pairing within the allowances whenever there is one."""

import itertools

import numpy as np
import pytest
from verify_samples import TOLERANCE, detections, take

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.verify.match import assign, box_distance, iou, match


def boxes_of(*rows):
    return np.array(rows, dtype=np.float32)


def test_iou_by_hand():
    a = boxes_of([0, 0, 10, 10])
    b = boxes_of([0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 9], [9, 9, 1, 1])
    assert iou(a, b)[0] == pytest.approx([1, 1 / 3, 0, 0, 0])


def test_iou_of_what_is_not_finite_is_zero():
    b = boxes_of([np.nan, 0, 10, 10], [-np.inf, -np.inf, np.inf, np.inf])
    assert iou(boxes_of([0, 0, 10, 10]), b).tolist() == [[0, 0]]


def test_empty_lists_have_a_shape():
    none = np.zeros((0, 4), np.float32)
    assert iou(none, boxes_of([0, 0, 1, 1])).shape == (0, 1)
    assert box_distance(boxes_of([0, 0, 1, 1]), none).shape == (1, 0)
    assert assign(np.zeros((0, 3)), np.zeros((0, 3), bool)) == []


@pytest.mark.parametrize("seed", range(20))
def test_assignment_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    cost, allowed = rng.uniform(0, 3, (4, 5)), rng.random((4, 5)) < 0.5

    def value(pairs):
        used = [(r, c) for r, c in pairs if allowed[r, c]]
        return -len(used), sum(cost[p] for p in used)

    best = min(value(list(enumerate(p))) for p in itertools.permutations(range(5), 4))
    got = assign(cost, allowed)
    assert value(got) == pytest.approx(best)
    assert len({r for r, _ in got}) == len({c for _, c in got}) == len(got)


@pytest.mark.parametrize("seed", range(10))
def test_any_shuffle_is_undone(seed):
    reference = detections(seed, count=40)
    order = np.random.default_rng(seed).permutation(40)
    assert match(reference, take(reference, order), TOLERANCE) == [
        (int(i), int(np.flatnonzero(order == i)[0])) for i in range(40)
    ]


def test_one_box_twice_is_told_apart_by_score():
    box = boxes_of([1, 2, 30, 40])
    ours = Detections(box.repeat(3, 0), np.float32([0.9, 0.5, 0.2]), np.zeros(3, np.int64))
    theirs = take(ours, [2, 0, 1])
    assert match(ours, theirs, TOLERANCE) == [(0, 1), (1, 2), (2, 0)]


def test_one_score_twice_is_told_apart_by_box():
    boxes = boxes_of([0, 0, 20, 20], [1, 1, 21, 21], [2, 2, 22, 22])
    ours = Detections(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int64))
    assert match(ours, take(ours, [1, 2, 0]), TOLERANCE) == [(0, 2), (1, 0), (2, 1)]


def test_greedy_by_iou_would_cross_these():
    # The candidate's first box is nearest to the reference's second, whose own answer is the
    # candidate's second: only looking at both keeps every pair within the allowance.
    ours = Detections(
        boxes_of([0, 0, 50, 50], [0.008, 0, 50, 50]), np.float32([0.5, 0.5]), np.zeros(2, np.int64)
    )
    theirs = Detections(boxes_of([0.007, 0, 50, 50], [0.016, 0, 50, 50]), ours.scores, ours.labels)
    assert match(ours, theirs, TOLERANCE) == [(0, 0), (1, 1)]


def test_classes_are_never_mixed_and_far_boxes_never_paired():
    boxes = boxes_of([0, 0, 10, 10])
    ours = Detections(boxes, np.float32([0.5]), np.int64([0]))
    assert match(ours, Detections(boxes, ours.scores, np.int64([1])), TOLERANCE) == []
    assert match(ours, Detections(boxes + 20, ours.scores, ours.labels), TOLERANCE) == []


def test_a_degenerate_box_is_matched_by_its_coordinates():
    flat = Detections(boxes_of([5, 5, 5, 9]), np.float32([0.5]), np.int64([0]))
    assert match(flat, flat, TOLERANCE) == [(0, 0)]
