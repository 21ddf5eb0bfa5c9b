"""CenterNet (arXiv:1904.07850): objects are peaks of a heat map, their sizes stand beside it.

No suppression follows. Boxes stay in the network input's pixels: where the test pipeline centres
images on a larger canvas, whoever reads them takes its border off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.family import HEAD_METHODS, Family, Ties
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.ops.peaks import at_cells, best_peaks, cell_size, require_kernel
from pytest_onnxdet.families.settings import TEST_CFG, require_count, require_settings
from pytest_onnxdet.models.calibrate import Calibration, Target

HEAT, SIZE, OFFSET = "center_heatmap", "wh", "offset"


class CenterNetDetector(DeployModel):
    """mmdet's ``CenterNetHead`` over a network of one level."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return maps_of(self.detector.bbox_head, features(self.detector, input)[0])

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        cfg = self.detector.bbox_head.test_cfg
        maps = self.raw(input, image_shape)
        limit = self.limits.max_per_img
        limit = self.lowering.bounded(cfg.topk if limit is None else limit, "topk")
        score, cell, label, at = best_peaks(maps[HEAT], limit, cfg.local_maximum_kernel)
        centre, half = at + at_cells(maps[OFFSET], cell), at_cells(maps[SIZE], cell) / 2
        scale = cell_size(input, maps[HEAT])
        corners = torch.cat([(centre - half) * scale, (centre + half) * scale], dim=2)
        return torch.cat([corners, score[..., None]], dim=2), label


def maps_of(head: Any, level: Tensor) -> dict[str, Tensor]:
    """A head's maps of features (N, C, H, W); of the heat map the logits."""
    return {
        HEAT: head.heatmap_head(level),
        SIZE: head.wh_head(level),
        OFFSET: head.offset_head(level),
    }


@dataclass(frozen=True, eq=False)
class CenterNetFamily(Family):
    """Families of a head that :class:`CenterNetDetector` lowers."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        cfg = self.head(detector).test_cfg
        require_settings(cfg, TEST_CFG, ("topk", "local_maximum_kernel"))
        require_count(cfg.topk, TEST_CFG, "topk")
        require_kernel(cfg)
        return CenterNetDetector(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The three maps, of the heat map the logits: mmdet's own ends with a sigmoid."""
        model: Any = detector
        return maps_of(model.bbox_head, model.extract_feat(images)[0])

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        return [[raw[HEAT].sigmoid()], [raw[SIZE]], [raw[OFFSET]]]

    def calibration(self, detector: nn.Module) -> Calibration:
        """Some cells are likely objects; sizes are positive, some cells each."""
        head = self.head(detector)
        return Calibration(
            [
                [
                    Target(head.heatmap_head[-1], 1.5, 0.02, -1.0),
                    Target(head.wh_head[-1], 0.5, 1.0, 3.0),
                    Target(head.offset_head[-1], 0.3),
                ]
            ]
        )


CENTERNET = CenterNetFamily(
    name="centernet",
    heads=("mmdet.models.CenterNetHead",),
    head_methods=(*HEAD_METHODS, "decode_heatmap"),
    ties=Ties(order=True, suppression=False, peaks=(HEAT,)),
    uncapped="CenterNet's detections are peaks of its heat map, cut at test_cfg.topk",
    ignored={"max_per_img": "CenterNet reads topk", "nms": "CenterNet suppresses nothing"},
)
