"""DETR (arXiv:2005.12872), batched over images of different sizes.

The stock export scales boxes by the padded size and attends to padding; here the key padding mask,
the positional encoding and the box scale all come from ``image_shape``, as they do in PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.family import Family, Ties
from pytest_onnxdet.families.ops.boxes import clip, quotient, take_rows
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.settings import TEST_CFG, require_cut
from pytest_onnxdet.models.calibrate import Calibration, Target


class DetrDetector(DeployModel):
    """mmdet's ``DETRHead`` over a backbone of one feature level."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        scores, boxes = self._heads(input, image_shape)
        return {"cls_score": scores, "bbox_pred": boxes}

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, limits = self.detector.bbox_head, self.limits
        logits, boxes = self._heads(input, image_shape)
        limit = limits.max_per_img
        if limit is None:
            limit = head.test_cfg.get("max_per_img", head.num_query)
        limit = self.lowering.bounded(limit, "max_per_img")
        if head.loss_cls.use_sigmoid:
            scores, pair = torch.topk(sigmoid(logits).flatten(1), limit, dim=1)
            query = quotient(pair, head.num_classes)
            labels = pair - query * head.num_classes
        else:
            best, label = logits.softmax(dim=-1)[..., :-1].max(dim=-1)
            scores, query = torch.topk(best, limit, dim=1)
            labels = torch.gather(label, 1, query)
        boxes = take_rows(boxes, query)
        centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
        corners = torch.cat([centre - half, centre + half], dim=-1)
        scale = image_shape.to(corners.dtype).flip(1).repeat(1, 2)[:, None]
        corners = clip(corners * scale, image_shape)
        return torch.cat([corners, scores[..., None]], dim=-1), labels

    def _heads(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N, Q, C + 1) and boxes (N, Q, 4), centre and size relative to the image."""
        head = self.detector.bbox_head
        level = head.input_proj(features(self.detector, input)[-1])
        mask = padding_mask(image_shape, (input.shape[2], input.shape[3]), level)
        decoded, _ = head.transformer(
            level, mask, head.query_embedding.weight, head.positional_encoding(mask)
        )
        last = decoded[-1]
        return head.fc_cls(last), head.fc_reg(head.activate(head.reg_ffn(last))).sigmoid()


def padding_mask(image_shape: Tensor, size: tuple[int, int], level: Tensor) -> Tensor:
    """Which cells of a feature map lie in padding.

    mmdet draws the mask at the input's size and samples it with ``interpolate(mode="nearest")``,
    whose source pixel is floor(cell * (input size / feature size)), the ratio in float32.

    Args:
        image_shape: int64 (N, 2), height and width before padding.
        size: height and width of the input.
        level: (N, C, h, w), the feature map.

    Returns:
        bool (N, h, w), true in padding.
    """
    outside = []
    for axis in (0, 1):
        count = level.shape[2 + axis]
        cell = torch.arange(count, device=level.device).to(torch.float32)
        ratio = torch.ones((), device=level.device) * size[axis] / count
        pixel = torch.floor(cell * ratio).to(torch.int64)
        outside.append(pixel[None] >= image_shape[:, axis, None])
    return outside[0][:, :, None] | outside[1][:, None, :]


@dataclass(frozen=True, eq=False)
class DetrFamily(Family):
    """Families of a head that :class:`DetrDetector` lowers."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        head = self.head(detector)
        cfg = head.test_cfg or {}
        none = "mmdet's top-k finds nothing, or fails"
        require_cut(cfg, TEST_CFG, "max_per_img", default=head.num_query, otherwise=none)
        limit = self.candidates(head)
        if cfg.get("max_per_img", head.num_query) > limit:
            raise UnsupportedPart(
                f"{TEST_CFG}.max_per_img is {cfg['max_per_img']} and the head has {limit} "
                f"candidates ({self.queries(head)} queries): mmdet fails there, too; lower it"
            )
        return self.deploy(detector, lowering, limits)

    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        """The deploy model of a detector whose settings were looked at; see :meth:`lower`."""
        return DetrDetector(detector, lowering, limits)

    def queries(self, head: Any) -> int:
        """How many queries the head's decoder gives for an image."""
        return int(head.num_query)

    def candidates(self, head: Any) -> int:
        """How many detections an image may have: queries, or pairs of them and of classes."""
        return self.queries(head) * int(head.num_classes if head.loss_cls.use_sigmoid else 1)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Logits and boxes of the last decoder layer."""
        model: Any = detector
        logits, boxes = model.bbox_head(model.extract_feat(images), metas)
        return {"cls_score": logits[-1][-1], "bbox_pred": boxes[-1][-1]}

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        return [[raw["cls_score"][None]], [raw["bbox_pred"][None]]]

    def final_cut(self, detector: nn.Module) -> tuple[int, int] | None:
        """Of all queries; of all pairs of query and class where scores are independent."""
        head = self.head(detector)
        return head.test_cfg.get("max_per_img", head.num_query), self.candidates(head)

    def calibration(self, detector: nn.Module) -> Calibration:
        head = self.head(detector)
        return Calibration([[Target(head.fc_cls, std=2.0), Target(head.fc_reg)]])


DETR = DetrFamily(
    name="detr",
    heads=("mmdet.models.DETRHead",),
    ties=Ties(order=True, suppression=False),
    uncapped="DETR's detections are its queries, cut at test_cfg.max_per_img",
)
