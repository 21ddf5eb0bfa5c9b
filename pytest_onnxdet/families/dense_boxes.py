"""GFL, FoveaBox, RepPoints: heads that score as all dense heads do, and decode boxes otherwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.dense import Chosen, DenseDetector, DenseFamily
from pytest_onnxdet.families.family import DECODING_METHODS, Part
from pytest_onnxdet.families.ops.boxes import clip, decode, require_coder


def require_sigmoid(head: Any) -> None:
    """Refuses a head of softmax where mmdet takes sigmoids of its logits all the same.

    Raises:
        UnsupportedPart: it names the head.
    """
    if not head.use_sigmoid_cls:
        raise UnsupportedPart(
            f"{type(head).__name__} is trained with a softmax (loss_cls.use_sigmoid=False), and "
            "mmdet takes sigmoids of its logits when it detects, the background's among them: "
            "that has no lowering"
        )


class GflDetector(DenseDetector):
    """Distances as means of distributions (Generalized Focal Loss, arXiv:2006.04388, eq. 4)."""

    def decoded(self, chosen: Chosen) -> tuple[Tensor, None]:
        head = self.detector.bbox_head
        bins = head.reg_max + 1
        rows = chosen.rows(1, 4 * bins).unflatten(2, (4, bins)).softmax(dim=-1)
        distances = torch.matmul(rows, head.integral.project) * chosen.strides()
        priors = chosen.priors()
        centre = (priors[..., 2:] + priors[..., :2]) / 2
        return decode(head.bbox_coder, centre, distances, chosen.image_shape), None

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        require_sigmoid(head)
        require_coder(head.bbox_coder)


class FoveaDetector(DenseDetector):
    """Logarithms of distances in units of a level's base length (FoveaBox, arXiv:1904.03797)."""

    def decoded(self, chosen: Chosen) -> tuple[Tensor, None]:
        head, points = self.detector.bbox_head, chosen.priors()
        lengths = torch.tensor(head.base_edge_list, dtype=points.dtype, device=points.device)
        base = lengths[chosen.candidates.levels(chosen.pair)][..., None]
        distances = base * chosen.rows(1, 4).exp()
        boxes = torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)
        return clip(boxes, chosen.image_shape - 1), None

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        require_sigmoid(head)


class RepPointsDetector(DenseDetector):
    """Corners of point sets, in cells from their point (RepPoints, arXiv:1904.11490)."""

    def decoded(self, chosen: Chosen) -> tuple[Tensor, None]:
        corners = chosen.rows(1, 4) * chosen.strides()
        points = chosen.priors()
        return clip(corners + torch.cat([points, points], dim=-1), chosen.image_shape), None

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        """Its boxes come of no coder."""


GFL = DenseFamily(
    name="gfl",
    heads=("mmdet.models.GFLHead",),
    head_methods=(*DECODING_METHODS, "anchor_center"),
    parts=(Part("bbox_head.integral", ("mmdet.models.dense_heads.gfl_head.Integral",)),),
    model=GflDetector,
)
FOVEA = DenseFamily(
    name="fovea",
    heads=("mmdet.models.FoveaHead",),
    head_methods=(*DECODING_METHODS, "_bbox_decode"),
    model=FoveaDetector,
)
REPPOINTS = DenseFamily(
    name="reppoints",
    heads=("mmdet.models.RepPointsHead",),
    head_methods=(*DECODING_METHODS, "_bbox_decode"),
    model=RepPointsDetector,
)
