"""Faster, Cascade, Mask and Cascade Mask R-CNN: proposals, then boxes and masks of regions.

The proposals of an image are as many as suppression leaves, padded to the batch's maximum with
slots of score 0 whose results are dropped. There is always at least one slot, so that no layer of a
head has to run on nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import Kind, UnsupportedPart, at_path, resolve
from pytest_onnxdet.families.family import Need, Part, Ties
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.ops.rois import EXTRACTOR_METHODS, EXTRACTORS, level_scales
from pytest_onnxdet.families.proposals import ProposingFamily, ProposingModel
from pytest_onnxdet.families.region_masks import masks_of_stages
from pytest_onnxdet.families.roi_heads import (
    SABL_HEAD,
    ImageFeatures,
    Regions,
    box_targets,
    refined,
    require_box_head,
    select,
    stages_of,
)
from pytest_onnxdet.families.settings import require_both_stages, require_two_stage
from pytest_onnxdet.models.calibrate import Calibration, Target

ROI_HEAD_METHODS = (
    "simple_test",
    "simple_test_bboxes",
    "simple_test_mask",
    "_bbox_forward",
    "_mask_forward",
)
BOX_HEAD_METHODS = ("get_bboxes", "regress_by_class", "bbox_pred_split")
MASK_HEAD_METHODS = ("get_seg_masks",)
PROPOSALS_TIE = Ties(proposals=True, levels=True)
BOX_HEADS = ("mmdet.models.BBoxHead", "mmdet.models.ConvFCBBoxHead")
MASK_HEADS = ("mmdet.models.FCNMaskHead", "mmdet.models.CoarseMaskHead")


def box_parts(*heads: str) -> tuple[Part, ...]:
    """What a two-stage detector has beside its RoI head and its proposal network.

    Args:
        heads: the classes of box head that are taken.
    """
    return (
        Part("roi_head.bbox_roi_extractor", EXTRACTORS, EXTRACTOR_METHODS),
        Part("roi_head.bbox_head", heads, BOX_HEAD_METHODS),
        Part(
            "roi_head.shared_head",
            ("mmdet.models.roi_heads.shared_heads.ResLayer",),
            optional=True,
        ),
    )


def mask_parts(*heads: str) -> tuple[Part, ...]:
    """The mask branch, which may be missing, with these classes of head."""
    return (
        Part("roi_head.mask_head", heads, MASK_HEAD_METHODS, optional=True),
        Part("roi_head.mask_roi_extractor", EXTRACTORS, EXTRACTOR_METHODS, optional=True),
    )


class TwoStageDetector(ProposingModel):
    """An RoI head of one stage or of several over a proposal network, with boxes only."""

    def __init__(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> None:
        super().__init__(detector, lowering, limits)
        self.regions = Regions(detector.roi_head, lowering)

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        images = self.regions.of_images(features(self.detector, input))
        return self.detect(images, image_shape)

    def detect(
        self, images: ImageFeatures, image_shape: Tensor, min_slots: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Boxes and labels in the graph contract's form, at least ``min_slots`` slots an image."""
        _, (boxes, objectness, _) = self.proposed(images.maps, image_shape)
        stages, logits = stages_of(self.detector.roi_head), []
        for number, (extractor, head) in enumerate(stages):
            scores, deltas = self.regions.predict(extractor, head, images, boxes)
            logits.append(scores)
            if number < len(stages) - 1 and deltas is not None:
                boxes = refined(head, boxes, scores, deltas, image_shape)
        return select(
            head,
            self.detector.roi_head.test_cfg,
            self.lowering,
            self.limits,
            boxes,
            objectness > 0,
            logits[0] if len(logits) == 1 else sum(logits[1:], logits[0]) / float(len(logits)),
            deltas,
            image_shape,
            min_slots,
        )


class MaskDetector(TwoStageDetector):
    """The same with masks: probabilities of each detection's own class, one map per region."""

    outputs: ClassVar[tuple[str, ...]] = ("dets", "labels", "masks")

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        images = self.regions.of_images(features(self.detector, input))
        dets, labels = self.detect(images, image_shape, min_slots=1)
        return dets, labels, self.masks(images, dets[..., :4], labels)

    def masks(self, images: ImageFeatures, boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities float32 (N, K, h, w) of detections (N, K, 4) with labels (N, K)."""
        return masks_of_stages(self.detector.roi_head, self.regions, images, boxes, labels)


@dataclass(frozen=True, eq=False)
class TwoStageFamily(ProposingFamily):
    """Families of a proposal network and an RoI head.

    Attributes:
        boxes: the deploy model of a detector without masks.
        masks: of one with masks.
    """

    head_path: str = "roi_head"
    head_methods: tuple[str, ...] = ROI_HEAD_METHODS
    detectors: tuple[Kind, ...] = ("mmdet.models.detectors.TwoStageDetector",)
    parts: tuple[Part, ...] = (*box_parts(*BOX_HEADS, SABL_HEAD), *mask_parts(*MASK_HEADS))
    ties: Ties = PROPOSALS_TIE
    boxes: type[TwoStageDetector] = TwoStageDetector
    masks: type[TwoStageDetector] = MaskDetector

    def check(self, detector: nn.Module) -> None:
        require_both_stages(detector)
        roi, network = self.head(detector), self.network(detector)
        super().check(detector)
        network.check()
        require_two_stage(network.settings(), roi.test_cfg)
        for path, head in at_path(detector, "roi_head.bbox_head"):
            require_box_head(path, head)
            if len(stages_of(roi)) > 1 and not getattr(head, "with_reg", True):
                raise UnsupportedPart(f"{path} of a cascade has no boxes (with_reg=False)")
        for _, extractor in at_path(detector, "roi_head.bbox_roi_extractor"):
            level_scales(extractor)
        self.check_masks(detector)

    def check_masks(self, detector: nn.Module) -> None:
        """Refuses what the mask branch has no lowering for; raises `UnsupportedPart`."""
        for _, extractor in at_path(detector, "roi_head.mask_roi_extractor"):
            level_scales(extractor)

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        kind = self.masks if self.head(detector).with_mask else self.boxes
        return kind(detector, lowering, limits)

    def min_opset(self, detector: nn.Module, lowering: str) -> Need:
        roi_align = resolve("mmcv.ops.RoIAlign")
        aligned = any(
            isinstance(module, roi_align) and module.aligned for module in detector.modules()
        )
        if lowering == "onnxruntime" and aligned:
            return Need(16, "RoiAlign samples at pixel centres only from opset 16 on")
        return super().min_opset(detector, lowering)

    def calibration(self, detector: nn.Module) -> Calibration:
        """In passes: regions have to exist before a region head can be looked at."""
        network = self.network(detector)
        passes = network.targets()
        for _, head in at_path(detector, "roi_head.bbox_head"):
            passes.append(box_targets(head))
        for _, head in at_path(detector, "roi_head.mask_head"):
            layer = head.conv_logits if hasattr(head, "conv_logits") else head.fc_logits
            passes.append([Target(layer, 2.0)])
        return Calibration(passes, single=network.single)


class TridentFamily(TwoStageFamily):
    """TridentNet (arXiv:1901.01892) with one branch, as it is tested.

    mmdet suppresses the boxes of that branch a second time, which leaves them as they are.
    """

    def check(self, detector: nn.Module) -> None:
        branch = getattr(self.head(detector), "test_branch_idx", None)
        if branch == -1:
            raise UnsupportedPart(
                "roi_head.test_branch_idx is -1: of more than one image mmdet's TridentRoIHead "
                "joins branches of different ones; give the number of a branch, as 1"
            )
        super().check(detector)


TWO_STAGE = TwoStageFamily(
    name="two_stage",
    heads=(
        "mmdet.models.StandardRoIHead",
        "mmdet.models.CascadeRoIHead",
        # It has a `_bbox_forward` of its own, which does what StandardRoIHead's does.
        "mmdet.models.PISARoIHead",
    ),
)
DOUBLE_HEAD = TwoStageFamily(
    name="double_head",
    heads=("mmdet.models.DoubleHeadRoIHead",),
    parts=(*box_parts("mmdet.models.DoubleConvFCBBoxHead"), *mask_parts(*MASK_HEADS)),
)
TRIDENT = TridentFamily(
    name="trident",
    heads=("mmdet.models.TridentRoIHead",),
    head_methods=(*ROI_HEAD_METHODS, "merge_trident_bboxes"),
    detectors=("mmdet.models.detectors.TridentFasterRCNN",),
    parts=box_parts(*BOX_HEADS),
)
