"""YOLOX (arXiv:2107.08430): one class for each point, its probability times the objectness.

mmdet keeps a point when that product is at least ``score_thr``. It reads neither ``nms_pre`` nor
``max_per_img``, and does not clip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import features, joined
from pytest_onnxdet.families.classes import resolve
from pytest_onnxdet.families.dense import Chosen, DenseDetector, DenseFamily
from pytest_onnxdet.families.family import DECODING_METHODS, Ties
from pytest_onnxdet.families.ops.lowering import just_below, sigmoid
from pytest_onnxdet.families.settings import TEST_CFG, require_settings, suppression
from pytest_onnxdet.models.calibrate import Calibration


class YoloxDetector(DenseDetector):
    """mmdet's ``YOLOXHead`` over any backbone and neck."""

    kinds = ("cls_score", "bbox_pred", "objectness")
    slices = False

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head = self.detector.bbox_head
        maps = self.maps(features(self.detector, input))
        candidates = self.candidates(maps)
        best, label = sigmoid(joined(maps[0], head.cls_out_channels)).max(dim=2)
        score, prior = self.lowering.top_of_levels(
            sigmoid(joined(maps[2], 1).flatten(1)) * best,
            candidates.sizes,
            self.limits.nms_pre or 0,
            just_below(head.test_cfg.score_thr),
        )
        score, column = self.lowering.compact(score)
        prior = torch.gather(prior, 1, column)
        boxes, _ = self.decoded(Chosen(candidates, prior, maps, image_shape))
        return self.suppressed(boxes, score, torch.gather(label, 1, prior), head.cls_out_channels)

    def decoded(self, chosen: Chosen) -> tuple[Tensor, None]:
        """Offsets of centres, and logarithms of sizes, in cells."""
        rows, stride = chosen.rows(1, 4), chosen.strides()
        centre = rows[..., :2] * stride + chosen.priors()
        half = rows[..., 2:].exp() * stride / 2
        return torch.cat([centre - half, centre + half], dim=-1), None

    def max_per_img(self) -> int:
        return self.limits.max_per_img or 0

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        """Its boxes come of no coder."""

    @classmethod
    def require_test_cfg(cls, cfg: Any) -> None:
        require_settings(cfg, TEST_CFG, ("score_thr", "nms"))
        suppression(cfg)


class YoloxFamily(DenseFamily):
    """Families of a head that :class:`YoloxDetector` lowers."""

    def candidate_head(self, detector: Any) -> None:
        """Nothing is cut level by level."""

    def calibration(self, detector: nn.Module) -> Calibration:
        """As of all dense heads, with branches that are small beside what they are joined with.

        Fifty random layers in a row make a thousand times as much of rounding, and all the more of
        an image unlike those that normalisation has seen.
        """
        made = super().calibration(detector)
        kind = resolve("mmdet.models.utils.csp_layer.DarknetBottleneck")
        damped = [block.conv2.norm for block in detector.modules() if isinstance(block, kind)]
        return replace(made, damped=damped, images=4)


_READS_NOT = "YOLOX in PyTorch does not read it, and neither does the graph; "
YOLOX = YoloxFamily(
    name="yolox",
    heads=("mmdet.models.YOLOXHead",),
    head_methods=(*DECODING_METHODS, "_bbox_decode", "_bboxes_nms"),
    model=YoloxDetector,
    ties=Ties(products=True),
    ignored={
        "nms_pre": f"{_READS_NOT}test_cfg.deploy_nms_pre caps the graph",
        "max_per_img": f"{_READS_NOT}it keeps all",
    },
)
