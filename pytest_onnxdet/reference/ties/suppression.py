"""What mmdet finds when suppression chooses as a backend did, where float ties leave it the choice.

Greedy suppression turns a last digit into a whole box: of two overlapping boxes whose scores are a
rounding apart either may be kept, and so may both where their overlap is a rounding away from the
threshold. In a two-stage model another proposal is then refined, and the detections differ by
pixels. PyTorch's own roundings are of that size: mmcv's ``batched_nms`` moves the boxes of each
class apart by more than the image's width, where float32 keeps 1/128 px.

So a backend's choice is not compared with PyTorch's, but judged: :func:`judge` goes through all of
PyTorch's candidates and asks of each whether it may have been kept, or dropped, had scores and
boxes been rounded otherwise. A choice that holds is then played back into mmdet, whose later layers
work on from there, and what comes of it is PyTorch's own result for that choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from pytest_onnxdet.families.suppression import SPLIT
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.ties.replace import replaced
from pytest_onnxdet.reference.ties.rounding import box_slack, score_slack
from pytest_onnxdet.reference.ties.standing import Standing

Floats = NDArray[np.floating[Any]]
#: Options of mmcv's ``nms`` that :func:`judge` does not know, with what leaves them out.
_NOT_JUDGED = {"offset": 0, "score_threshold": 0, "max_num": -1}


class Unproven(Exception):
    """A choice is not one that suppression may make; the message says of which box."""


@dataclass(frozen=True)
class Choice:
    """What a backend's suppression kept.

    Attributes:
        boxes: float32 (K, 4), corners, in the pixels that mmdet suppresses in.
        scores: float32 (K,).
        labels: int64 (K,), classes, or levels of proposals: boxes of different ones may be equal.
        limit: the most that may be kept; None: any number.
    """

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int64]
    limit: int | None


@contextlib.contextmanager
def played_back(
    choices: Sequence[Choice], tolerance: Tolerance, noted: list[Standing] | None = None
) -> Iterator[None]:
    """For the duration of the block, mmdet's suppressions give these choices, one after the other.

    Args:
        choices: of the suppressions of one image, in the order in which mmdet makes them.
        tolerance: by how much what was kept may differ from PyTorch's candidates.
        noted: before each suppression, how the boxes stand that it gets, part by part; is emptied.
            None or empty: all are candidates.

    Raises:
        Unproven: within the block, where a choice does not hold or there are not as many.
    """
    from mmcv.ops import batched_nms as original

    left = list(choices)

    def chosen(
        boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: Any, class_agnostic: bool = False
    ) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = dict(nms_cfg or {"type": "none"})
        if options.get("type", "nms") != "nms":
            raise Unproven(f"{options['type']} does not only choose")
        if more := [k for k in _NOT_JUDGED if options.get(k, _NOT_JUDGED[k]) != _NOT_JUDGED[k]]:
            raise Unproven(f"suppression with {', '.join(more)} is not judged")
        agnostic = options.get("class_agnostic", class_agnostic)
        if len(scores) >= options.get("split_thr", SPLIT):
            agnostic = False  # mmcv goes class by class
        if not left:
            raise Unproven("mmdet suppresses more often than the backend has made choices")
        standing = Standing.joined(noted) if noted else None
        rows = np.arange(len(scores))
        if noted and standing is not None:
            noted.clear()
            if len(standing) != len(scores):
                raise Unproven(f"{len(scores)} boxes are suppressed, and {len(standing)} noted")
            rows = np.flatnonzero(~standing.out)
            standing = standing.taken(rows)
        held = judge(
            boxes.numpy()[rows],
            scores.numpy()[rows],
            idxs.numpy()[rows],
            float(options["iou_threshold" if "iou_threshold" in options else "iou_thr"]),
            left.pop(0),
            tolerance,
            agnostic,
            standing,
        )
        keep = torch.from_numpy(rows[held])
        keep = keep[scores[keep].argsort(descending=True, stable=True)]
        return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep

    with replaced(original, chosen):
        yield
        if any(len(choice.scores) for choice in left):
            raise Unproven("the backend keeps boxes where mmdet has no candidate")


def judge(
    boxes: Floats,
    scores: Floats,
    labels: NDArray[np.int64],
    iou_threshold: float,
    choice: Choice,
    tolerance: Tolerance,
    class_agnostic: bool = False,
    standing: Standing | None = None,
) -> NDArray[np.int64]:
    """The candidates that a choice keeps, if greedy suppression may keep just these.

    Each kept box must be a candidate, within the allowances, and no more may be kept than allowed.
    No two of a label may surely overlap by more than the threshold. Each candidate that is not kept
    must perhaps overlap by more with a kept one of its label that perhaps scores higher; or, where
    as many are kept as may be, perhaps score no higher than the last; or perhaps be no candidate,
    as a limit that comes before suppression has it. "Surely" and "perhaps": with
    every coordinate and score off by what rounding can do (see the module
    ``rounding`` beside this one), which is far less than the allowances.

    Args:
        boxes: float32 (P, 4), corners of all candidates; scores float32 (P,); labels int64 (P,).
        iou_threshold: overlap above which the lower-scored box of a label is dropped.
        choice: what was kept.
        tolerance: ``box_px`` and ``score`` are the allowances.
        class_agnostic: whether boxes of all labels suppress each other.
        standing: which of them are candidates only perhaps; none may be out. None: all are ones.

    Returns:
        int64 (K,), the rows of the boxes that it keeps.

    Raises:
        Unproven: it may not.
    """
    rows = chosen_rows(boxes, scores, labels, choice, tolerance)
    if choice.limit is not None and len(rows) > choice.limit:
        raise Unproven(f"{len(rows)} boxes are kept, and {choice.limit} may be")
    tie = score_slack(scores)
    last = (scores[rows] + tie[rows]).min(initial=np.inf)
    if class_agnostic:
        labels = np.zeros_like(labels)
    step = float(boxes.max(initial=0.0)) + 1
    keep = np.zeros(len(scores), dtype=bool)
    keep[rows] = True
    unexplained = ~keep
    for label in np.unique(labels):
        slack = box_slack(boxes, step * float(label))
        mine = np.flatnonzero(labels == label)
        ours, others = mine[keep[mine]], mine[~keep[mine]]
        sure, _ = overlaps(boxes[ours], boxes[ours], slack)
        np.fill_diagonal(sure, 0.0)
        if (sure > iou_threshold).any():
            first, second = ours[np.argwhere(sure > iou_threshold)[0]]
            raise Unproven(f"both {boxes[first]} and {boxes[second]} are kept")
        _, possible = overlaps(boxes[others], boxes[ours], slack)
        outranked = (scores + tie)[ours][None] >= (scores - tie)[others][:, None]
        dropped = ((possible > iou_threshold) & outranked).any(axis=1)
        if choice.limit is not None and len(rows) >= choice.limit:
            dropped |= (scores - tie)[others] <= last
        unexplained[others[dropped]] = False
    standing = standing or Standing(np.zeros_like(keep), np.zeros_like(keep))
    wrong = standing.objection(keep, unexplained)
    if wrong is not None:
        at = wrong[0]
        state = "is kept, and too many like it" if keep[at] else "is not kept"
        raise Unproven(f"{boxes[at]} of score {scores[at]:.6g} {state}")
    return rows


def chosen_rows(
    boxes: Floats, scores: Floats, labels: NDArray[np.int64], choice: Choice, tolerance: Tolerance
) -> NDArray[np.int64]:
    """Of each kept box its candidate, the nearest within the allowances."""
    rows = _unmistakable(boxes, scores, labels, choice, tolerance)
    for number in np.flatnonzero(rows < 0):
        box, score = choice.boxes[number], choice.scores[number]
        far = np.abs(boxes - box).max(axis=1, initial=0.0)
        alike = (np.abs(scores - score) <= tolerance.score) & (labels == choice.labels[number])
        far = np.where(alike, far, np.inf)
        far[rows[rows >= 0]] = np.inf
        longer = float(np.max(box[2:] - box[:2]))
        if not far.size or far.min() > max(tolerance.box_px, tolerance.box_rel * longer):
            raise Unproven(f"{box} of score {score:.6g} is no candidate")
        rows[number] = far.argmin()
    return rows


def _unmistakable(
    boxes: Floats, scores: Floats, labels: NDArray[np.int64], choice: Choice, tolerance: Tolerance
) -> NDArray[np.int64]:
    """Of each kept box its candidate, where that is nearer than any other to it alone; else -1."""
    none = np.full(len(choice.boxes), -1)
    if len(boxes) < 2 or not len(choice.boxes):
        return none
    gaps, nearest = cKDTree(boxes).query(choice.boxes, k=2, p=np.inf)
    rows = nearest[:, 0]
    longer = (choice.boxes[:, 2:] - choice.boxes[:, :2]).max(axis=1)
    sure = (
        (gaps[:, 0] < gaps[:, 1])
        & (gaps[:, 0] <= np.maximum(tolerance.box_px, tolerance.box_rel * longer))
        & (np.abs(scores[rows] - choice.scores) <= tolerance.score)
        & (labels[rows] == choice.labels)
    )
    if len(set(rows[sure])) < sure.sum():
        return none
    return np.where(sure, rows, -1)


def overlaps(ours: Floats, theirs: Floats, slack: float) -> tuple[Floats, Floats]:
    """Between which values boxes' intersections over union lie, coordinates being off by so much.

    Args:
        ours: (M, 4), corners; theirs (K, 4).
        slack: pixels by which each coordinate may be off.

    Returns:
        Two float64 (M, K), the least and the greatest IoU.
    """
    a, b = (c.astype(np.float64).T for c in (ours, theirs))  # (4, M) and (4, K)
    width, height = (
        np.minimum.outer(a[i + 2], b[i + 2]) - np.maximum.outer(a[i], b[i]) for i in (0, 1)
    )
    min_shared, max_shared = (_area(width + s, height + s) for s in (-2 * slack, 2 * slack))
    (a_min, a_max), (b_min, b_max) = (
        [_area(c[2] - c[0] + s, c[3] - c[1] + s) for s in (-2 * slack, 2 * slack)] for c in (a, b)
    )
    a_min, a_max = a_min[:, None], a_max[:, None]
    low = min_shared / (a_max + b_max - min_shared)
    # A box as thin as the slack may be anything.
    union = np.maximum(a_min + b_min - max_shared, np.maximum(a_min, b_min))
    high = np.where(
        union > 0, np.minimum(max_shared / np.where(union > 0, union, 1.0), 1.0), max_shared > 0
    )
    return low, high


def _area(width: Floats, height: Floats) -> Floats:
    """Of widths and heights, those below 0 being none."""
    area: Floats = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return area
