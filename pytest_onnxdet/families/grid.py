"""Grid R-CNN (arXiv:1811.12030): the sides of detections from points that are found in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.family import Part
from pytest_onnxdet.families.ops.boxes import quotient
from pytest_onnxdet.families.ops.lowering import sigmoid
from pytest_onnxdet.families.ops.rois import EXTRACTOR_METHODS, EXTRACTORS, level_scales
from pytest_onnxdet.families.roi_heads import ImageFeatures, ordered
from pytest_onnxdet.families.two_stage import (
    BOX_HEADS,
    ROI_HEAD_METHODS,
    TwoStageDetector,
    TwoStageFamily,
    box_parts,
)
from pytest_onnxdet.models.calibrate import Calibration, Target


class GridDetector(TwoStageDetector):
    """``GridRoIHead``: classes by the box head, boxes by the grid head."""

    def detect(
        self, images: ImageFeatures, image_shape: Tensor, min_slots: int = 0
    ) -> tuple[Tensor, Tensor]:
        dets, labels = super().detect(images, image_shape, min_slots=1)
        head = self.detector.roi_head
        boxes, score = dets[..., :4], dets[..., 4:]
        seen, back = self.regions.pool(head.grid_roi_extractor, images, boxes, "grid")
        heat = ordered(head.grid_head(seen)["fused"], back)
        refined = grid_boxes(head.grid_head, boxes, heat)
        return torch.where(score > 0, torch.cat([refined, score], dim=2), 0.0), labels


def grid_boxes(head: Any, boxes: Tensor, heat: Tensor) -> Tensor:
    """Boxes whose sides are the votes of the grid points on them (Grid R-CNN, section 3.1).

    Each point is where its map is the highest. The maps show a box of twice the size, each a
    quarter of it (Grid R-CNN Plus, arXiv:1906.05688). The steps are those of mmdet's ``GridHead``.

    Args:
        head: mmdet's ``GridHead``.
        boxes: float32 (N, K, 4), in network-input pixels.
        heat: float32 (N * K, points, h, w), logits; points go down the columns of the grid.

    Returns:
        float32 (N, K, 4), not clipped, as mmdet's are not.
    """
    width, height = int(heat.shape[3]), int(heat.shape[2])
    vote, position = sigmoid(heat).flatten(2).max(dim=2)
    vote = vote.reshape(boxes.shape[0], boxes.shape[1], head.grid_points)
    position = position.reshape(boxes.shape[0], boxes.shape[1], head.grid_points)
    row = quotient(position, width)
    start = torch.tensor(head.sub_regions, device=boxes.device)
    across = (position - row * width + start[:, 0]).to(boxes.dtype)
    down = (row + start[:, 1]).to(boxes.dtype)
    size = boxes[..., 2:] - boxes[..., :2]
    origin = boxes[..., :2] - size / 2
    x = (across + 0.5) / width * size[..., :1] + origin[..., :1]
    y = (down + 0.5) / height * size[..., 1:] + origin[..., 1:]
    points, side = head.grid_points, head.grid_size
    sides = [
        (x, list(range(side))),
        (y, list(range(0, points, side))),
        (x, list(range(points - side, points))),
        (y, list(range(side - 1, points, side))),
    ]
    voted = []
    for at, columns in sides:
        index = torch.tensor(columns, device=boxes.device)
        weight = vote.index_select(2, index)
        voted.append((at.index_select(2, index) * weight).sum(dim=2) / weight.sum(dim=2))
    return torch.stack(voted, dim=2)


@dataclass(frozen=True, eq=False)
class GridFamily(TwoStageFamily):
    """Families of a head that :class:`GridDetector` lowers."""

    boxes: type[TwoStageDetector] = GridDetector

    def check_masks(self, detector: nn.Module) -> None:
        head = self.head(detector)
        level_scales(head.grid_roi_extractor)
        if head.with_mask:
            raise UnsupportedPart(
                "roi_head.mask_head: mmdet's GridRoIHead scales the boxes of masks twice; "
                "a GridRCNN with masks has no lowering"
            )
        if head.with_shared_head:
            raise UnsupportedPart(
                "roi_head.shared_head: mmdet's GridRoIHead leaves it out of the grid's features "
                "when it detects; a GridRCNN with one has no lowering"
            )

    def calibration(self, detector: nn.Module) -> Calibration:
        made, head = super().calibration(detector), self.head(detector).grid_head
        return replace(made, passes=[*made.passes, [Target(head.deconv2, 2.0)]])


GRID = GridFamily(
    name="grid",
    heads=("mmdet.models.GridRoIHead",),
    head_methods=ROI_HEAD_METHODS,
    parts=(
        *box_parts(*BOX_HEADS),
        Part("roi_head.grid_head", ("mmdet.models.GridHead",), ("forward", "get_bboxes")),
        Part("roi_head.grid_roi_extractor", EXTRACTORS, EXTRACTOR_METHODS),
    ),
    clips=False,  # its boxes are not the coder's
)
