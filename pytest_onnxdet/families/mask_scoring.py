"""Mask Scoring R-CNN (arXiv:1903.00241): masks with scores of their own, beside the boxes'."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import features
from pytest_onnxdet.families.family import Part
from pytest_onnxdet.families.region_masks import own_class
from pytest_onnxdet.families.roi_heads import ordered
from pytest_onnxdet.families.two_stage import (
    BOX_HEADS,
    MASK_HEADS,
    MaskDetector,
    TwoStageDetector,
    TwoStageFamily,
    box_parts,
    mask_parts,
)
from pytest_onnxdet.models.calibrate import Calibration, Target


class MaskScoringDetector(MaskDetector):
    """``MaskScoringRoIHead``: how well each mask fits is predicted from it and its region."""

    outputs: ClassVar[tuple[str, ...]] = ("dets", "labels", "masks", "mask_scores")

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        """As the contract has it, and ``mask_scores`` float32 (N, K), 0 in empty slots.

        A mask's score is the box's times the IoU that is predicted for the mask.
        """
        images = self.regions.of_images(features(self.detector, input))
        dets, labels = self.detect(images, image_shape, min_slots=1)
        head = self.detector.roi_head
        seen, back = self.regions.pool(head.mask_roi_extractor, images, dets[..., :4], "mask")
        seen = ordered(seen, back)
        logits = own_class(head.mask_head(seen), labels, head.mask_head)
        overlap = head.mask_iou_head(seen, logits.flatten(0, 1))
        overlap = overlap.reshape(labels.shape[0], labels.shape[1], overlap.shape[1])
        own = torch.gather(overlap, 2, labels.clamp(min=0)[..., None])[..., 0]
        scores = torch.where(labels >= 0, own * dets[..., 4], 0.0)
        return dets, labels, logits.sigmoid(), scores


@dataclass(frozen=True, eq=False)
class MaskScoringFamily(TwoStageFamily):
    """Families of a head that :class:`MaskScoringDetector` lowers."""

    masks: type[TwoStageDetector] = MaskScoringDetector

    def calibration(self, detector: nn.Module) -> Calibration:
        made, head = super().calibration(detector), self.head(detector).mask_iou_head
        overlap = Target(head.fc_mask_iou, 0.15, 0.5, 0.6)
        return replace(made, passes=[*made.passes, [overlap]])


MASK_SCORING = MaskScoringFamily(
    name="mask_scoring",
    heads=("mmdet.models.MaskScoringRoIHead",),
    parts=(
        *box_parts(*BOX_HEADS),
        *mask_parts(*MASK_HEADS),
        Part(
            "roi_head.mask_iou_head", ("mmdet.models.MaskIoUHead",), ("forward", "get_mask_scores")
        ),
    ),
)
