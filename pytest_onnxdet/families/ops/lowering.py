"""What differs between the two lowerings: selecting, suppressing, pooling.

A deploy model is written once and asks a :class:`Lowering` for the pieces that a runtime decides.
``onnxruntime`` uses ONNX's own NonMaxSuppression and RoiAlign and sizes that depend on the data:
work is done for the candidates that exist, not for as many as there could be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.ops.boxes import quotient, stacked, take_rows
from pytest_onnxdet.families.ops.corners import SCANS, corner_pool
from pytest_onnxdet.families.ops.custom import non_max_suppression
from pytest_onnxdet.families.ops.rois import pool_rois
from pytest_onnxdet.families.ops.suppression import Suppressing

#: More boxes of an image and class than there are, for suppression that leaves all it can.
EVERY = 2**31 - 1


class Lowering(Suppressing):
    """The runtime-dependent pieces of a deploy model.

    Args:
        fixed_shape: whether shapes may be used as numbers, because the graph bakes them.
    """

    name: str

    def __init__(self, fixed_shape: bool = False) -> None:
        self.fixed_shape = fixed_shape

    def bounded(self, count: int, key: str) -> int:
        """``count``, which a TopK is asked for, if the runtime's can give so many.

        Args:
            count: entries of a row.
            key: the key of the config's test_cfg that says so.

        Raises:
            UnsupportedPart: it cannot; the message names the key.
        """
        return count

    def top_of_levels(
        self, scores: Tensor, sizes: Sequence[Any], limit: int, floor: float
    ) -> tuple[Tensor, Tensor]:
        """The best entries of each level of each row.

        Args:
            scores: float32 (N, P), not negative, level after level.
            sizes: how many columns each level has.
            limit: the maximum of entries kept for a row and level; not positive: all.
            floor: only entries above it are kept.

        Returns:
            float32 (N, K) scores, 0 in empty slots; int64 (N, K) their columns.
        """
        if limit <= 0 or len(sizes) == 1:
            return self.top(scores, limit, floor)
        levels = [self.top(level, limit, floor) for level in scores.split(list(sizes), dim=1)]
        return _joined(levels, sizes)

    def compact(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores without more empty slots than the runtime needs, where nothing cut them.

        Args:
            scores: float32 (N, P), 0 in empty slots.

        Returns:
            float32 (N, K) scores, 0 in empty slots; int64 (N, K) their columns.
        """
        columns = torch.arange(scores.shape[1], device=scores.device)[None]
        return scores, columns + torch.zeros_like(scores, dtype=torch.int64)

    @abstractmethod
    def pool_rois(
        self,
        extractor: Any,
        features: tuple[Tensor, ...],
        boxes: Tensor,
        image: Tensor,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """RoI-aligned features float32 (R, C, h, w) of boxes (R, 4) of images (R,), in any order.

        Of several levels boxes are grown by ``scale`` before, about their centres.

        Returns:
            the features; int64 (R,) the row of each box among them, None: they are in its order.
        """

    def corner_pool(self, values: Tensor, mode: str) -> Tensor:
        """CornerNet's running maximum of maps (N, C, H, W) in one direction."""
        size = int(values.shape[SCANS[mode][0]]) if self.fixed_shape else None
        return corner_pool(values, mode, size)


class OnnxRuntimeLowering(Lowering):
    """NonMaxSuppression and RoiAlign as ONNX operators, sizes that follow the data."""

    name = "onnxruntime"

    def top(
        self, scores: Tensor, limit: int, floor: float, min_slots: int = 0
    ) -> tuple[Tensor, Tensor]:
        count = max_above(scores, floor)
        if min_slots or limit > 0:
            count = count.clamp(min=min_slots or None, max=limit if limit > 0 else None)
        values, index = torch.topk(scores, count, dim=1)
        return torch.where(values > floor, values, 0.0), index

    def top_of_levels(
        self, scores: Tensor, sizes: Sequence[Any], limit: int, floor: float
    ) -> tuple[Tensor, Tensor]:
        if limit <= 0 or len(sizes) == 1:
            return self.top(scores, limit, floor)
        if floor <= 0:
            parts = zip(scores.split(list(sizes), dim=1), sizes, strict=True)
            levels = [torch.topk(part, _smaller(limit, size), dim=1) for part, size in parts]
            return _joined(levels, sizes)
        # Few are above a threshold. Sorting all of them at once, and keeping the first of each
        # level, is cheaper than a top-k of each level.
        values, index = self.top(scores, 0, floor)
        values = torch.where(_rank(index, sizes, limit) <= limit, values, 0.0)
        values, order = torch.topk(values, _smaller(limit * len(sizes), values.shape[1]), dim=1)
        return values, torch.gather(index, 1, order)

    def pool_rois(
        self,
        extractor: Any,
        features: tuple[Tensor, ...],
        boxes: Tensor,
        image: Tensor,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        return pool_rois(extractor, features, boxes, image, scale)

    def present(self, scores: Tensor, min_slots: int) -> tuple[Tensor, Tensor]:
        return self.top(scores, 0, 0.0, min_slots)

    def filled(self, scores: Tensor, limit: int, min_slots: int) -> tuple[Tensor, Tensor]:
        return self.top(scores, limit, 0.0, min_slots)

    def greedy(
        self,
        boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        limit: int,
        limit_per_class: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, classes, p = scores.shape
        per_class = _per_class(limit, limit_per_class)
        if boxes.dim() == 4:  # a box for each class: every (image, class) is an image of its own
            selected = non_max_suppression(
                boxes.reshape(-1, p, 4), scores.reshape(-1, 1, p), per_class, iou_threshold
            )
            row, column = selected[:, 0], selected[:, 2]
            image = quotient(row, classes)
            label = row - image * classes
            column = label * p + column
            at = image * (classes * p) + column
        else:
            selected = non_max_suppression(boxes, scores, per_class, iou_threshold)
            image, label, column = selected[:, 0], selected[:, 1], selected[:, 2]
            at = (image * classes + label) * p + column
        return self._best(scores.reshape(-1)[at], image, label, column, n, limit, min_slots)

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
        per_class = _per_class(limit, limit_per_class)
        spread = class_scores(scores, labels, classes)
        selected = non_max_suppression(boxes, spread, per_class, iou_threshold)
        image, label, column = selected[:, 0], selected[:, 1], selected[:, 2]
        score = scores.reshape(-1)[image * boxes.shape[1] + column]
        return self._best(score, image, label, column, boxes.shape[0], limit, min_slots)

    @staticmethod
    def _best(
        score: Tensor,
        image: Tensor,
        label: Tensor,
        column: Tensor,
        n: int,
        limit: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The kept boxes of all images, (M,) each, as (N, K): ranked image by image."""
        own = image[None] == torch.arange(n, device=image.device)[:, None]
        ranks = torch.where(own, score[None], 0.0)
        if min_slots:  # one more entry, of score 0, for the slot of an image without detections
            ranks = functional.pad(ranks, (0, 1))
            label, column = functional.pad(label, (0, 1)), functional.pad(column, (0, 1))
        count = own.sum(dim=1).amax().clamp(min=min_slots, max=limit if limit > 0 else None)
        ranked, rank = torch.topk(ranks, count, dim=1)
        return ranked, torch.where(ranked > 0, label[rank], -1), column[rank]


def _per_class(limit: int, limit_per_class: int) -> int:
    """How many boxes of a class suppression has to leave for ``limit`` of an image."""
    limits = [count for count in (limit, limit_per_class) if count > 0]
    return min(limits, default=EVERY)


def dets_of(boxes: Tensor, scores: Tensor, columns: Tensor) -> Tensor:
    """``dets`` of the graph's contract.

    Args:
        boxes: float32 (N, P, 4), or (N, C, P, 4) of which ``columns`` count C * P.
        scores: float32 (N, K), 0 in empty slots; ``columns``: int64 (N, K).

    Returns:
        float32 (N, K, 5), corners and score, 0 in empty slots.
    """
    corners = take_rows(boxes.flatten(1, 2) if boxes.dim() == 4 else boxes, columns)
    used = (scores > 0)[..., None]
    return torch.where(used, torch.cat([corners, scores[..., None]], dim=2), 0.0)


def without_last(
    scores: Tensor, count: int, groups: Tensor | None = None, groups_count: int = 1
) -> Tensor:
    """Scores of which the lowest of each group are taken out, as Python's ``[:-count]`` does.

    Args:
        scores: float32 (N, K), 0 in empty slots.
        count: how many of each image and group are taken out, from 1.
        groups: int64 (N, K), below ``groups_count``; None: all are one group.

    Returns:
        float32 (N, K), 0 in what became empty slots, too.
    """
    column = torch.arange(scores.shape[1], device=scores.device)[None, None]
    for group in range(groups_count):
        inside = scores > 0
        if groups is not None:
            inside = inside & (groups == group)
        lowness = functional.pad(torch.where(inside, -scores, -2.0), (0, count), value=-2.0)
        value, at = torch.topk(lowness, count, dim=1)
        out = (at[:, :, None] == column) & (value > -2.0)[:, :, None]
        scores = torch.where(out.to(scores.dtype).sum(dim=1) > 0, 0.0, scores)
    return scores


def _joined(levels: Sequence[Any], sizes: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Values and columns of every level side by side, columns counted over all levels."""
    columns, start = [levels[0][1]], sizes[0]
    for (_, index), size in zip(levels[1:], sizes[1:], strict=True):
        columns.append(index + start)
        start = start + size
    return torch.cat([values for values, _ in levels], dim=1), torch.cat(columns, dim=1)


def _rank(index: Tensor, sizes: Sequence[Any], limit: int) -> Tensor:
    """The rank of each entry within its level, from 1 on; 0 in levels of at most ``limit`` entries.

    Args:
        index: int64 (N, K), columns counted over all levels, the best first.
        sizes: of the levels.
        limit: what the rank will be compared with.

    Returns:
        float32 (N, K); exact up to 2**24 entries.
    """
    starts = list(accumulate(sizes, initial=0))
    larger = [k for k, size in enumerate(sizes) if torch.is_tensor(size) or size > limit]
    if not larger:
        return torch.zeros_like(index, dtype=torch.float32)
    # Entries last: they are many, and levels few.
    first = stacked([starts[k] for k in larger], index.device)[:, None]
    end = stacked([starts[k + 1] for k in larger], index.device)[:, None]
    inside = ((index[:, None] >= first) & (index[:, None] < end)).to(torch.float32)
    return (inside.cumsum(dim=2) * inside).sum(dim=1)


def _smaller(count: Any, size: Any) -> Any:
    """The smaller of two whole numbers, each of them a number or a traced size."""
    if torch.is_tensor(count) and torch.is_tensor(size):
        return torch.minimum(count, size)
    if torch.is_tensor(count):
        return count.clamp(max=size)
    return size.clamp(max=count) if torch.is_tensor(size) else min(count, size)


def just_below(threshold: float) -> float:
    """A floor for what mmdet keeps from a threshold on: a lowering keeps what is above its floor.

    Returns:
        The float32 before it; 0 where the threshold is not positive.
    """
    if threshold <= 0:
        return 0.0
    return float(torch.nextafter(torch.tensor(threshold, dtype=torch.float32), torch.tensor(0.0)))


def max_above(scores: Tensor, floor: float) -> Tensor:
    """The largest number of entries above ``floor`` in a row of scores (N, P), an int64 scalar.

    Summed in float32, which is several times faster than in int64, and exact up to 2**24, which is
    more than any detector finds above its threshold.
    """
    return (scores > floor).to(torch.float32).sum(dim=1).amax().to(torch.int64)


def class_scores(scores: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Scores of (box, class) pairs, spread over the classes: (N, K) and (N, K) to (N, C, K)."""
    classes = torch.arange(num_classes, device=labels.device)[None, :, None]
    return torch.where(labels[:, None] == classes, scores[:, None], 0.0)


def sigmoid(logits: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), the steps in which PyTorch computes it on a CPU.

    Runtimes approximate their Sigmoid operator by some 1e-7. That is nothing, except where a
    detector is sure: from a logit of 10 on, scores are as close to each other as float32 goes, the
    order of overlapping boxes hangs on the last bit, and another order keeps another box. Spelt
    out, saturated scores come out bit by bit as in PyTorch, and ties fall to the lower index there
    as here.
    """
    return torch.reciprocal(1 + torch.exp(-logits))
