"""YOLOv3: every prior is decoded, and the score is class probability times objectness.

mmdet keeps a pair when its objectness is at least ``conf_thr`` and its class probability is above
``score_thr``; only then is the objectness multiplied in. It ignores ``nms_pre`` and does not clip.
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
from pytest_onnxdet.families.family import DECODING_METHODS, Family, Part, Ties
from pytest_onnxdet.families.ops.boxes import Candidates, require_generator, take_rows
from pytest_onnxdet.families.ops.lowering import Lowering, dets_of, just_below, sigmoid
from pytest_onnxdet.families.settings import (
    TEST_CFG,
    require_number,
    require_settings,
    suppression,
)
from pytest_onnxdet.models.calibrate import Calibration, Target, logit


class YoloDetector(DeployModel):
    """mmdet's ``YOLOV3Head`` over any backbone and neck."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return named_levels(self.detector.bbox_head(features(self.detector, input)))

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg, limits = self.detector.bbox_head, self.detector.bbox_head.test_cfg, self.limits
        (maps,) = head(features(self.detector, input))

        candidates = Candidates(head.prior_generator, maps, self.lowering.fixed_shape)
        rows = joined(maps, head.num_attrib)
        # Priors below conf_thr can give no detection; the rest is decoded, in order.
        confidence, prior = self.lowering.top_of_levels(
            sigmoid(rows[..., 4]),
            candidates.sizes,
            limits.nms_pre or 0,
            just_below(cfg.get("conf_thr", -1)),
        )
        rows = take_rows(rows, prior)
        box = self._decode(candidates.priors(prior), rows, candidates.strides(prior))
        probability = sigmoid(rows[..., 5:])
        if limits.deploy_nms_pre > 0:
            confidence, keep = self.lowering.top(confidence, limits.deploy_nms_pre, 0.0)
            box, probability = take_rows(box, keep), take_rows(probability, keep)
        scores = torch.where(
            probability > cfg.score_thr, probability * confidence[..., None], 0.0
        ).transpose(1, 2)
        score, labels, column = self.lowering.nms(
            box,
            scores,
            suppression(cfg),
            cfg.max_per_img if limits.max_per_img is None else limits.max_per_img,
            limits.max_output_boxes_per_class or 0,
        )
        return dets_of(box, score, column), labels

    @staticmethod
    def _decode(anchors: Tensor, rows: Tensor, stride: Tensor) -> Tensor:
        """Centre offsets within a cell and log sizes (YOLOv3, arXiv:1804.02767, section 2.1).

        Args:
            anchors: float32 (N, K, 4), corners.
            rows: float32 (N, K, 5 + classes), raw predictions.
            stride: float32 (N, K, 1), input pixels per cell.

        Returns:
            float32 (N, K, 4), corners in network-input pixels, not clipped.
        """
        centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5
        centre = centre + (sigmoid(rows[..., :2]) - 0.5) * stride
        half = (anchors[..., 2:] - anchors[..., :2]) * 0.5 * rows[..., 2:4].exp()
        return torch.cat([centre - half, centre + half], dim=-1)


@dataclass(frozen=True, eq=False)
class YoloFamily(Family):
    """Families of a head that :class:`YoloDetector` lowers."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        head = self.head(detector)
        require_generator(head.prior_generator)
        optional = ("conf_thr",) if "conf_thr" in (head.test_cfg or ()) else ()
        require_settings(head.test_cfg, TEST_CFG, ("score_thr", "nms", "max_per_img", *optional))
        suppression(head.test_cfg)
        require_number(head.test_cfg.max_per_img, TEST_CFG, "max_per_img")  # not positive: all
        return YoloDetector(detector, lowering, limits)

    def calibration(self, detector: nn.Module) -> Calibration:
        head: Any = self.head(detector)
        cfg = head.test_cfg
        targets = [
            Target(layer, std, share, level, head.num_attrib, phase, rest)
            for layer in head.convs_pred
            for std, share, level, phase, rest in (
                (1.0, None, 0.0, 0, False),
                (1.0, None, 0.0, 1, False),
                (0.4, None, 0.0, 2, False),
                (0.4, None, 0.0, 3, False),
                # Priors count from conf_thr on, their classes from score_thr on. With more of
                # them mmdet would suppress a million.
                (1.5, 0.02, logit(cfg.conf_thr), 4, False),
                (1.5, 0.02, logit(cfg.score_thr), 5, True),
            )
        ]
        return Calibration([targets])


YOLO = YoloFamily(
    name="yolo",
    heads=("mmdet.models.YOLOV3Head",),
    head_methods=DECODING_METHODS,
    parts=(Part("bbox_head.bbox_coder", ("mmdet.core.bbox.coder.YOLOBBoxCoder",), ("decode",)),),
    ties=Ties(confidence="conf_thr"),
    ignored={
        "nms_pre": "YOLOv3 in PyTorch does not read it, and neither does the graph; "
        "test_cfg.deploy_nms_pre caps the graph"
    },
)
