"""GA-RPN (Guided Anchoring, arXiv:1901.03278): anchors that the network itself predicts.

mmdet's masked convolutions leave out the places where no anchor is likely, of one image at a time.
Here they see all places, and those count for nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.base import joined, named_levels, outputs_replaced
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.dense_priors import unmasked
from pytest_onnxdet.families.family import HEAD_METHODS
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    corners,
    decode,
    require_coder,
    require_generator,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.proposal_network import (
    ProposalNetwork,
    by_kind,
    large_enough,
    objectness,
    objectness_target,
)
from pytest_onnxdet.families.settings import RPN, modern, require_count, suppression
from pytest_onnxdet.families.suppression import Suppression
from pytest_onnxdet.models.calibrate import Target, logit

KINDS = ("cls_score", "bbox_pred", "shape_pred", "loc_pred")
DELTA = ".DeltaXYWHBBoxCoder"


class GuidedNetwork(ProposalNetwork):
    """``GARPNHead``: suppression level by level, then the best of all levels."""

    kind = "mmdet.models.GARPNHead"
    methods = (*HEAD_METHODS, "simple_test_rpn", "get_anchors", "_get_guided_anchors_single")
    single = True

    def settings(self) -> Any:
        return modern(self.head.test_cfg)

    def check(self) -> None:
        super().check()
        head, cfg = self.head, self.settings()
        require_generator(head.square_anchor_generator)
        for coder in (head.anchor_coder, head.bbox_coder):
            if not require_coder(coder).endswith(DELTA):
                raise UnsupportedPart(
                    f"GARPNHead with the box coder {type(coder).__name__} has no lowering; "
                    "DeltaXYWHBBoxCoder has one"
                )
        if head.num_base_priors != 1:
            raise UnsupportedPart(
                f"GARPNHead with {head.num_base_priors} square anchors of a place has no "
                "lowering: give square_anchor_generator one scale and one ratio"
            )
        if not head.use_sigmoid_cls:
            raise UnsupportedPart("GARPNHead with softmax scores has no lowering")
        for key in ("nms_pre", "nms_post"):
            if key not in cfg:
                raise UnsupportedPart(f"{RPN}.{key} is missing: mmdet reads it when it detects")
        require_count(cfg.nms_post, RPN, "nms_post")
        if not cfg.get("nms_across_levels", False):
            require_count(cfg.max_per_img, RPN, "max_per_img")
        if suppression(cfg, RPN).soft:
            raise UnsupportedPart(f"{RPN}.nms is {dict(cfg.nms)}: GARPNHead takes type 'nms' only")

    def outputs(self, maps: tuple[Tensor, ...], image_shape: Tensor) -> Any:
        with unmasked(self.head):
            return self.head(maps)

    def named(self, outputs: Any) -> dict[str, Tensor]:
        return named_levels(outputs, KINDS)

    def proposals(
        self, outputs: Any, image_shape: Tensor, lowering: Lowering, min_slots: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        head, cfg = self.head, self.settings()
        logits, deltas, sizes, places = outputs
        candidates = Candidates(head.square_anchor_generator, logits, lowering.fixed_shape)
        likely = sigmoid(joined(places, 1).flatten(1)) >= head.loc_filter_thr
        score = torch.where(likely, objectness(head, logits), 0.0)
        if cfg.nms_pre > 0:
            score, prior = lowering.top_of_levels(score, candidates.sizes, cfg.nms_pre, 0.0)
        else:
            score, prior = lowering.present(score, 0)
        stretch = take_rows(joined(sizes, 2), prior)
        anchors = corners(
            head.anchor_coder,
            candidates.priors(prior),
            torch.cat([torch.zeros_like(stretch), stretch], dim=-1),
            min_ratio=1e-6,
        )
        boxes = decode(head.bbox_coder, anchors, take_rows(joined(deltas, 4), prior), image_shape)
        score = large_enough(boxes, score, cfg)
        level = candidates.levels(prior)
        # Each level is suppressed by itself, with boxes as they are.
        within = Suppression(suppression(cfg, RPN).iou_threshold)
        across = cfg.get("nms_across_levels", False)
        count = -1 if across else cfg.max_per_img
        score, level, index = lowering.nms_pairs(
            boxes, score, level, len(logits), within, count, cfg.nms_post, min_slots
        )
        boxes = take_rows(boxes, index)
        if not across:
            return boxes, score, level
        all_levels = Suppression(within.iou_threshold, sliced=True)
        score, _, index = lowering.nms_pairs(
            boxes,
            score,
            torch.zeros_like(level),
            1,
            all_levels,
            cfg.max_per_img,
            min_slots=min_slots,
        )
        level = torch.where(score > 0, torch.gather(level, 1, index), -1)
        return take_rows(boxes, index), score, level

    def raw_reference(
        self, maps: tuple[Tensor, ...], metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Of all places, also of those that mmdet's masks leave out and it takes no box of."""
        with unmasked(self.head):
            return self.named(self.head(maps))

    def replaced(self, raw: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return outputs_replaced(self.head, tuple(by_kind(raw).values()))

    def targets(self) -> list[list[Target]]:
        # Half of the places are looked at.
        level = logit(self.head.loc_filter_thr)
        first = [Target(self.head.conv_loc, 1.0, 0.5, level), Target(self.head.conv_shape, 0.3)]
        scores = objectness_target(self.head, self.head.conv_cls)
        return [first, [scores, Target(self.head.conv_reg, 0.3)]]
