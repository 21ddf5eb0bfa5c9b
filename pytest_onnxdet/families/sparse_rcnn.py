"""Sparse R-CNN (arXiv:2011.12450) and QueryInst (arXiv:2105.01928): learnt proposals, refined.

Each stage pools the last one's boxes, which are not clipped, and no suppression follows. What a
stage pools depends on the boxes before it, so the first stage's outputs are the raw ones: its boxes
follow from the image's size alone.

mmdet 2.28's ``SparseRoIHead`` takes the masks of a batch's images by the last image's order of
detections, so that of several images only the last has its own. Here every image has its own, as it
has in mmdet by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import Kind, UnsupportedPart, at_path, resolve
from pytest_onnxdet.families.family import Family, Need, Part, Ties
from pytest_onnxdet.families.ops.boxes import decode, quotient, require_coder, take_rows
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.ops.rois import (
    EXTRACTOR_METHODS,
    SINGLE_LEVEL,
    flatten_rois,
    level_scales,
)
from pytest_onnxdet.families.settings import RCNN, require_cut, require_settings
from pytest_onnxdet.models.calibrate import Calibration, Drawn, Target

HEADS = "mmdet.models.roi_heads"
MOVED = 0.8  # the spread of random deltas, over all stages
OUTPUTS = ("cls_score", "bbox_pred", "object_feats")


class SparseDetector(DeployModel):
    """mmdet's ``SparseRoIHead`` of ``DIIHead`` stages over an ``EmbeddingRPNHead``."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        maps = features(self.detector, input)
        boxes, objects = self._start(input, image_shape)
        return dict(zip(OUTPUTS, self._stage(0, maps, boxes, objects), strict=False))

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        dets, labels, _ = self._detect(features(self.detector, input), input, image_shape)
        return dets, labels

    def _start(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Tensor]:
        """The learnt boxes (N, P, 4), scaled to each image, and their features (N, P, C)."""
        head = self.detector.rpn_head
        boxes = head.init_proposal_bboxes.weight
        centre, half = boxes[:, :2], 0.5 * boxes[:, 2:]
        corners = torch.cat([centre - half, centre + half], dim=1)
        scale = image_shape.to(corners.dtype).flip(1).repeat(1, 2)[:, None]
        start = torch.zeros_like(scale[..., :1])
        return corners * scale, head.init_proposal_features.weight[None] + start

    def _stage(
        self, number: int, maps: tuple[Tensor, ...], boxes: Tensor, objects: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (N, P, C), deltas (N, P, 4) and two kinds of features (N, P, F) of boxes."""
        roi_head = self.detector.roi_head
        regions = self._pooled(roi_head.bbox_roi_extractor[number], maps, boxes)
        result: tuple[Tensor, Tensor, Tensor, Tensor] = roi_head.bbox_head[number](regions, objects)
        return result

    def _pooled(self, extractor: Any, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Features (N * P, C, h, w) of boxes (N, P, 4), in their order: objects go with them."""
        rows, image = flatten_rois(boxes)
        regions, back = self.lowering.pool_rois(extractor, maps, rows, image)
        return regions if back is None else regions[back]

    def _detect(
        self, maps: tuple[Tensor, ...], input: Tensor, image_shape: Tensor
    ) -> tuple[Tensor, Tensor, Any]:
        """``dets`` and ``labels``, and what masks are made of: boxes, features and each's query."""
        head, limit = self.detector.roi_head, self.limits.max_per_img
        boxes, objects = self._start(input, image_shape)
        for number in range(head.num_stages):
            logits, deltas, objects, attended = self._stage(number, maps, boxes, objects)
            boxes = decode(head.bbox_head[number].bbox_coder, boxes, deltas, image_shape)
        last = head.bbox_head[-1]
        if last.loss_cls.use_sigmoid:
            scores = sigmoid(logits)
        else:
            scores = logits.softmax(dim=-1)[..., :-1]
        limit = head.test_cfg.max_per_img if limit is None else limit
        limit = self.lowering.bounded(limit, "max_per_img")
        scores, pair = torch.topk(scores.flatten(1), limit, dim=1)
        query = quotient(pair, last.num_classes)
        dets = torch.cat([take_rows(boxes, query), scores[..., None]], dim=2)
        return dets, pair - query * last.num_classes, (boxes, attended, query)


class QueryInstDetector(SparseDetector):
    """The same with masks: each detection's own class, of its query's region."""

    outputs = ("dets", "labels", "masks")

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        maps = features(self.detector, input)
        dets, labels, (boxes, attended, query) = self._detect(maps, input, image_shape)
        head = self.detector.roi_head
        regions = self._pooled(head.mask_roi_extractor[-1], maps, boxes)
        logits = head.mask_head[-1](regions, attended)
        # Rows by the number of queries, which is a constant, and of classes.
        pairs, classes = logits.flatten(0, 1), logits.shape[1]
        image = torch.arange(query.shape[0], device=query.device)[:, None]
        row = (image * self.detector.rpn_head.num_proposals + query) * classes + labels
        return dets, labels, pairs[row].sigmoid()


@dataclass(frozen=True, eq=False)
class SparseFamily(Family):
    """Families of a head that :class:`SparseDetector` lowers."""

    head_path: str = "roi_head"
    detectors: tuple[Kind, ...] = ("mmdet.models.detectors.SparseRCNN",)

    def check(self, detector: nn.Module) -> None:
        super().check(detector)
        model: Any = detector
        roi = model.roi_head
        require_settings(roi.test_cfg, RCNN, ("max_per_img",))
        require_cut(roi.test_cfg, RCNN, "max_per_img")
        _, most = self._cut(detector)
        if roi.test_cfg.max_per_img > most:
            raise UnsupportedPart(
                f"{RCNN}.max_per_img is {roi.test_cfg.max_per_img} and there are {most} pairs of "
                "query and class: mmdet fails there, too; lower it"
            )
        for _, head in at_path(detector, "roi_head.bbox_head"):
            require_coder(head.bbox_coder)
        for name in ("bbox_roi_extractor", "mask_roi_extractor"):
            for _, extractor in at_path(detector, f"roi_head.{name}"):
                level_scales(extractor)

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        roi = self.head(detector)
        if lowering.name == "tensorrt" and not _clipped(roi) and _adaptive(detector):
            raise UnsupportedPart(
                "RoIAlign with sampling_ratio 0 of boxes that are not clipped (bbox_coder."
                "clip_border is False) has no lowering for TensorRT: how many samples a box has "
                "is not bounded; set sampling_ratio=2, as mmdet's configs do"
            )
        kind = QueryInstDetector if roi.with_mask else SparseDetector
        return kind(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The first stage's logits, deltas and features of each proposal."""
        model: Any = detector
        seen: list[tuple[Tensor, ...]] = []
        with _first_stage(detector, seen.append):
            maps = model.extract_feat(images)
            boxes, objects, _ = model.rpn_head.simple_test_rpn(maps, list(metas))
            rois, image = flatten_rois(boxes)
            rois = torch.cat([image[:, None].to(rois.dtype), rois], dim=1)
            model.roi_head._bbox_forward(0, maps, rois, objects, list(metas))
        return dict(zip(OUTPUTS, seen[0], strict=False))

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """The detector's results, image by image, with the first stage's outputs given."""
        results: list[Any] = []
        for row, meta in enumerate(metas):
            given = tuple(raw[name][row : row + 1] for name in OUTPUTS)
            with _first_stage(detector, lambda outputs, given=given: (*given, *outputs[3:])):
                results += detector(
                    img=[images[row : row + 1]],
                    img_metas=[[meta]],
                    return_loss=False,
                    rescale=True,
                )
        return results

    def _cut(self, detector: nn.Module) -> tuple[int, int]:
        model: Any = detector
        limit = int(model.roi_head.test_cfg.max_per_img)
        return limit, int(model.rpn_head.num_proposals * model.roi_head.bbox_head[-1].num_classes)

    def final_cut(self, detector: nn.Module) -> tuple[int, int] | None:
        """Of the pairs of query and class; with masks only so many as may be pasted at a time."""
        limit, most = self._cut(detector)
        return limit, min(most, 2 * limit) if self.head(detector).with_mask else most

    def min_opset(self, detector: nn.Module, lowering: str) -> Need:
        roi_align = resolve("mmcv.ops.RoIAlign")
        if lowering == "onnxruntime" and any(
            isinstance(module, roi_align) and module.aligned for module in detector.modules()
        ):
            return Need(16, "RoiAlign samples at pixel centres only from opset 16 on")
        return super().min_opset(detector, lowering)

    def calibration(self, detector: nn.Module) -> Calibration:
        """Proposals of several sizes, then stage by stage.

        Boxes are moved little: mmdet fails to paste a mask of one that is outside of the image.
        """
        model: Any = detector
        passes = []
        boxes = model.rpn_head.init_proposal_bboxes.weight
        drawn = Drawn(boxes, (0.25, 0.25, 0.1, 0.1), (0.75, 0.75, 0.5, 0.5))
        moved = MOVED / model.roi_head.num_stages
        for _, head in at_path(detector, "roi_head.bbox_head"):
            passes.append([Target(head.fc_cls, 1.5, 0.02, -1.0), Target(head.fc_reg, moved)])
        for _, head in at_path(detector, "roi_head.mask_head"):
            passes.append([Target(head.conv_logits, 2.0)])
        regressions = [head.fc_reg for _, head in at_path(detector, "roi_head.bbox_head")]
        return Calibration(passes, still=regressions, drawn=[drawn])


def _clipped(roi: Any) -> bool:
    return all(head.bbox_coder.clip_border for head in roi.bbox_head)


def _adaptive(detector: nn.Module) -> bool:
    """Whether a region's extent decides how many samples its features are of."""
    places = ("roi_head.bbox_roi_extractor", "roi_head.mask_roi_extractor")
    extractors = [extractor for path in places for _, extractor in at_path(detector, path)]
    return any(layer.sampling_ratio <= 0 for one in extractors for layer in one.roi_layers)


@contextmanager
def _first_stage(detector: nn.Module, change: Any) -> Iterator[None]:
    """For the duration of the block, the first stage returns what ``change`` makes of its outputs.

    Where that is None it returns them as they are.

    Args:
        detector: with a ``SparseRoIHead``.
        change: of logits (N, P, C), deltas (N, P, 4) and two kinds of features (N, P, F).
    """
    model: Any = detector
    handle = model.roi_head.bbox_head[0].register_forward_hook(lambda _, __, out: change(out))
    try:
        yield
    finally:
        handle.remove()


SPARSE_RCNN = SparseFamily(
    name="sparse_rcnn",
    heads=("mmdet.models.SparseRoIHead",),
    head_methods=("simple_test", "_bbox_forward", "_mask_forward"),
    detector_methods=("forward", "forward_test", "simple_test", "extract_feat"),
    parts=(
        Part(
            "rpn_head",
            ("mmdet.models.EmbeddingRPNHead",),
            ("simple_test_rpn", "_decode_init_proposals"),
        ),
        Part("roi_head.bbox_roi_extractor", SINGLE_LEVEL, EXTRACTOR_METHODS),
        Part(
            "roi_head.bbox_head",
            (f"{HEADS}.bbox_heads.dii_head.DIIHead",),
            ("forward", "refine_bboxes", "regress_by_class"),
        ),
        Part(
            "roi_head.mask_head",
            (f"{HEADS}.mask_heads.dynamic_mask_head.DynamicMaskHead",),
            ("forward", "get_seg_masks"),
            optional=True,
        ),
        Part("roi_head.mask_roi_extractor", SINGLE_LEVEL, EXTRACTOR_METHODS, optional=True),
    ),
    ties=Ties(order=True, suppression=False, levels=True),
    uncapped="Sparse R-CNN's detections are its queries, cut at test_cfg.rcnn.max_per_img",
)
