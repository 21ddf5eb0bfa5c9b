"""YOLACT (arXiv:1904.02689): a detection's mask is a mixture of prototypes, cut to its box.

Fast NMS compares all boxes of a class at once: one that a better one overlaps is dropped, whether
or not that one is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.data.image_maps import ImageMaps
from pytest_onnxdet.families.base import DeployModel, Limits, features, joined
from pytest_onnxdet.families.family import Family, MapNote, Part, Ties
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    decode,
    quotient,
    require_coder,
    require_generator,
    shared_length,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import EVERY, Lowering, dets_of, sigmoid
from pytest_onnxdet.families.ops.noted import called, hooked
from pytest_onnxdet.families.settings import (
    TEST_CFG,
    require_count,
    require_number,
    require_settings,
    require_share,
)
from pytest_onnxdet.models.calibrate import Calibration, Target

_KINDS = ("cls_score", "bbox_pred", "coeff_pred")
#: The smallest area that an overlap is divided by, as in mmdet's ``bbox_overlaps``.
_SMALLEST = 1e-6


class YolactDetector(DeployModel):
    """``YOLACTHead`` with ``YOLACTProtonet``."""

    outputs: ClassVar[tuple[str, ...]] = ("dets", "labels", "masks")

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        feats = features(self.detector, input)
        return named(self.detector.bbox_head(feats), self.detector.mask_head.protonet(feats[0]))

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg = self.detector.bbox_head, self.detector.bbox_head.test_cfg
        feats = features(self.detector, input)
        logits, deltas, mixtures = head(feats)
        scores = joined(logits, head.cls_out_channels)
        scores = sigmoid(scores) if head.use_sigmoid_cls else scores.softmax(dim=-1)[..., :-1]
        candidates = Candidates(head.prior_generator, logits, self.lowering.fixed_shape)
        nms_pre = cfg.get("nms_pre", -1) if self.limits.nms_pre is None else self.limits.nms_pre
        best, prior = self.lowering.top_of_levels(
            scores.amax(dim=2), candidates.sizes, nms_pre, cfg.score_thr
        )
        if self.limits.deploy_nms_pre > 0:
            best, keep = self.lowering.top(best, self.limits.deploy_nms_pre, 0.0)
            prior = torch.gather(prior, 1, keep)
        # One more candidate, of score 0: of an image without any there is something to look at.
        best, prior = functional.pad(best, (0, 1)), functional.pad(prior, (0, 1))
        boxes = decode(
            head.bbox_coder,
            candidates.priors(prior),
            take_rows(joined(deltas, 4), prior),
            image_shape,
        )
        score = torch.where(best[..., None] > 0, take_rows(scores, prior), 0.0)
        score, label, column = self._fast_nms(boxes, score)
        dets = dets_of(boxes, score, column)
        mixture = take_rows(joined(mixtures, head.num_protos), torch.gather(prior, 1, column))
        prototypes = self.detector.mask_head.protonet(feats[0])
        return dets, label, cropped(mixed(prototypes, mixture), dets[..., :4], image_shape)

    def _fast_nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of boxes (N, P, 4) and scores (N, P, C) the kept ones, as :meth:`Lowering.nms`."""
        cfg, limits = self.detector.bbox_head.test_cfg, self.limits
        n, classes = scores.shape[0], scores.shape[2]
        rows = scores.transpose(1, 2).flatten(0, 1)
        score, column = self.lowering.top(rows, cfg.top_k, cfg.score_thr, min_slots=1)
        slots = score.shape[1]
        column = column.unflatten(0, (n, classes)).flatten(1)
        own = take_rows(boxes, column).unflatten(1, (classes, slots)).flatten(0, 1)
        x1, y1, x2, y2 = own.unbind(dim=2)
        shared = shared_length(x1, x2) * shared_length(y1, y2)
        area = (x2 - x1) * (y2 - y1)
        overlap = shared / (area[:, :, None] + area[:, None] - shared).clamp(min=_SMALLEST)
        rank = torch.arange(slots, device=boxes.device)
        worst = torch.where((rank[:, None] < rank[None])[None], overlap, 0.0).amax(dim=1)
        score = torch.where(worst <= cfg.iou_thr, score, 0.0)
        if limits.max_output_boxes_per_class:
            place = (score > 0).to(score.dtype).cumsum(dim=1)
            score = torch.where(place <= limits.max_output_boxes_per_class, score, 0.0)
        limit = cfg.max_per_img if limits.max_per_img is None else limits.max_per_img
        score, index = self.lowering.top(
            score.unflatten(0, (n, classes)).flatten(1),
            limit if limit > 0 else EVERY,
            0.0,
            min_slots=1,
        )
        label = torch.where(score > 0, quotient(index, slots), -1)
        return score, label, torch.gather(column, 1, index)


def mixed(prototypes: Tensor, mixture: Tensor) -> Tensor:
    """Mask probabilities (N, K, h, w) of prototypes (N, P, h, w) and coefficients (N, K, P)."""
    logits = torch.matmul(mixture, prototypes.flatten(2))
    height, width = prototypes.shape[2], prototypes.shape[3]
    return sigmoid(logits).reshape(prototypes.shape[0], -1, height, width)


def cropped(masks: Tensor, boxes: Tensor, image_shape: Tensor) -> Tensor:
    """Masks (N, K, h, w), 0 outside of their boxes and a cell around them.

    Args:
        masks: float32; mmdet takes the whole map for the image before padding.
        boxes: float32 (N, K, 4), corners in network-input pixels.
        image_shape: int64 (N, 2).
    """
    inside = []
    for axis in (0, 1):  # down, across
        count = masks.shape[2 + axis]
        size = torch.ones((), device=boxes.device) * count
        side = image_shape[:, axis, None].to(boxes.dtype)
        low, high = boxes[..., 1 - axis] / side * size, boxes[..., 3 - axis] / side * size
        low = torch.minimum(low, high)
        high = torch.minimum(torch.maximum(low, high) + 1.0, size)
        low = (low - 1.0).clamp(min=0.0)
        cell = torch.arange(count, device=boxes.device).to(boxes.dtype)
        inside.append((cell >= low[..., None]) & (cell < high[..., None]))
    return masks * (inside[0][..., :, None] & inside[1][..., None, :]).to(masks.dtype)


def named(outputs: Any, prototypes: Tensor) -> dict[str, Tensor]:
    """Names for the head's outputs, level by level, and the prototypes."""
    levels = {
        f"{kind}_{level}": value
        for kind, values in zip(_KINDS, outputs, strict=True)
        for level, value in enumerate(values)
    }
    return levels | {"prototypes": prototypes}


@dataclass(frozen=True, eq=False)
class YolactFamily(Family):
    """Families of a head that :class:`YolactDetector` lowers."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        head = self.head(detector)
        cfg = head.test_cfg
        require_generator(head.prior_generator)
        require_coder(head.bbox_coder)
        require_settings(cfg, TEST_CFG, ("score_thr", "iou_thr", "top_k", "max_per_img"))
        require_share(cfg.iou_thr, TEST_CFG, "iou_thr")
        require_count(cfg.top_k, TEST_CFG, "top_k")
        require_number(cfg.max_per_img, TEST_CFG, "max_per_img")
        require_number(cfg.get("nms_pre", -1), TEST_CFG, "nms_pre")
        lowering.bounded(cfg.top_k, "top_k")
        return YolactDetector(detector, lowering, limits)

    def image_maps(self, detector: nn.Module) -> ImageMaps | None:
        """mmdet resizes the maps to the original size as they are, padding and all."""
        return ImageMaps(cropped=False, threshold=0.5)

    @contextlib.contextmanager
    def noted_maps(self, detector: nn.Module) -> Iterator[list[MapNote]]:
        model: Any = detector
        notes: list[MapNote] = []

        def note(maps: Tensor, labels: Tensor, *_: Any) -> None:
            notes.append(MapNote(labels, maps))

        with called(model.mask_head, "get_seg_masks", note):
            yield notes

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        model: Any = detector
        feats = model.extract_feat(images)
        return named(self.head(detector)(feats), model.mask_head.protonet(feats[0]))

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        return super().head_outputs({k: v for k, v in raw.items() if k != "prototypes"})

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        from mmdet.core import bbox2result

        model: Any = detector
        head, masks = self.head(detector), model.mask_head
        boxes, labels, mixtures = head.get_bboxes(
            *self.head_outputs(raw), img_metas=list(metas), rescale=True
        )
        found = [
            bbox2result(box, label, head.num_classes)
            for box, label in zip(boxes, labels, strict=True)
        ]
        # Of the features only the prototypes are made, and those are given.
        feats = [images.new_zeros(len(images), masks.in_channels, 2, 2)]
        with hooked([masks.protonet], {masks.protonet: [raw["prototypes"]]}):
            segments = masks.simple_test(feats, boxes, labels, mixtures, list(metas), rescale=True)
        return list(zip(found, segments, strict=True))

    def candidate_head(self, detector: nn.Module) -> Any:
        return self.head(detector)

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """All of a level's priors, whatever they score."""
        counts = zip(outputs[0], self.head(detector).prior_generator.num_base_priors, strict=True)
        return [[level[0, 0].numel() * count] * len(level) for level, count in counts]

    def calibration(self, detector: nn.Module) -> Calibration:
        model: Any = detector
        head = self.head(detector)
        convs = [layer for layer in model.mask_head.protonet if isinstance(layer, nn.Conv2d)]
        # Background, the last channel, is far above most of the classes.
        score = Target(head.conv_cls, 1.0, 0.02, 3.0, head.cls_out_channels, 0, rest=True)
        return Calibration(
            [[score, Target(head.conv_reg), Target(head.conv_coeff), Target(convs[-1])]]
        )


YOLACT = YolactFamily(
    name="yolact",
    heads=("mmdet.models.YOLACTHead",),
    detectors=("mmdet.models.detectors.YOLACT",),
    parts=(
        Part(
            "mask_head",
            ("mmdet.models.YOLACTProtonet",),
            ("forward", "simple_test", "get_seg_masks", "crop", "sanitize_coordinates"),
        ),
    ),
    ties=Ties(order=True, suppression=False),
)
