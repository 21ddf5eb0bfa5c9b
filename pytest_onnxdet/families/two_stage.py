"""Faster, Cascade, Mask and Cascade Mask R-CNN: proposals, then boxes and masks of regions.

The proposals of an image are as many as suppression leaves, padded to the batch's most with slots
of score 0 whose results are dropped. There is always at least one slot, so that no layer of a head
has to run on nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.base import (
    PROPOSALS,
    DeployModel,
    Limits,
    features,
    joined,
    named_levels,
    nms_threshold,
)
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    UnsupportedPart,
    decode,
    set_apart,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import Lowering, dets_of, sigmoid
from pytest_onnxdet.families.ops.rois import flatten_rois

# mmdet keeps a proposal whose objectness underflows to 0 (a logit below -88), and the second stage
# may find something in it. Here 0 is an empty slot, so such a proposal gets the least that is none.
FAINTEST = 1e-37


class TwoStageDetector(DeployModel):
    """``StandardRoIHead`` and ``CascadeRoIHead`` over an ``RPNHead``, with boxes only."""

    def __init__(self, detector: Any, lowering: Lowering, limits: Limits) -> None:
        super().__init__(detector, lowering, limits)
        if type(detector.rpn_head).__name__ != "RPNHead":
            raise UnsupportedPart(
                f"the proposal head {type(detector.rpn_head).__name__} has no lowering; RPNHead has"
            )
        if detector.roi_head.with_shared_head:
            raise UnsupportedPart("an RoI head with a shared_head (C4 models) has no lowering")

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        levels = self.detector.rpn_head(features(self.detector, input))
        boxes, scores, level = self.proposals(levels, image_shape)
        columns = [boxes, scores[..., None], level[..., None].to(boxes.dtype)]
        return {**named_levels(levels), PROPOSALS: torch.cat(columns, dim=2)}

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        maps = features(self.detector, input)
        dets, labels = self.detect(maps, image_shape)
        return dets, labels

    def proposals(
        self, levels: tuple[list[Tensor], list[Tensor]], image_shape: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The regions that the detector goes on with.

        Args:
            levels: the proposal network's logits and deltas, level by level.
            image_shape: int64 (N, 2).

        Returns:
            float32 (N, K, 4) boxes, K >= 1, of empty slots any; float32 (N, K) scores, 0 in empty
            slots; int64 (N, K) levels, -1 there.
        """
        head = self.detector.rpn_head
        cfg = head.test_cfg
        if not head.use_sigmoid_cls:
            raise UnsupportedPart("an RPN head with softmax scores has no lowering")
        scores, deltas = levels
        candidates = Candidates(head.prior_generator, scores, self.lowering.fixed_shape)
        objectness = sigmoid(joined(scores, 1).flatten(1)).clamp(min=FAINTEST)
        score, prior = self.lowering.top_of_levels(
            objectness, candidates.sizes, cfg.get("nms_pre", -1), 0.0
        )
        boxes = decode(
            head.bbox_coder,
            candidates.priors(prior),
            take_rows(joined(deltas, 4), prior),
            image_shape,
        )
        if cfg.min_bbox_size >= 0:
            size = boxes[..., 2:] - boxes[..., :2]
            score = torch.where(size.amin(dim=-1) > cfg.min_bbox_size, score, 0.0)
        level = candidates.levels(prior)
        score, found, index = self.lowering.nms_pairs(
            set_apart(boxes, level, score > 0),
            score,
            level,
            len(scores),
            nms_threshold(cfg),
            cfg.max_per_img,
            least=1,
        )
        return take_rows(boxes, index), score, found

    def detect(
        self, maps: tuple[Tensor, ...], image_shape: Tensor, least: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Boxes and labels in the graph contract's form, at least ``least`` slots an image."""
        head = self.detector.roi_head
        boxes, found, _ = self.proposals(self.detector.rpn_head(maps), image_shape)
        if hasattr(head, "num_stages"):
            boxes, scores, deltas, last = self._cascade(maps, boxes, image_shape)
        else:
            last = head.bbox_head
            scores, deltas = self._heads(head.bbox_roi_extractor, last, maps, boxes)
        return self._select(last, boxes, found > 0, scores, deltas, image_shape, least)

    def _heads(
        self, extractor: Any, head: Any, maps: tuple[Tensor, ...], boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class logits (N, K, C + 1) and box deltas (N, K, 4 or 4 * C) of regions (N, K, 4)."""
        rows, image = flatten_rois(boxes)
        regions, back = self.lowering.pool_rois(extractor, maps, rows, image)
        scores, deltas = head(regions)
        if back is not None:
            scores, deltas = scores[back], deltas[back]
        n, k = boxes.shape[0], boxes.shape[1]
        return scores.reshape(n, k, scores.shape[1]), deltas.reshape(n, k, deltas.shape[1])

    def _cascade(
        self, maps: tuple[Tensor, ...], boxes: Tensor, image_shape: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Cascade R-CNN (arXiv:1712.00726): each stage starts from the last one's boxes."""
        head = self.detector.roi_head
        logits = []
        for stage in range(head.num_stages):
            bbox_head = head.bbox_head[stage]
            score, deltas = self._heads(head.bbox_roi_extractor[stage], bbox_head, maps, boxes)
            logits.append(score)
            if stage < head.num_stages - 1:
                if not bbox_head.reg_class_agnostic:
                    best = score[..., :-1].argmax(dim=-1)[..., None, None]
                    by_class = deltas.unflatten(2, (-1, 4))
                    deltas = by_class.gather(2, best.expand(-1, -1, 1, 4))[:, :, 0]
                boxes = decode(bbox_head.bbox_coder, boxes, deltas, image_shape)
        mean = sum(logits[1:], logits[0]) / float(len(logits))
        return boxes, mean, deltas, head.bbox_head[-1]

    def _select(
        self,
        head: Any,
        boxes: Tensor,
        used: Tensor,
        logits: Tensor,
        deltas: Tensor,
        image_shape: Tensor,
        least: int,
    ) -> tuple[Tensor, Tensor]:
        cfg, limits = self.detector.roi_head.test_cfg, self.limits
        if head.custom_cls_channels:
            raise UnsupportedPart(f"{type(head.loss_cls).__name__}'s own scores have no lowering")
        scores = logits.softmax(dim=-1)[..., :-1]
        scores = torch.where((scores > cfg.score_thr) & used[..., None], scores, 0.0)
        # Only regions with a class above the threshold can give a detection: decode just those.
        _, rows = self.lowering.top(scores.amax(dim=-1), limits.deploy_nms_pre, 0.0, least=1)
        scores = take_rows(scores, rows).transpose(1, 2)
        boxes, deltas = take_rows(boxes, rows), take_rows(deltas, rows)
        if head.reg_class_agnostic:
            found = decode(head.bbox_coder, boxes, deltas, image_shape)
        else:
            by_class = deltas.unflatten(2, (head.num_classes, 4)).transpose(1, 2)
            found = decode(head.bbox_coder, boxes[:, None], by_class, image_shape)
        score, labels, column = self.lowering.nms(
            found,
            scores,
            nms_threshold(cfg),
            cfg.max_per_img if limits.max_per_img is None else limits.max_per_img,
            limits.max_output_boxes_per_class or 0,
            least,
        )
        return dets_of(found, score, column), labels


class MaskDetector(TwoStageDetector):
    """The same with masks: probabilities of each detection's own class, one map per region."""

    outputs = ("dets", "labels", "masks")

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        maps = features(self.detector, input)
        dets, labels = self.detect(maps, image_shape, least=1)
        return dets, labels, self.masks(maps, dets[..., :4], labels)

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities float32 (N, K, h, w) of detections (N, K, 4) with labels (N, K)."""
        head = self.detector.roi_head
        rows, image = flatten_rois(boxes)
        if not hasattr(head, "num_stages"):
            regions, back = self.lowering.pool_rois(head.mask_roi_extractor, maps, rows, image)
            return self._own(head.mask_head(regions), labels, head.mask_head, back).sigmoid()
        stages = []
        for extractor, mask_head in zip(head.mask_roi_extractor, head.mask_head, strict=True):
            regions, back = self.lowering.pool_rois(extractor, maps, rows, image)
            stages.append(self._own(mask_head(regions), labels, mask_head, back).sigmoid())
        return sum(stages[1:], stages[0]) / len(stages)

    @staticmethod
    def _own(logits: Tensor, labels: Tensor, head: Any, back: Tensor | None = None) -> Tensor:
        """Of logits (N * K, C, h, w), each detection's own class: (N, K, h, w).

        Args:
            labels: int64 (N, K).
            back: int64 (N * K,), the row of each detection; None: they are in order.
        """
        channels = logits.shape[1]
        slot = torch.arange(labels.shape[0], device=labels.device)[:, None] * labels.shape[1]
        slot = slot + torch.arange(labels.shape[1], device=labels.device)
        row = slot if back is None else back[slot]
        channel = torch.zeros_like(labels) if head.class_agnostic else labels.clamp(min=0)
        return logits.flatten(0, 1)[row * channels + channel]
