"""Candidates at a cut: which of nearly equal scores are among a level's first ``nms_pre``.

mmdet takes the best of each level before it suppresses. Where the last that is taken and the next
are a rounding apart, either may be; just so many are taken in any case. So it is with an image's
first ``max_per_img`` detections where no suppression chooses them (DETR, CornerNet).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.ties.replace import overridden, replaced
from pytest_onnxdet.reference.ties.rounding import score_slack
from pytest_onnxdet.reference.ties.standing import Cut, Flags, Standing
from pytest_onnxdet.reference.ties.suppression import Choice, Unproven, chosen_rows
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


@contextlib.contextmanager
def open_last(head: Any, count: int) -> Iterator[None]:
    """For the duration of the block, a head gives up to so many detections of an image.

    Args:
        head: one that cuts them at its ``test_cfg``'s ``max_per_img``.
        count: no more than there may be.
    """
    wider = copy.deepcopy(head.test_cfg)
    wider.max_per_img = count
    with overridden(head, test_cfg=wider):
        yield


def with_last_places(
    every: Detections, candidate: Detections, limit: int, tolerance: Tolerance
) -> Detections:
    """Of all of mmdet's detections those that a backend kept, if rounding may have it so.

    Those that surely are among the first have to be kept, of those that tie for the last places
    just as many as there are places, whichever they are. A score is what mmdet makes of it: where
    one detection lowers another's score, as in soft-NMS, and another order of the two would change
    it, this is no proof.

    Args:
        every: all detections of an image, before they are cut.
        candidate: what a backend finds in it.
        limit: how many are kept.
        tolerance: by how much what was kept may differ from mmdet's.

    Raises:
        Unproven: it kept others.
    """
    sure, possible = first(every.scores, limit)
    choice = Choice(candidate.boxes, candidate.scores, candidate.labels, limit)
    rows = np.sort(chosen_rows(every.boxes, every.scores, every.labels, choice, tolerance))
    keep = np.zeros_like(sure)
    keep[rows] = True
    wrong = np.flatnonzero((sure & ~keep) | (keep & ~possible))
    if wrong.size:
        raise Unproven(f"{every.boxes[wrong[0]]} is among the first {limit} in one of the two only")
    if len(rows) != min(limit, len(every)):
        raise Unproven(f"{len(rows)} detections are kept, and there are {limit} places")
    masks: Any = every.masks
    return replace(
        every,
        boxes=every.boxes[rows],
        scores=every.scores[rows],
        labels=every.labels[rows],
        masks=None if masks is None else masks[rows],
        mask_probs=None if every.mask_probs is None else every.mask_probs[rows],
    )
