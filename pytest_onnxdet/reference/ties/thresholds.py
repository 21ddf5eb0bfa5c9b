"""Candidates at a threshold: a score, a confidence or a size within rounding of it.

mmdet drops what scores no more than ``score_thr`` (YOLOv3 first what is less confident than
``conf_thr``), and proposals of which a side is no longer than ``min_bbox_size``. Where a value is a
rounding away from that, either may be right.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pytest_onnxdet.reference.ties.replace import overridden, replaced
from pytest_onnxdet.reference.ties.rounding import box_slack, score_slack
from pytest_onnxdet.reference.ties.standing import Flags, Standing

Floats = NDArray[np.floating[Any]]


def at_threshold(scores: Floats, threshold: float) -> tuple[Flags, Flags]:
    """Which scores are surely, and which possibly, above a threshold: two bool, of their shape."""
    values, slack = scores.astype(np.float64), score_slack(scores)
    return values - slack > threshold, values + slack >= threshold


def widened(threshold: float) -> float:
    """A threshold that lets all pass which possibly are above this one.

    The slack of scores so near to each other differs by far less than the factor.
    """
    return float(threshold - 2 * score_slack(np.array(threshold)))


def at_size(boxes: Floats, min_size: float, shape: tuple[int, ...] | None) -> tuple[Flags, Flags]:
    """Which boxes surely, and which possibly, have both sides longer than allowed.

    Args:
        boxes: (P, 4), corners before they are clipped. A box that lies outside of the image has
            no width after that, and that is no rounding.
        min_size: pixels that a side must exceed; negative: any box will do.
        shape: height and width that boxes are clipped to; None: they are not.

    Returns:
        Two bool (P,).
    """
    if min_size < 0:
        every = np.ones(len(boxes), dtype=bool)
        return every, every
    corners, slack = boxes.astype(np.float64), box_slack(boxes)
    high = [np.inf, np.inf] if shape is None else [shape[1], shape[0]]
    low = [-np.inf, -np.inf] if shape is None else [0.0, 0.0]

    def shortest(by: float) -> Floats:
        """The shorter side of each box with its corners moved outwards."""
        first = np.clip(corners[:, :2] - by, low, high)
        return (np.clip(corners[:, 2:] + by, low, high) - first).min(axis=1, initial=np.inf)

    return shortest(-slack) > min_size, shortest(slack) > min_size


@contextlib.contextmanager
def open_scores(noted: list[Standing], head: Any, confidence: str | None) -> Iterator[None]:
    """For the duration of the block, mmdet's ``multiclass_nms`` suppresses what may be a candidate.

    Args:
        noted: where the standing of the boxes goes that are suppressed next.
        head: the head in whose ``test_cfg`` the confidence's threshold is.
        confidence: its key; None: there is none.
    """
    from mmdet.core.post_processing.bbox_nms import multiclass_nms as original

    threshold = None if confidence is None else head.test_cfg.get(confidence, -1)

    def open_(
        multi_bboxes: Tensor,
        multi_scores: Tensor,
        score_thr: float,
        nms_cfg: Any,
        max_num: int = -1,
        score_factors: Tensor | None = None,
        return_inds: bool = False,
    ) -> Any:
        lower = widened(score_thr)
        scores = multi_scores[:, :-1]
        passed = (scores > lower).reshape(-1).numpy()
        sure, possible = at_threshold(scores.reshape(-1).numpy()[passed], score_thr)
        if threshold is not None and threshold > 0 and score_factors is not None:
            factors = score_factors.view(-1, 1).expand_as(scores).reshape(-1).numpy()[passed]
            also, perhaps = at_threshold(factors, threshold)
            sure, possible = sure & also, possible & perhaps
        noted[:] = [Standing.of(sure, possible)]
        return original(
            multi_bboxes, multi_scores, lower, nms_cfg, max_num, score_factors, return_inds
        )

    with contextlib.ExitStack() as stack:
        if confidence is not None and threshold is not None and threshold > 0:
            cfg = copy.deepcopy(head.test_cfg)
            cfg[confidence] = widened(threshold)
            stack.enter_context(overridden(head, test_cfg=cfg))
        stack.enter_context(replaced(original, open_))
        yield


@contextlib.contextmanager
def open_products(noted: list[Standing], head: Any) -> Iterator[None]:
    """For the duration of the block, a head of YOLOX's kind suppresses what may be a candidate.

    Args:
        noted: where the standing of the boxes goes that are suppressed next.
        head: one whose ``_bboxes_nms`` keeps what scores at least ``score_thr``.
    """
    original = head._bboxes_nms

    def open_(cls_scores: Tensor, bboxes: Tensor, score_factor: Tensor, cfg: Any) -> Any:
        wider = copy.deepcopy(cfg)
        wider.score_thr = widened(cfg.score_thr)
        scores = (score_factor * cls_scores.amax(dim=1)).numpy()
        passed = scores[scores >= np.float32(wider.score_thr)]
        noted[:] = [Standing.of(*at_threshold(passed, cfg.score_thr))]
        return original(cls_scores, bboxes, score_factor, wider)

    with overridden(head, _bboxes_nms=open_):
        yield
