"""PointRend (arXiv:1912.08193): masks refined where they are least certain.

mmdet upsamples and refines the logits of all classes; only a detection's own class decides which
points are uncertain and what is pasted, so only that one is carried here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.families.classes import at_path
from pytest_onnxdet.families.family import Need, Part, Ties
from pytest_onnxdet.families.ops.boxes import quotient
from pytest_onnxdet.families.ops.rois import (
    EXTRACTOR_METHODS,
    GENERIC,
    point_layer,
    pool_points,
    sample_points,
)
from pytest_onnxdet.families.region_masks import own_class
from pytest_onnxdet.families.roi_heads import ImageFeatures
from pytest_onnxdet.families.settings import RCNN, require_count, require_settings
from pytest_onnxdet.families.two_stage import (
    BOX_HEADS,
    MASK_HEAD_METHODS,
    ROI_HEAD_METHODS,
    MaskDetector,
    TwoStageDetector,
    TwoStageFamily,
    box_parts,
)
from pytest_onnxdet.models.calibrate import Calibration, Target


class PointRendDetector(MaskDetector):
    """``PointRendRoIHead`` with a coarse mask head and a point head."""

    def masks(self, images: ImageFeatures, boxes: Tensor, labels: Tensor) -> Tensor:
        maps = images.maps
        head = self.detector.roi_head
        cfg = head.test_cfg
        coarse = self._coarse(pool_points(head.mask_roi_extractor, maps, boxes), boxes)
        refined = own_class(coarse, labels, head.mask_head)
        for step in range(cfg.subdivision_steps):
            refined = functional.interpolate(
                refined, scale_factor=cfg.scale_factor, mode="bilinear", align_corners=False
            )
            height, width = int(refined.shape[2]), int(refined.shape[3])
            skipped = cfg.scale_factor**2 * height * width <= cfg.subdivision_num_points
            if skipped and step < cfg.subdivision_steps - 1:
                continue
            refined = self._refine(maps, boxes, labels, coarse, refined, (height, width))
        return refined.sigmoid()

    def _coarse(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """mmdet's CoarseMaskHead, with the number of rows taken from the boxes (N, K, 4).

        The exporter takes the row count that the head asks of its own activations for fixed.
        """
        head = self.detector.roi_head.mask_head
        for conv in head.convs:
            regions = conv(regions)
        if head.downsample_conv is not None:
            regions = head.downsample_conv(regions)
        regions = regions.flatten(1)
        for layer in head.fcs:
            regions = head.relu(layer(regions))
        rows = boxes.shape[0] * boxes.shape[1]
        result: Tensor = head.fc_logits(regions).reshape(rows, head.num_classes, *head.output_size)
        return result

    def _refine(
        self,
        maps: tuple[Tensor, ...],
        boxes: Tensor,
        labels: Tensor,
        coarse: Tensor,
        refined: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """Replaces the logits of the least certain points by the point head's.

        Args:
            maps: feature maps, finest first.
            boxes: float32 (N, K, 4); ``labels``: int64 (N, K).
            coarse: float32 (N * K, C, h, w), the coarse head's logits of all classes.
            refined: float32 (N, K, H, W), logits of each detection's class.
            size: H and W.
        """
        head = self.detector.roi_head
        height, width = size
        count = min(height * width, head.test_cfg.subdivision_num_points)
        self.lowering.bounded(count, "rcnn.subdivision_num_points")
        flat = refined.flatten(2)
        _, index = torch.topk(-flat.abs(), count, dim=2)
        row = quotient(index, width)
        x = 0.5 / width + (index - row * width).to(flat.dtype) * (1.0 / width)
        y = 0.5 / height + row.to(flat.dtype) * (1.0 / height)
        points = torch.stack([x, y], dim=-1)
        strides = head.mask_roi_extractor.featmap_strides
        fine = torch.cat(
            [
                sample_points(maps[level], boxes, points, 1.0 / stride)
                for level, stride in enumerate(strides)
            ],
            dim=1,
        )
        grid = points.flatten(0, 1)[:, :, None] * 2.0 - 1.0
        around = functional.grid_sample(coarse, grid, align_corners=False)[..., 0]
        logits = own_class(head.point_head(fine, around), labels, head.point_head)
        return flat.scatter(2, index, logits).unflatten(2, size)


@dataclass(frozen=True, eq=False)
class PointRendFamily(TwoStageFamily):
    """Families of a head that :class:`PointRendDetector` lowers."""

    masks: type[TwoStageDetector] = PointRendDetector

    def check_masks(self, detector: nn.Module) -> None:
        cfg = self.head(detector).test_cfg
        keys = ("subdivision_num_points", "subdivision_steps", "scale_factor")
        require_settings(cfg, RCNN, keys)
        for key in keys:
            # Without a step masks are the coarse head's, as in mmdet.
            require_count(cfg[key], RCNN, key, least=0 if key == "subdivision_steps" else 1)
        for _, extractor in at_path(detector, "roi_head.mask_roi_extractor"):
            point_layer(extractor)

    def min_opset(self, detector: nn.Module, lowering: str) -> Need:
        need = super().min_opset(detector, lowering)
        if lowering != "onnxruntime" or need.opset >= 16:
            return need
        return Need(16, "GridSample exists only from opset 16 on")

    def calibration(self, detector: nn.Module) -> Calibration:
        made, head = super().calibration(detector), self.head(detector)
        return replace(made, passes=[*made.passes, [Target(head.point_head.fc_logits, 2.0)]])


POINT_REND = PointRendFamily(
    name="point_rend",
    heads=("mmdet.models.PointRendRoIHead",),
    head_methods=(
        *ROI_HEAD_METHODS,
        "_get_fine_grained_point_feats",
        "_mask_point_forward_test",
    ),
    parts=(
        *box_parts(*BOX_HEADS),
        Part("roi_head.mask_head", ("mmdet.models.CoarseMaskHead",), MASK_HEAD_METHODS),
        Part("roi_head.mask_roi_extractor", GENERIC, EXTRACTOR_METHODS),
        Part(
            "roi_head.point_head",
            ("mmdet.models.MaskPointHead",),
            ("forward", "get_roi_rel_points_test"),
        ),
    ),
    # Each of PointRend's 100 masks of an image has 784 points chosen of 12,544, so that of random
    # masks some tie in each image.
    ties=Ties(proposals=True, levels=True, points=True, images=1.0),
)
