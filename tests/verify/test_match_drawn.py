"""Matching, of whatever detections: one to one, as many from either side, in any order."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.match import OVERLAP, iou, match

EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True, database=None)
# Of a share of the longer side the reference's is meant, so only a plain allowance is symmetric.
TOLERANCE = Tolerance(box_px=0.5, box_rel=0.0, score=0.01)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    """Up to 12, near one another: on a coarse grid, so that many are equal or overlap."""
    count = draw(st.integers(0, 12))
    corner = draw(drawn.arrays(np.float32, (count, 2), elements=st.sampled_from([0, 0.25, 3, 20])))
    side = draw(drawn.arrays(np.float32, (count, 2), elements=st.sampled_from([0, 4, 6, 30])))
    scores = draw(
        drawn.arrays(np.float32, count, elements=st.sampled_from([0.5, 0.5078125, 0.75, 0.875]))
    )
    labels = draw(drawn.arrays(np.int64, count, elements=st.integers(0, 2)))
    order = np.argsort(-scores, kind="stable")
    boxes = np.concatenate([corner, corner + side], axis=1)
    return Detections(boxes[order], scores[order], labels[order])


def permuted(one: Detections, order: np.ndarray) -> Detections:
    return replace(one, boxes=one.boxes[order], scores=one.scores[order], labels=one.labels[order])


@EXAMPLES
@given(detections(), detections())
def test_one_to_one_within_a_class_and_near(ours: Detections, theirs: Detections) -> None:
    pairs = match(ours, theirs, TOLERANCE)
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
    assert list(rows) == sorted(rows)
    for row, column in pairs:
        assert ours.labels[row] == theirs.labels[column]
        gap = np.abs(ours.boxes[row] - theirs.boxes[column]).max()
        overlap = iou(ours.boxes[row : row + 1], theirs.boxes[column : column + 1])[0, 0]
        assert gap <= TOLERANCE.box_px or overlap >= OVERLAP


@EXAMPLES
@given(detections(), detections())
def test_as_many_from_either_side(ours: Detections, theirs: Detections) -> None:
    one, other = match(ours, theirs, TOLERANCE), match(theirs, ours, TOLERANCE)
    assert len(one) == len(other)

    def good(pairs: list[tuple[int, int]], a: Detections, b: Detections) -> int:
        return sum(
            np.abs(a.boxes[i] - b.boxes[j]).max() <= TOLERANCE.box_px
            and abs(float(a.scores[i]) - float(b.scores[j])) <= TOLERANCE.score
            for i, j in pairs
        )

    assert good(one, ours, theirs) == good(other, theirs, ours)


@EXAMPLES
@given(detections(), st.randoms(use_true_random=False))
def test_a_permutation_is_found_whole(ours: Detections, chance: object) -> None:
    order = np.array(chance.sample(range(len(ours)), len(ours)), np.int64)  # type: ignore[attr-defined]
    pairs = match(ours, permuted(ours, order), TOLERANCE)
    assert len(pairs) == len(ours)
    for row, column in pairs:
        np.testing.assert_array_equal(ours.boxes[row], ours.boxes[order[column]])
        assert ours.scores[row] == ours.scores[order[column]]


@EXAMPLES
@given(detections(), detections(), st.randoms(use_true_random=False))
def test_order_does_not_matter(ours: Detections, theirs: Detections, chance: object) -> None:
    order = np.array(chance.sample(range(len(theirs)), len(theirs)), np.int64)  # type: ignore[attr-defined]
    straight = match(ours, theirs, TOLERANCE)
    mixed = match(ours, permuted(theirs, order), TOLERANCE)
    assert len(straight) == len(mixed)
