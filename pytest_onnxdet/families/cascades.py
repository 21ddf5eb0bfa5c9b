"""Hybrid Task Cascade (arXiv:1901.07518) and SCNet (arXiv:2012.10150): cascades whose stages share.

Boxes are a cascade's, of regions that are fused with a map of the image's semantics and with its
context. What differs are the masks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pytest_onnxdet.families.classes import UnsupportedPart, at_path, objection
from pytest_onnxdet.families.family import Part
from pytest_onnxdet.families.ops.rois import EXTRACTOR_METHODS, SINGLE_LEVEL
from pytest_onnxdet.families.region_masks import flowing_masks, relayed_masks
from pytest_onnxdet.families.roi_heads import ImageFeatures, require_sizes
from pytest_onnxdet.families.two_stage import (
    BOX_HEADS,
    ROI_HEAD_METHODS,
    MaskDetector,
    TwoStageDetector,
    TwoStageFamily,
    box_parts,
    mask_parts,
)

HTC_MASKS = "mmdet.models.HTCMaskHead"
PLAIN_MASKS = "mmdet.models.FCNMaskHead"
SEMANTIC_PARTS = (
    Part("roi_head.semantic_head", ("mmdet.models.FusedSemanticHead",), optional=True),
    Part("roi_head.semantic_roi_extractor", SINGLE_LEVEL, EXTRACTOR_METHODS, optional=True),
)


class FlowingMaskDetector(MaskDetector):
    """``HybridTaskCascadeRoIHead`` with masks."""

    def masks(self, images: ImageFeatures, boxes: Tensor, labels: Tensor) -> Tensor:
        return flowing_masks(self.detector.roi_head, self.regions, images, boxes, labels)


class RelayedMaskDetector(MaskDetector):
    """``SCNetRoIHead``, which has masks always."""

    def masks(self, images: ImageFeatures, boxes: Tensor, labels: Tensor) -> Tensor:
        return relayed_masks(self.detector.roi_head, self.regions, images, boxes, labels)


@dataclass(frozen=True, eq=False)
class SemanticCascadeFamily(TwoStageFamily):
    """Cascades whose regions may be fused with a semantic map."""

    masks: type[TwoStageDetector] = FlowingMaskDetector

    def check_masks(self, detector: nn.Module) -> None:
        super().check_masks(detector)
        head = self.head(detector)
        paths = ("roi_head.bbox_roi_extractor", "roi_head.mask_roi_extractor")
        for _, semantic in at_path(detector, "roi_head.semantic_roi_extractor"):
            require_sizes(semantic, [found for path in paths for found in at_path(detector, path)])
        for path, box_head in at_path(detector, "roi_head.bbox_head"):
            if box_head.custom_activation and not box_head.reg_class_agnostic:
                raise UnsupportedPart(
                    f"{path} has scores of its own and a box for each class, of which "
                    f"{type(head).__name__} takes one by its plain logits: that has no lowering"
                )


class HybridTaskCascadeFamily(SemanticCascadeFamily):
    """HTC, whose mask heads hand on what they saw, or do not."""

    def check_masks(self, detector: nn.Module) -> None:
        super().check_masks(detector)
        wanted = HTC_MASKS if self.head(detector).mask_info_flow else PLAIN_MASKS
        for path, mask_head in at_path(detector, "roi_head.mask_head"):
            why = objection(mask_head, (wanted,), ("forward",))
            if why is not None:
                raise UnsupportedPart(
                    f"{path} is {type(mask_head).__name__} and mask_info_flow is "
                    f"{self.head(detector).mask_info_flow}: {why}"
                )


class SCNetFamily(SemanticCascadeFamily):
    """SCNet, whose masks take over what the last box head saw."""

    def check_masks(self, detector: nn.Module) -> None:
        super().check_masks(detector)
        if not self.head(detector).with_feat_relay:
            raise UnsupportedPart(
                "roi_head has no feat_relay_head: mmdet's SCNetRoIHead detects with one only"
            )


HTC = HybridTaskCascadeFamily(
    name="htc",
    heads=("mmdet.models.HybridTaskCascadeRoIHead",),
    parts=(*box_parts(*BOX_HEADS), *mask_parts(HTC_MASKS, PLAIN_MASKS), *SEMANTIC_PARTS),
)
SCNET = SCNetFamily(
    name="scnet",
    heads=("mmdet.models.SCNetRoIHead",),
    head_methods=(*ROI_HEAD_METHODS, "_fuse_glbctx"),
    parts=(
        *box_parts("mmdet.models.SCNetBBoxHead"),
        *mask_parts(PLAIN_MASKS),
        *SEMANTIC_PARTS,
        Part("roi_head.glbctx_head", ("mmdet.models.GlobalContextHead",), optional=True),
        Part("roi_head.feat_relay_head", ("mmdet.models.FeatureRelayHead",), optional=True),
    ),
    masks=RelayedMaskDetector,
)
