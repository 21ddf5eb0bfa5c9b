"""Faster, Cascade, Mask and Cascade Mask R-CNN: proposals, then boxes and masks of regions.

The proposals of an image are as many as suppression leaves, padded to the batch's maximum with
slots of score 0 whose results are dropped. There is always at least one slot, so that no layer of a
head has to run on nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import (
    PROPOSALS,
    DeployModel,
    Limits,
    features,
)
from pytest_onnxdet.families.classes import Kind, UnsupportedPart, at_path, resolve
from pytest_onnxdet.families.family import Family, Need, Part, Ties
from pytest_onnxdet.families.ops.boxes import (
    decode,
    require_coder,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import Lowering, dets_of
from pytest_onnxdet.families.ops.rois import (
    EXTRACTOR_METHODS,
    SINGLE_LEVEL,
    flatten_rois,
    level_scales,
)
from pytest_onnxdet.families.proposals import proposal_network
from pytest_onnxdet.families.settings import nms_threshold, require_both_stages, require_two_stage
from pytest_onnxdet.models.calibrate import Calibration, Target

ROI_HEAD_METHODS = (
    "simple_test",
    "simple_test_bboxes",
    "simple_test_mask",
    "_bbox_forward",
    "_mask_forward",
)
MASK_HEAD_METHODS = ("forward", "get_seg_masks")
PROPOSALS_TIE = Ties(proposals=True, levels=True)
#: What a two-stage detector has beside its RoI head and its proposal network.
BOX_PARTS = (
    Part("roi_head.bbox_roi_extractor", SINGLE_LEVEL, EXTRACTOR_METHODS),
    Part(
        "roi_head.bbox_head",
        ("mmdet.models.BBoxHead", "mmdet.models.ConvFCBBoxHead"),
        ("forward", "get_bboxes", "regress_by_class"),
    ),
)
MASK_PARTS = (
    Part("roi_head.mask_head", ("mmdet.models.FCNMaskHead",), MASK_HEAD_METHODS, optional=True),
    Part("roi_head.mask_roi_extractor", SINGLE_LEVEL, EXTRACTOR_METHODS, optional=True),
)


class TwoStageDetector(DeployModel):
    """``StandardRoIHead`` and ``CascadeRoIHead`` over an ``RPNHead``, with boxes only."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        network = proposal_network(self.detector.rpn_head)
        outputs = network.outputs(features(self.detector, input), image_shape)
        boxes, scores, level = network.proposals(outputs, image_shape, self.lowering)
        columns = [boxes, scores[..., None], level[..., None].to(boxes.dtype)]
        return {**network.named(outputs), PROPOSALS: torch.cat(columns, dim=2)}

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        maps = features(self.detector, input)
        dets, labels = self.detect(maps, image_shape)
        return dets, labels

    def detect(
        self, maps: tuple[Tensor, ...], image_shape: Tensor, min_slots: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Boxes and labels in the graph contract's form, at least ``min_slots`` slots an image."""
        head = self.detector.roi_head
        network = proposal_network(self.detector.rpn_head)
        outputs = network.outputs(maps, image_shape)
        boxes, objectness, _ = network.proposals(outputs, image_shape, self.lowering)
        if hasattr(head, "num_stages"):
            boxes, scores, deltas, last = self._cascade(maps, boxes, image_shape)
        else:
            last = head.bbox_head
            scores, deltas = self._heads(head.bbox_roi_extractor, last, maps, boxes)
        return self._select(last, boxes, objectness > 0, scores, deltas, image_shape, min_slots)

    def _heads(
        self, extractor: Any, head: Any, maps: tuple[Tensor, ...], boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class logits (N, K, C + 1) and box deltas (N, K, 4 or 4 * C) of regions (N, K, 4)."""
        rows, image = flatten_rois(boxes)
        regions, back = self.lowering.pool_rois(extractor, maps, rows, image)
        scores, deltas = head(regions)
        if back is not None:
            scores, deltas = scores[back], deltas[back]
        n, k = boxes.shape[0], boxes.shape[1]
        return scores.reshape(n, k, scores.shape[1]), deltas.reshape(n, k, deltas.shape[1])

    def _cascade(
        self, maps: tuple[Tensor, ...], boxes: Tensor, image_shape: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Cascade R-CNN (arXiv:1712.00726): each stage starts from the last one's boxes."""
        head = self.detector.roi_head
        logits = []
        for stage in range(head.num_stages):
            bbox_head = head.bbox_head[stage]
            score, deltas = self._heads(head.bbox_roi_extractor[stage], bbox_head, maps, boxes)
            logits.append(score)
            if stage < head.num_stages - 1:
                if not bbox_head.reg_class_agnostic:
                    best = score[..., :-1].argmax(dim=-1)[..., None, None]
                    by_class = deltas.unflatten(2, (-1, 4))
                    deltas = by_class.gather(2, best.expand(-1, -1, 1, 4))[:, :, 0]
                boxes = decode(bbox_head.bbox_coder, boxes, deltas, image_shape)
        mean = sum(logits[1:], logits[0]) / float(len(logits))
        return boxes, mean, deltas, head.bbox_head[-1]

    def _select(
        self,
        head: Any,
        boxes: Tensor,
        used: Tensor,
        logits: Tensor,
        deltas: Tensor,
        image_shape: Tensor,
        min_slots: int,
    ) -> tuple[Tensor, Tensor]:
        cfg, limits = self.detector.roi_head.test_cfg, self.limits
        scores = logits.softmax(dim=-1)[..., :-1]
        scores = torch.where((scores > cfg.score_thr) & used[..., None], scores, 0.0)
        # Only regions with a class above the threshold can give a detection: decode just those.
        _, rows = self.lowering.top(scores.amax(dim=-1), limits.deploy_nms_pre, 0.0, min_slots=1)
        scores = take_rows(scores, rows).transpose(1, 2)
        boxes, deltas = take_rows(boxes, rows), take_rows(deltas, rows)
        if head.reg_class_agnostic:
            candidates = decode(head.bbox_coder, boxes, deltas, image_shape)
        else:
            by_class = deltas.unflatten(2, (head.num_classes, 4)).transpose(1, 2)
            candidates = decode(head.bbox_coder, boxes[:, None], by_class, image_shape)
        score, labels, column = self.lowering.nms(
            candidates,
            scores,
            nms_threshold(cfg),
            cfg.max_per_img if limits.max_per_img is None else limits.max_per_img,
            limits.max_output_boxes_per_class or 0,
            min_slots,
        )
        return dets_of(candidates, score, column), labels


class MaskDetector(TwoStageDetector):
    """The same with masks: probabilities of each detection's own class, one map per region."""

    outputs = ("dets", "labels", "masks")

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        maps = features(self.detector, input)
        dets, labels = self.detect(maps, image_shape, min_slots=1)
        return dets, labels, self.masks(maps, dets[..., :4], labels)

    def masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask probabilities float32 (N, K, h, w) of detections (N, K, 4) with labels (N, K)."""
        head = self.detector.roi_head
        rows, image = flatten_rois(boxes)
        if not hasattr(head, "num_stages"):
            regions, back = self.lowering.pool_rois(head.mask_roi_extractor, maps, rows, image)
            return self._own(head.mask_head(regions), labels, head.mask_head, back).sigmoid()
        stages = []
        for extractor, mask_head in zip(head.mask_roi_extractor, head.mask_head, strict=True):
            regions, back = self.lowering.pool_rois(extractor, maps, rows, image)
            stages.append(self._own(mask_head(regions), labels, mask_head, back).sigmoid())
        return sum(stages[1:], stages[0]) / len(stages)

    @staticmethod
    def _own(logits: Tensor, labels: Tensor, head: Any, back: Tensor | None = None) -> Tensor:
        """Of logits (N * K, C, h, w), each detection's own class: (N, K, h, w).

        Args:
            labels: int64 (N, K).
            back: int64 (N * K,), the row of each detection; None: they are in order.
        """
        channels = logits.shape[1]
        slot = torch.arange(labels.shape[0], device=labels.device)[:, None] * labels.shape[1]
        slot = slot + torch.arange(labels.shape[1], device=labels.device)
        row = slot if back is None else back[slot]
        channel = torch.zeros_like(labels) if head.class_agnostic else labels.clamp(min=0)
        return logits.flatten(0, 1)[row * channels + channel]


@dataclass(frozen=True, eq=False)
class TwoStageFamily(Family):
    """Families of a proposal network and an RoI head."""

    head_path: str = "roi_head"
    head_methods: tuple[str, ...] = ROI_HEAD_METHODS
    detectors: tuple[Kind, ...] = ("mmdet.models.detectors.TwoStageDetector",)
    parts: tuple[Part, ...] = (*BOX_PARTS, *MASK_PARTS)
    ties: Ties = PROPOSALS_TIE

    def check(self, detector: nn.Module) -> None:
        require_both_stages(detector)
        model: Any = detector
        rpn, roi = model.rpn_head, self.head(detector)
        network = proposal_network(rpn)
        super().check(detector)
        if roi.with_shared_head:
            raise UnsupportedPart("an RoI head with a shared_head (C4 models) has no lowering")
        network.check()
        require_two_stage(rpn.test_cfg, roi.test_cfg)
        for _, head in at_path(detector, "roi_head.bbox_head"):
            require_coder(head.bbox_coder)
            if head.custom_cls_channels:
                kind = type(head.loss_cls).__name__
                raise UnsupportedPart(f"{kind}'s own scores have no lowering")
        for _, extractor in at_path(detector, "roi_head.bbox_roi_extractor"):
            level_scales(extractor)
        self.check_masks(detector)

    def check_masks(self, detector: nn.Module) -> None:
        """Refuses what the mask branch has no lowering for; raises `UnsupportedPart`."""
        for _, extractor in at_path(detector, "roi_head.mask_roi_extractor"):
            level_scales(extractor)

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        kind = MaskDetector if self.head(detector).with_mask else TwoStageDetector
        return kind(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The proposal network's, as all that follows depends on which proposals it picks."""
        model: Any = detector
        maps = model.extract_feat(images)
        return proposal_network(model.rpn_head).raw_reference(maps, metas)

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """The detector's results, with the proposal network's outputs given."""
        model: Any = detector
        with proposal_network(model.rpn_head).replaced(raw):
            results: list[Any] = detector(
                img=[images], img_metas=[list(metas)], return_loss=False, rescale=True
            )
        return results

    def candidate_head(self, detector: nn.Module) -> Any:
        model: Any = detector
        return proposal_network(model.rpn_head).candidate_head()

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """Of the proposal network's levels."""
        model: Any = detector
        return proposal_network(model.rpn_head).candidates_of_levels(outputs)

    def proposal_limit(self, detector: nn.Module) -> int | None:
        model: Any = detector
        limit = int(model.rpn_head.test_cfg.max_per_img)
        return limit if limit > 0 else None

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
        model: Any = detector
        passes = proposal_network(model.rpn_head).targets()
        for _, head in at_path(detector, "roi_head.bbox_head"):
            passes.append([Target(head.fc_cls, 2.0), Target(head.fc_reg, 1.0)])
        for _, head in at_path(detector, "roi_head.mask_head"):
            layer = head.conv_logits if hasattr(head, "conv_logits") else head.fc_logits
            passes.append([Target(layer, 2.0)])
        return Calibration(passes)


TWO_STAGE = TwoStageFamily(
    name="two_stage",
    heads=(
        "mmdet.models.StandardRoIHead",
        "mmdet.models.CascadeRoIHead",
        # It has a `_bbox_forward` of its own, which does what StandardRoIHead's does.
        "mmdet.models.PISARoIHead",
    ),
)
