"""TOOD (arXiv:2108.07755): boxes, and probabilities, that the head itself aligns.

mmdet decodes boxes within the head, samples them at places that it predicts, and multiplies them
by the stride afterwards; it clips nothing. Its forward lays out a batch's anchors in a Python loop
over images, so the head's layers are called one by one here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.dense import Chosen, DenseDetector, DenseFamily, Maps
from pytest_onnxdet.families.family import HEAD_METHODS, Part
from pytest_onnxdet.families.ops.boxes import corners, require_coder
from pytest_onnxdet.families.ops.lowering import sigmoid

_HEAD = "mmdet.models.dense_heads.tood_head"


class ToodDetector(DenseDetector):
    """mmdet's ``TOODHead`` over any backbone and neck."""

    def maps(self, levels: tuple[Tensor, ...]) -> Maps:
        pairs = [self._level(number, level) for number, level in enumerate(levels)]
        return [[scores for scores, _ in pairs], [boxes for _, boxes in pairs]]

    def _level(self, number: int, level: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, C, H, W), and corners in cells (N, 4, H, W)."""
        head = self.detector.bbox_head
        steps = []
        for layer in head.inter_convs:
            level = layer(level)
            steps.append(level)
        both = torch.cat(steps, dim=1)
        mean = functional.adaptive_avg_pool2d(both, (1, 1))
        logits = head.tood_cls(head.cls_decomp(both, mean))
        scores = (sigmoid(logits) * sigmoid(head.cls_prob_module(both))).sqrt()
        boxes = self._boxes(number, head.tood_reg(head.reg_decomp(both, mean)))
        sampled = head.deform_sampling(boxes.contiguous(), head.reg_offset_module(both))
        inverted = (sampled[:, :2] > sampled[:, 2:]).to(boxes.dtype).sum(dim=1, keepdim=True) > 0
        return scores, torch.where(inverted, boxes, sampled)

    def _boxes(self, number: int, rows: Tensor) -> Tensor:
        """A level's corners in cells (N, 4, H, W) of its box layer's output of that size."""
        head = self.detector.bbox_head
        stride = head.prior_generator.strides[number][0]
        size = (rows.shape[2], rows.shape[3])
        if self.lowering.fixed_shape:
            size = (int(size[0]), int(size[1]))
        anchors = head.prior_generator.single_level_grid_priors(size, number, device=rows.device)
        if head.anchor_type == "anchor_free":
            distances = head.scales[number](rows.exp())
            centre = (anchors[:, 2:] + anchors[:, :2]) / 2 / stride
            centre = centre.t().reshape(1, 2, *size)
            return torch.cat([centre - distances[:, :2], centre + distances[:, 2:]], dim=1)
        deltas = head.scales[number](rows).flatten(2).transpose(1, 2)
        boxes = corners(head.bbox_coder, anchors[None], deltas)
        return boxes.transpose(1, 2).unflatten(2, size) / stride

    @staticmethod
    def probabilities(head: Any, rows: Tensor) -> Tensor:
        """The head gives probabilities already."""
        return rows

    def decoded(self, chosen: Chosen) -> tuple[Tensor, None]:
        return chosen.rows(1, 4) * chosen.strides(), None

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        if head.num_base_priors != 1:
            raise UnsupportedPart(
                f"{type(head).__name__} with {head.num_base_priors} anchors of a place has no "
                "lowering: mmdet's takes one"
            )
        if head.anchor_type == "anchor_based":
            require_coder(head.bbox_coder)


TOOD = DenseFamily(
    name="tood",
    heads=("mmdet.models.TOODHead",),
    head_methods=(*HEAD_METHODS, "anchor_center", "deform_sampling"),
    parts=tuple(
        Part(f"bbox_head.{name}", (f"{_HEAD}.TaskDecomposition",))
        for name in ("cls_decomp", "reg_decomp")
    ),
    model=ToodDetector,
    clips=False,
)
