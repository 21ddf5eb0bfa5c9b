"""PAA, LAD and guided anchors: of each level the best priors are kept, not pairs.

A prior is as good as its best class. Those that are kept are decoded, and mmdet's
``multiclass_nms`` looks at all their classes.
"""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.core.patching import overridden
from pytest_onnxdet.families.base import features, joined, named_levels
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.dense import Chosen, DenseDetector, DenseFamily, Maps
from pytest_onnxdet.families.dense_boxes import require_sigmoid
from pytest_onnxdet.families.family import DECODING_METHODS, HEAD_METHODS, Ties
from pytest_onnxdet.families.ops.boxes import (
    corners,
    decode,
    require_coder,
    shared_between,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import dets_of, sigmoid
from pytest_onnxdet.families.settings import (
    TEST_CFG,
    require_number,
    require_settings,
    suppression,
)


class PriorDetector(DenseDetector):
    """A dense head whose best priors, and not pairs, are kept of each level."""

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        cfg, limits = self.detector.bbox_head.test_cfg, self.limits
        maps = self.maps(features(self.detector, input))
        candidates = self.candidates(maps)
        scores = self.scores(maps)
        nms_pre = cfg.get("nms_pre", -1) if limits.nms_pre is None else limits.nms_pre
        best, prior = self.lowering.top_of_levels(
            scores.amax(dim=2), candidates.sizes, nms_pre, cfg.score_thr
        )
        if limits.deploy_nms_pre > 0:
            best, keep = self.lowering.top(best, limits.deploy_nms_pre, 0.0)
            prior = torch.gather(prior, 1, keep)
        boxes, _ = self.decoded(Chosen(candidates, prior, maps, image_shape))
        rows = take_rows(scores, prior)
        possible = (rows > cfg.score_thr) & (best > 0)[..., None]
        rows = torch.where(possible, rows, 0.0)
        score, labels, column = self._nms(boxes, rows)
        return self.refined(dets_of(boxes, score, column), labels, boxes, rows), labels

    def _nms(self, boxes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mmdet's ``multiclass_nms`` of boxes (N, P, 4) with scores (N, P, C)."""
        return self.lowering.nms(
            boxes,
            rows.transpose(1, 2),
            suppression(self.detector.bbox_head.test_cfg),
            self.max_per_img(),
            self.limits.max_output_boxes_per_class or 0,
        )

    @abstractmethod
    def scores(self, maps: Maps) -> Tensor:
        """What is thresholded and suppressed by: float32 (N, P, C), 0 where a prior is none."""

    def refined(self, dets: Tensor, labels: Tensor, boxes: Tensor, rows: Tensor) -> Tensor:
        """What becomes of ``dets`` after suppression; most heads leave them.

        Args:
            dets: float32 (N, K, 5); labels: int64 (N, K).
            boxes: float32 (N, P, 4), all candidates.
            rows: float32 (N, P, C), their scores, 0 where a class is none.
        """
        return dets

    @classmethod
    def require_test_cfg(cls, cfg: Any) -> None:
        require_settings(cfg, TEST_CFG, ("score_thr", "nms", "max_per_img"))
        suppression(cfg)
        for key in ("max_per_img", "nms_pre"):  # not positive: all
            require_number(cfg.get(key, -1), TEST_CFG, key)


class PaaDetector(PriorDetector):
    """PAA (arXiv:2007.08103): geometric means of class and IoU; boxes by a vote of candidates."""

    kinds = ("cls_score", "bbox_pred", "iou_pred")

    def scores(self, maps: Maps) -> Tensor:
        rows = joined(maps[0], self.detector.bbox_head.cls_out_channels)
        return (sigmoid(rows) * sigmoid(joined(maps[2], 1))).sqrt()

    def refined(self, dets: Tensor, labels: Tensor, boxes: Tensor, rows: Tensor) -> Tensor:
        """Each box as the mean of its class's candidates (section 3.3), weighted by overlap."""
        if not self.detector.bbox_head.with_score_voting:
            return dets
        score = take_rows(rows.transpose(1, 2), labels.clamp(min=0))
        own = dets[..., :4]
        shared = shared_between(own, boxes)
        area, other = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (own, boxes))
        union = area[:, :, None] + other[:, None] - shared
        overlap = shared / union.clamp(min=1e-6)
        weight = torch.exp(-((1 - overlap) ** 2) / 0.025) * score
        weight = torch.where(overlap > 0.01, weight, 0.0)
        total = weight.sum(dim=2, keepdim=True)
        voted = torch.matmul(weight, boxes) / torch.where(total > 0, total, 1.0)
        voted = torch.where(total > 0, voted, own)
        return torch.cat([voted, dets[..., 4:]], dim=-1)

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        require_sigmoid(head)
        require_coder(head.bbox_coder)


class GuidedDetector(PriorDetector):
    """Anchors that the head predicts (Guided Anchoring, arXiv:1901.03278).

    mmdet's masked convolutions leave out the places where no anchor is likely, of one image at a
    time. Here they see all places, and those count for nothing afterwards.
    """

    kinds = ("cls_score", "bbox_pred", "shape_pred", "loc_pred")
    prior_generator = "square_anchor_generator"

    def maps(self, levels: tuple[Tensor, ...]) -> Maps:
        with unmasked(self.detector.bbox_head):
            return super().maps(levels)

    def scores(self, maps: Maps) -> Tensor:
        head = self.detector.bbox_head
        rows = self.probabilities(head, joined(maps[0], head.cls_out_channels))
        return torch.where(sigmoid(joined(maps[3], 1)) >= head.loc_filter_thr, rows, 0.0)

    def decoded(self, chosen: Chosen) -> tuple[Tensor, None]:
        head = self.detector.bbox_head
        sizes = chosen.rows(2, 2)
        deltas = torch.cat([torch.zeros_like(sizes), sizes], dim=-1)
        anchors = corners(head.anchor_coder, chosen.priors(), deltas, min_ratio=1e-6)
        return decode(head.bbox_coder, anchors, chosen.rows(1, 4), chosen.image_shape), None

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        for coder in (head.anchor_coder, head.bbox_coder):
            kind = require_coder(coder)
            if not kind.endswith(".DeltaXYWHBBoxCoder"):
                raise UnsupportedPart(
                    f"{type(head).__name__} with the box coder {type(coder).__name__} has no "
                    "lowering; DeltaXYWHBBoxCoder has one"
                )
        if head.num_base_priors != 1:
            raise UnsupportedPart(
                f"{type(head).__name__} with {head.num_base_priors} square anchors of a place has "
                "no lowering: give square_anchor_generator one scale and one ratio"
            )


@contextlib.contextmanager
def unmasked(head: nn.Module) -> Iterator[None]:
    """For the duration of the block, a head's masked convolutions look at all places."""
    from mmcv.ops import MaskedConv2d

    def plain(layer: Any, input: Tensor, mask: Any = None) -> Tensor:
        return nn.functional.conv2d(
            input, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation
        )

    with contextlib.ExitStack() as stack:
        for module in head.modules():
            if isinstance(module, MaskedConv2d):
                forward = functools.partial(plain, module)
                stack.enter_context(overridden(module, forward=forward))
        yield


class PriorFamily(DenseFamily):
    """Families of a head that a :class:`PriorDetector` lowers."""

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """Of each level's priors, those with a class above the threshold, factors aside."""
        head = self.head(detector)
        counts = []
        for level in outputs[0]:
            rows = self.model.probabilities(head, joined([level], head.cls_out_channels))
            counts.append((rows.amax(dim=2) > head.test_cfg.score_thr).sum(dim=1).tolist())
        return counts


class GuidedFamily(PriorFamily):
    """Families of a head that :class:`GuidedDetector` lowers."""

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Of all places, also of those that mmdet's masks leave out and it takes no box of."""
        model: Any = detector
        head = self.head(detector)
        with unmasked(head):
            return named_levels(head(model.extract_feat(images)), self.model.kinds)


PAA = PriorFamily(
    name="paa",
    heads=("mmdet.models.PAAHead",),
    head_methods=(*DECODING_METHODS, "score_voting"),
    ties=Ties(moved=True),
    model=PaaDetector,
)
GUIDED = GuidedFamily(
    name="guided",
    heads=("mmdet.models.GARetinaHead",),
    head_methods=(*HEAD_METHODS, "get_anchors", "_get_guided_anchors_single"),
    model=GuidedDetector,
)
