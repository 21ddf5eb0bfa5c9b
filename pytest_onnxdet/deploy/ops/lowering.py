"""What differs between the two lowerings: selecting, suppressing, pooling.

A deploy model is written once and asks a :class:`Lowering` for the pieces that a runtime decides.
``onnxruntime`` uses ONNX's own NonMaxSuppression and RoiAlign and sizes that depend on the data:
work is done for the candidates that exist, not for the most there could be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.deploy.ops.corners import SCANS, corner_pool
from pytest_onnxdet.deploy.ops.custom import non_max_suppression
from pytest_onnxdet.deploy.ops.rois import pool_rois


class Lowering(ABC):
    """The runtime-dependent pieces of a deploy model.

    Args:
        fixed_shape: whether shapes may be used as numbers, because the graph bakes them.
    """

    name: str

    def __init__(self, fixed_shape: bool = False) -> None:
        self.fixed_shape = fixed_shape

    @abstractmethod
    def top(
        self, scores: Tensor, limit: int, floor: float, least: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The best entries of each row.

        Args:
            scores: float32 (N, P), not negative.
            limit: the most entries kept for a row; not positive: all.
            floor: only entries above it are kept.
            least: the fewest slots of the result, at most P.

        Returns:
            float32 (N, K) scores, in descending order where there is a limit, 0 in empty slots;
            int64 (N, K) their columns.
        """

    @abstractmethod
    def pool_rois(
        self, extractor: Any, features: tuple[Tensor, ...], boxes: Tensor, image: Tensor
    ) -> Tensor:
        """RoI-aligned features float32 (R, C, h, w) of boxes (R, 4) of images (R,)."""

    @abstractmethod
    def nms(
        self,
        boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        limit: int,
        limit_per_class: int = 0,
        least: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Greedy class-wise suppression, then the best of each image.

        Args:
            boxes: float32 (N, P, 4) shared by the classes, or (N, C, P, 4).
            scores: float32 (N, C, P), 0 where a box is no candidate for a class.
            iou_threshold: overlap above which the lower-scored box of a class is dropped.
            limit: the most detections of an image (``max_per_img``).
            limit_per_class: the most detections of an image and class; 0: as many as ``limit``,
                which cannot change the result.
            least: the fewest slots of the result, 0 or 1.

        Returns:
            float32 (N, K, 5) corners and score, sorted by score, 0 in empty slots;
            int64 (N, K) classes, -1 in empty slots; int64 (N, K) columns of ``boxes``.
        """

    def nms_pairs(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        classes: int,
        iou_threshold: float,
        limit: int,
        limit_per_class: int = 0,
        least: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`nms` of boxes that each belong to one class.

        Args:
            boxes: float32 (N, P, 4); scores: float32 (N, P); labels: int64 (N, P).
            classes: how many classes there are.
            iou_threshold, limit, limit_per_class, least: as for :meth:`nms`.
        """
        spread = class_scores(scores, labels, classes)
        return self.nms(boxes, spread, iou_threshold, limit, limit_per_class, least)

    def corner_pool(self, values: Tensor, mode: str) -> Tensor:
        """CornerNet's running maximum of maps (N, C, H, W) in one direction."""
        size = int(values.shape[SCANS[mode][0]]) if self.fixed_shape else None
        return corner_pool(values, mode, size)


class OnnxRuntimeLowering(Lowering):
    """NonMaxSuppression and RoiAlign as ONNX operators, sizes that follow the data."""

    name = "onnxruntime"

    def top(
        self, scores: Tensor, limit: int, floor: float, least: int = 0
    ) -> tuple[Tensor, Tensor]:
        kept = scores > floor
        count = kept.sum(dim=1).amax().clamp(min=least)
        if limit > 0:
            count = count.clamp(max=limit)
        values, index = torch.topk(torch.where(kept, scores, 0.0), count, dim=1)
        return values, index

    def pool_rois(
        self, extractor: Any, features: tuple[Tensor, ...], boxes: Tensor, image: Tensor
    ) -> Tensor:
        return pool_rois(extractor, features, boxes, image)

    def nms(
        self,
        boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        limit: int,
        limit_per_class: int = 0,
        least: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, classes, p = scores.shape
        per_class = min(limit, limit_per_class) if limit_per_class > 0 else limit
        if boxes.dim() == 4:  # a box for each class: every (image, class) is an image of its own
            found = non_max_suppression(
                boxes.reshape(-1, p, 4), scores.reshape(-1, 1, p), per_class, iou_threshold
            )
            row = found[:, 0]
            image = torch.div(row, classes, rounding_mode="floor")
            label, column = row - image * classes, found[:, 2]
            corners = boxes.reshape(-1, 4)[row * p + column]
        else:
            found = non_max_suppression(boxes, scores, per_class, iou_threshold)
            image, label, column = found[:, 0], found[:, 1], found[:, 2]
            corners = boxes.reshape(-1, 4)[image * p + column]
        score = scores.reshape(-1)[(image * classes + label) * p + column]

        # (M,) detections of all images to (N, K): each image ranks its own, the others count as 0.
        mine = image[None] == torch.arange(n, device=image.device)[:, None]
        ranks = torch.where(mine, score[None], 0.0)
        if least:  # one more entry, of score 0, for the slot of an image without detections
            ranks = functional.pad(ranks, (0, 1))
            corners, label = functional.pad(corners, (0, 0, 0, 1)), functional.pad(label, (0, 1))
            column = functional.pad(column, (0, 1))
        count = mine.sum(dim=1).amax().clamp(min=least, max=limit)
        ranked, rank = torch.topk(ranks, count, dim=1)
        used = ranked > 0
        dets = torch.cat([corners[rank], ranked[..., None]], dim=2)
        return (
            dets * used[..., None].to(dets.dtype),
            torch.where(used, label[rank], -1),
            column[rank],
        )


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
