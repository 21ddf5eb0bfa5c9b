"""RetinaNet, FSAF, FCOS, SSD: dense heads whose candidates are (prior, class) pairs.

mmdet's ``BaseDenseHead`` thresholds the scores of each level, keeps the best ``nms_pre`` pairs of
each, decodes those, multiplies in a score factor where there is one, and suppresses class by class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import (
    DeployModel,
    Limits,
    features,
    joined,
    named_levels,
)
from pytest_onnxdet.families.classes import resolve
from pytest_onnxdet.families.family import Family
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    decode,
    require_coder,
    require_generator,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import Lowering, dets_of, sigmoid
from pytest_onnxdet.families.ops.suppression import without_last
from pytest_onnxdet.families.settings import TEST_CFG, require_settings, sliced_cut, suppression
from pytest_onnxdet.models.calibrate import Calibration, Target, last, logit


class DenseDetector(DeployModel):
    """A single-stage detector with a dense head of mmdet's common form."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return named_levels(self.detector.bbox_head(features(self.detector, input)))

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg, limits = self.detector.bbox_head, self.detector.bbox_head.test_cfg, self.limits
        classes = head.cls_out_channels if head.use_sigmoid_cls else head.cls_out_channels - 1
        levels = head(features(self.detector, input))
        nms_pre = cfg.get("nms_pre", -1) if limits.nms_pre is None else limits.nms_pre

        candidates = Candidates(head.prior_generator, levels[0], self.lowering.fixed_shape, classes)
        scores = self._scores(joined(levels[0], head.cls_out_channels)).flatten(1)
        if nms_pre > 0:
            score, pair = self.lowering.top_of_levels(
                scores, candidates.sizes, nms_pre, cfg.score_thr
            )
        else:  # mmdet slices with it
            scores = without_last(scores, candidates.sizes, cfg.score_thr, -nms_pre)
            score, pair = self.lowering.present(scores, 0)
        prior = candidates.rows(pair)
        label = pair - prior * classes
        if len(levels) == 3:  # FCOS: the factor comes after threshold and selection
            score = score * sigmoid(take_rows(joined(levels[2], 1), prior).flatten(1))
        predictions = take_rows(joined(levels[1], 4), prior)
        boxes = decode(head.bbox_coder, candidates.priors(pair), predictions, image_shape)
        if limits.deploy_nms_pre > 0:
            score, keep = self.lowering.top(score, limits.deploy_nms_pre, 0.0)
            label = torch.gather(label, 1, keep)
            boxes = take_rows(boxes, keep)
        score, labels, column = self.lowering.nms_pairs(
            boxes,
            score,
            label,
            classes,
            suppression(cfg, sliced=True),
            cfg.max_per_img if limits.max_per_img is None else limits.max_per_img,
            limits.max_output_boxes_per_class or 0,
        )
        return dets_of(boxes, score, column), labels

    def _scores(self, rows: Tensor) -> Tensor:
        """Foreground probabilities (N, P, C) of logits (N, P, C), or (N, P, C + 1) for softmax."""
        if self.detector.bbox_head.use_sigmoid_cls:
            return sigmoid(rows)
        return rows.softmax(dim=-1)[..., :-1]


@dataclass(frozen=True, eq=False)
class DenseFamily(Family):
    """Families of a dense head that :class:`DenseDetector` lowers.

    Another head of the same form joins with ``replace(family, name=..., heads=(...,))``: its own
    ``forward`` is what runs, so only what follows has to be as in mmdet's ``BaseDenseHead``.
    """

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        head = self.head(detector)
        require_generator(head.prior_generator)
        require_coder(head.bbox_coder)
        require_settings(head.test_cfg, TEST_CFG, ("score_thr", "nms", "max_per_img"))
        suppression(head.test_cfg)
        sliced_cut(head.test_cfg, TEST_CFG, "max_per_img")
        sliced_cut(head.test_cfg, TEST_CFG, "nms_pre", default=-1, least=-1)
        return DenseDetector(detector, lowering, limits)

    def candidate_head(self, detector: nn.Module) -> Any:
        return self.head(detector)

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """Of each level's pairs of prior and class, those above the threshold."""
        head = self.head(detector)
        counts = []
        for level in outputs[0]:
            rows = joined([level], head.cls_out_channels)
            scores = sigmoid(rows) if head.use_sigmoid_cls else rows.softmax(dim=-1)[..., :-1]
            counts.append((scores > head.test_cfg.score_thr).sum(dim=(1, 2)).tolist())
        return counts

    def calibration(self, detector: nn.Module) -> Calibration:
        head: Any = self.head(detector)
        level = logit(head.test_cfg.score_thr)
        if isinstance(head, resolve("mmdet.models.SSDHead")):
            scores = [
                # Background, the last channel, is far above most of the classes.
                Target(last(layers), 1.0, 0.02, 3.0, head.cls_out_channels, 0, rest=True)
                for layers in head.cls_convs
            ]
            return Calibration([[*scores, *(Target(last(layers)) for layers in head.reg_convs)]])
        if isinstance(head, resolve("mmdet.models.FCOSHead")):
            targets = [
                Target(head.conv_cls, 1.5, 0.002, level + 1.5),
                Target(head.conv_reg, 0.6),
                Target(head.conv_centerness),
            ]
            return Calibration([targets])
        if isinstance(head, resolve("mmdet.models.RetinaHead")):
            score = Target(head.retina_cls, 1.5, 0.002, level + 1.5)
            return Calibration([[score, Target(head.retina_reg, 0.3)]])
        return super().calibration(detector)


DENSE = DenseFamily(
    name="dense",
    heads=(
        "mmdet.models.RetinaHead",
        "mmdet.models.FSAFHead",
        "mmdet.models.SSDHead",
        "mmdet.models.FCOSHead",
    ),
)
