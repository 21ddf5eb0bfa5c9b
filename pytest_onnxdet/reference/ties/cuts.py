"""Candidates at a cut: which of nearly equal scores are among a level's first ``nms_pre``.

mmdet takes the best of each level before it suppresses. Where the last that is taken and the next
are a rounding apart, either may be; just so many are taken in any case.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pytest_onnxdet.reference.ties.replace import overridden, replaced
from pytest_onnxdet.reference.ties.rounding import score_slack
from pytest_onnxdet.reference.ties.standing import Cut, Flags, Standing
from pytest_onnxdet.reference.ties.thresholds import at_size, at_threshold, widened

Floats = NDArray[np.floating[Any]]


def first(scores: Floats, count: int) -> tuple[Flags, Flags]:
    """Which scores are among the ``count`` highest in any case, and which possibly are.

    Args:
        scores: (P,), probabilities.
        count: how many are taken; 0 or less: all.

    Returns:
        Two bool (P,): one is sure when fewer than ``count`` others can come before it, and possible
        unless ``count`` others surely do.
    """
    if not 0 < count < len(scores):
        every = np.ones(len(scores), dtype=bool)
        return every, every
    slack = score_slack(scores)
    low, high = scores - slack, scores + slack
    possible: Flags = high >= -np.partition(-low, count - 1)[count - 1]
    sure: Flags = low > -np.partition(-high, count)[count]
    return sure, possible


def cut(sure: Flags, possible: Flags, count: int) -> tuple[Cut, ...]:
    """The rows that tie for the last of ``count`` places, with how many of them there are."""
    rows = np.flatnonzero(possible & ~sure)
    places = count - int(sure.sum())
    return (Cut(rows, places, len(rows) - places),) if rows.size else ()


@contextlib.contextmanager
def open_levels(noted: list[Standing]) -> Iterator[None]:
    """For the duration of the block, a dense head's levels give all that may be candidates.

    That is, mmdet's ``filter_scores_and_topk`` does.

    Args:
        noted: where the standing of what each level gives is appended.
    """
    from mmdet.core.utils import filter_scores_and_topk as original

    def open_(scores: Tensor, score_thr: float, topk: int, results: Any = None) -> Any:
        lower, count = widened(score_thr), topk
        if topk > 0:
            _, possible = first(scores[scores > lower].numpy(), topk)
            count = int(possible.sum())
        candidates = original(scores, lower, count, results)
        best = candidates[0].numpy()
        above, perhaps = at_threshold(best, score_thr)
        taken, may = first(best, topk)
        noted.append(Standing(~(perhaps & may), perhaps & ~above, cut(taken, may, topk)))
        return candidates

    with replaced(original, open_):
        yield


@contextlib.contextmanager
def open_regions(head: Any, noted: list[Standing]) -> Iterator[None]:
    """For the duration of the block, all that may be a candidate is one in a proposal network.

    Args:
        head: mmdet's ``RPNHead``; the limits are ``nms_pre`` and ``min_bbox_size`` of its
            ``test_cfg``.
        noted: where the standing of the boxes goes that are suppressed next.
    """
    cfg = head.test_cfg
    count, min_size = cfg.get("nms_pre", -1), cfg.min_bbox_size
    unlimited = copy.deepcopy(cfg)
    unlimited.nms_pre = unlimited.min_bbox_size = -1
    original = head._bbox_post_process

    def open_(
        mlvl_scores: Sequence[Tensor],
        mlvl_bboxes: Sequence[Tensor],
        mlvl_valid_anchors: Sequence[Tensor],
        level_ids: Sequence[Tensor],
        cfg: Any,
        img_shape: tuple[int, ...],
        **more: Any,
    ) -> Any:
        coder = head.bbox_coder
        boxes = coder.decode(torch.cat(list(mlvl_valid_anchors)), torch.cat(list(mlvl_bboxes)))
        clipped = img_shape if getattr(coder, "clip_border", True) else None
        large, perhaps = at_size(boxes.numpy(), min_size, clipped)
        levels = []
        for scores in mlvl_scores:
            taken, may = first(scores.numpy(), count)
            levels.append(Standing(~may, np.zeros_like(may), cut(taken, may, count)))
        ranked = Standing.joined(levels)
        noted[:] = [Standing(ranked.out | ~perhaps, perhaps & ~large, ranked.cuts)]
        return original(
            mlvl_scores, mlvl_bboxes, mlvl_valid_anchors, level_ids, cfg, img_shape, **more
        )

    with overridden(head, test_cfg=unlimited, _bbox_post_process=open_):
        yield
