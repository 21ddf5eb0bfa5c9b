"""Suppression as mmcv's ``batched_nms`` does it: greedy or soft, by class or of all classes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.ops.boxes import quotient, take_rows
from pytest_onnxdet.families.suppression import METHODS, Suppression


class Suppressing(ABC):
    """Suppression in the forms that heads ask for, over what a runtime can do."""

    @abstractmethod
    def top(
        self, scores: Tensor, limit: int, floor: float, min_slots: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The best entries of each row.

        Args:
            scores: float32 (N, P), not negative.
            limit: the maximum of entries kept for a row; not positive: all.
            floor: only entries above it are kept.
            min_slots: the minimum of slots of the result, at most P.

        Returns:
            float32 (N, K) scores, 0 in empty slots; int64 (N, K) their columns. In descending order
            where there is a limit; of the ``onnxruntime`` lowering always.
        """

    @abstractmethod
    def greedy(
        self,
        boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        limit: int,
        limit_per_class: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`nms` where boxes are dropped, class by class; ``limit`` not positive: all."""

    @abstractmethod
    def greedy_pairs(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        classes: int,
        iou_threshold: float,
        limit: int,
        limit_per_class: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`nms_pairs` where boxes are dropped, class by class."""

    @abstractmethod
    def present(self, scores: Tensor, min_slots: int) -> tuple[Tensor, Tensor]:
        """The entries above 0 of scores (N, P), or the best of them where a runtime has a limit.

        Returns:
            float32 (N, K) scores, 0 in empty slots; int64 (N, K) their columns.
        """

    @abstractmethod
    def filled(self, scores: Tensor, limit: int, min_slots: int) -> tuple[Tensor, Tensor]:
        """The best ``limit`` of scores (N, P), in descending order, in as many slots as needed.

        Args:
            scores: float32 (N, P), 0 where there is none.
            limit: not positive: all.
            min_slots: the minimum of slots.
        """

    def nms(
        self,
        boxes: Tensor,
        scores: Tensor,
        suppression: Suppression | float,
        limit: int,
        limit_per_class: int = 0,
        min_slots: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Suppression, then the best of each image.

        Args:
            boxes: float32 (N, P, 4) shared by the classes, or (N, C, P, 4).
            scores: float32 (N, C, P), 0 where a box is no candidate for a class.
            suppression: what the config asks for; a number: an IoU threshold, and nothing else.
            limit: the maximum of detections of an image (``max_per_img``); not positive: all, or
                what slicing leaves.
            limit_per_class: the maximum of detections of an image and class; 0: as many as
                ``limit``, which cannot change the result.
            min_slots: the minimum of slots of the result, 0 or 1; 1 needs P >= 1.

        Returns:
            float32 (N, K) scores in descending order, 0 in empty slots; int64 (N, K) classes, -1
            there; int64 (N, K) columns of ``boxes``, or of its (N, C * P, 4). See `dets_of`.
        """
        asked = _read(suppression)
        if not asked.soft and not asked.class_agnostic:
            moved, scores = _prepared(asked, boxes, scores)
            count = asked.limit(limit)
            ranked = self.greedy(
                moved, scores, asked.iou_threshold, count, limit_per_class, min_slots
            )
            return _cut(asked, ranked, limit)
        columns = scores.shape[2]
        score, pair = self.present(scores.flatten(1), min_slots)
        label = quotient(pair, columns)
        column = pair - label * columns
        rows, at = (boxes.flatten(1, 2), pair) if boxes.dim() == 4 else (boxes, column)
        classes = scores.shape[1]
        score, labels, index = self.nms_pairs(
            take_rows(rows, at), score, label, classes, asked, limit, limit_per_class, min_slots
        )
        return score, labels, torch.gather(at, 1, index)

    def nms_pairs(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        classes: int,
        suppression: Suppression | float,
        limit: int,
        limit_per_class: int = 0,
        min_slots: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`nms` of boxes that each belong to one class.

        Args:
            boxes: float32 (N, P, 4); scores: float32 (N, P); labels: int64 (N, P).
            classes: how many classes there are.
            suppression, limit, limit_per_class, min_slots: as for :meth:`nms`.
        """
        asked = _read(suppression)
        if limit_per_class > 0 and (asked.soft or asked.class_agnostic):
            raise UnsupportedPart(
                "max_output_boxes_per_class has no lowering where suppression is soft or "
                "class-agnostic: leave it out"
            )
        boxes, scores = _prepared(asked, boxes, scores)
        groups = labels
        if asked.class_agnostic:
            split = (scores > 0).to(torch.int64).sum(dim=1, keepdim=True) >= asked.split_thr
            groups = labels * split.to(labels.dtype)
        count = asked.limit(limit)
        if asked.soft:
            ranked = self._soft(asked, boxes, scores, groups, count, min_slots)
        else:
            ranked = self.greedy_pairs(
                boxes,
                scores,
                groups,
                classes,
                asked.iou_threshold,
                count,
                limit_per_class,
                min_slots,
            )
        if groups is not labels or asked.soft:
            score, _, index = ranked
            ranked = score, torch.where(score > 0, torch.gather(labels, 1, index), -1), index
        return _cut(asked, ranked, limit)

    def _soft(
        self,
        asked: Suppression,
        boxes: Tensor,
        scores: Tensor,
        groups: Tensor,
        limit: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Soft-NMS (arXiv:1704.04503), as mmcv's ``soft_nms`` computes it.

        The best box is taken, the scores of its group decay by their overlap with it, boxes below
        ``min_score`` leave, and so on. Scores only fall: the first ``limit`` taken are the best.
        """
        score, column = self.top(scores, 0, 0.0, min_slots)
        # One more, of score 0: there is always something to take.
        rows = functional.pad(take_rows(boxes, column), (0, 0, 0, 1))
        group = functional.pad(torch.gather(groups, 1, column), (0, 1))
        score = functional.pad(score, (0, 1))
        slots = torch.arange(limit if limit > 0 else score.shape[1], device=score.device)
        values, index = _taken_in_turn(
            rows,
            group,
            score,
            slots,
            METHODS.index(str(asked.soft)),
            asked.iou_threshold,
            asked.sigma,
        )
        # mmcv keeps the first box whatever its score.
        used = (slots == 0) | (values >= asked.min_score)
        values, rank = self.filled(torch.where(used, values, 0.0), limit, min_slots)
        index = torch.gather(index, 1, rank)
        index = torch.where(values > 0, index, 0)
        return values, values, torch.gather(column, 1, index)


@torch.jit.script
def _taken_in_turn(
    boxes: Tensor,
    groups: Tensor,
    scores: Tensor,
    slots: Tensor,
    method: int,
    iou_threshold: float,
    sigma: float,
) -> tuple[Tensor, Tensor]:
    # No box is taken out: what is below ``min_score`` is taken last, and the caller drops it. Each
    # operator of the loop costs time in each round: all that can be is done before.
    x1, y1, x2, y2 = boxes[:, :, 0], boxes[:, :, 1], boxes[:, :, 2], boxes[:, :, 3]
    area = (x2 - x1) * (y2 - y1)
    left, top, right, bottom = x1.flatten(), y1.flatten(), x2.flatten(), y2.flatten()
    areas, kinds = area.flatten(), groups.flatten()
    columns = torch.arange(scores.size(1), device=scores.device)[None]
    start = torch.arange(scores.size(0), device=scores.device)[:, None] * scores.size(1)
    size = [scores.size(0), slots.size(0)]
    values = torch.zeros(size, dtype=scores.dtype, device=scores.device)
    index = torch.zeros(size, dtype=torch.int64, device=scores.device)
    gone = torch.zeros([1], dtype=scores.dtype, device=scores.device)
    for i in range(min(slots.size(0), scores.size(1))):
        best, at = scores.max(dim=1, keepdim=True)
        now = slots[None] == i
        values = torch.where(now, best, values)
        index = torch.where(now, at, index)
        row = at + start
        width = torch.relu(torch.minimum(x2, right[row]) - torch.maximum(x1, left[row]))
        height = torch.relu(torch.minimum(y2, bottom[row]) - torch.maximum(y1, top[row]))
        shared = width * height
        overlap = shared / (areas[row] + area - shared)
        meets = (groups == kinds[row]) & (shared > 0)
        if method == 2:
            weight = torch.exp(-(overlap * overlap) / sigma)
        else:
            meets = meets & (overlap >= iou_threshold)
            weight = 1 - overlap if method == 1 else torch.zeros_like(overlap)
        scores = torch.where(meets, scores * weight, scores)
        scores = torch.where(columns == at, gone, scores)
    return values, index


def _read(suppression: Suppression | float) -> Suppression:
    if isinstance(suppression, Suppression):
        return suppression
    return Suppression(float(suppression))


def _prepared(asked: Suppression, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes with the offset in their corners, and the scores of those that take part."""
    if asked.offset:
        grown = torch.tensor([0.0, 0.0, 1.0, 1.0], device=boxes.device) * asked.offset
        boxes = boxes + grown
    if asked.score_threshold > 0:
        scores = torch.where(scores > asked.score_threshold, scores, 0.0)
    return boxes, scores


def _cut(
    asked: Suppression, ranked: tuple[Tensor, Tensor, Tensor], max_per_img: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of ranked boxes where the head slices with a number below 1.

    Args:
        asked: says whether it does.
        ranked: as :meth:`Suppressing.nms` returns it.
        max_per_img: the head's.
    """
    if not asked.sliced or max_per_img > 0:
        return ranked
    score, labels, columns = ranked
    rank = torch.arange(score.shape[1], device=score.device)
    count = (score > 0).to(torch.int64).sum(dim=1, keepdim=True)
    used = rank < (count + max_per_img if max_per_img < 0 else 0 * count)
    return torch.where(used, score, 0.0), torch.where(used, labels, -1), columns
