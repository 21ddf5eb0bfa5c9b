"""RetinaNet, FSAF, FCOS, SSD: dense heads whose candidates are (prior, class) pairs.

mmdet's ``BaseDenseHead`` thresholds the scores of each level, keeps the best ``nms_pre`` pairs of
each, decodes those, multiplies in a score factor where there is one, and suppresses class by class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_onnxdet.deploy.base import (
    DeployModel,
    channels_last,
    features,
    named_levels,
    nms_threshold,
)
from pytest_onnxdet.deploy.ops.boxes import decode, priors_at, take_rows
from pytest_onnxdet.deploy.ops.lowering import sigmoid


class DenseDetector(DeployModel):
    """A single-stage detector with a dense head of mmdet's common form."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return named_levels(self.detector.bbox_head(features(self.detector, input)))

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg, limits = self.detector.bbox_head, self.detector.bbox_head.test_cfg, self.limits
        classes = head.cls_out_channels if head.use_sigmoid_cls else head.cls_out_channels - 1
        outputs = head(features(self.detector, input))
        nms_pre = cfg.get("nms_pre", -1) if limits.nms_pre is None else limits.nms_pre

        scores, labels, priors, predictions = [], [], [], []
        for level, maps in enumerate(zip(*outputs, strict=True)):
            rows = self._scores(maps[0])
            score, pair = self.lowering.top(rows.flatten(1), nms_pre, cfg.score_thr)
            prior = torch.div(pair, classes, rounding_mode="floor")
            if len(maps) == 3:  # FCOS: the factor comes after threshold and selection
                score = score * sigmoid(take_rows(channels_last(maps[2], 1), prior)[..., 0])
            scores.append(score)
            labels.append(pair - prior * classes)
            priors.append(priors_at(head.prior_generator, level, maps[0].shape[-2:], prior))
            predictions.append(take_rows(channels_last(maps[1], 4), prior))

        score, label = torch.cat(scores, dim=1), torch.cat(labels, dim=1)
        boxes = decode(
            head.bbox_coder, torch.cat(priors, dim=1), torch.cat(predictions, dim=1), image_shape
        )
        if limits.deploy_nms_pre > 0:
            score, kept = self.lowering.top(score, limits.deploy_nms_pre, 0.0)
            label = torch.gather(label, 1, kept)
            boxes = take_rows(boxes, kept)
        dets, found, _ = self.lowering.nms_pairs(
            boxes,
            score,
            label,
            classes,
            nms_threshold(cfg),
            cfg.max_per_img if limits.max_per_img is None else limits.max_per_img,
            limits.max_output_boxes_per_class or 0,
        )
        return dets, found

    def _scores(self, cls_score: Tensor) -> Tensor:
        """Foreground probabilities (N, P, C) of a level's classification map."""
        head = self.detector.bbox_head
        rows = channels_last(cls_score, head.cls_out_channels)
        if head.use_sigmoid_cls:
            return sigmoid(rows)
        return rows.softmax(dim=-1)[..., :-1]
