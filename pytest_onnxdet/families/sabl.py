"""SABL RetinaNet (arXiv:1912.04260): boxes of buckets, which also factor their scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pytest_onnxdet.families.dense import Chosen, DenseDetector, DenseFamily, Maps
from pytest_onnxdet.families.family import DECODING_METHODS
from pytest_onnxdet.families.ops.buckets import decode_buckets, require_buckets


class SablDetector(DenseDetector):
    """mmdet's ``SABLRetinaHead``, whose forward gives two box predictions of each level."""

    kinds = ("cls_score", "bbox_cls_pred", "bbox_reg_pred")
    prior_generator = "square_anchor_generator"

    @staticmethod
    def arranged(outputs: Any) -> Maps:
        scores, boxes = outputs
        return [scores, [pair[0] for pair in boxes], [pair[1] for pair in boxes]]

    def decoded(self, chosen: Chosen) -> tuple[Tensor, Tensor]:
        head = self.detector.bbox_head
        width = 4 * head.side_num
        return decode_buckets(
            head.bbox_coder,
            chosen.priors(),
            chosen.rows(1, width),
            chosen.rows(2, width),
            chosen.image_shape,
        )

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        require_buckets(head.bbox_coder)


class SablFamily(DenseFamily):
    """Families of a head that :class:`SablDetector` lowers."""

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        scores, buckets, offsets = super().head_outputs(raw)
        return [scores, list(zip(buckets, offsets, strict=True))]


SABL = SablFamily(
    name="sabl",
    heads=("mmdet.models.SABLRetinaHead",),
    head_methods=(*DECODING_METHODS, "get_anchors"),
    model=SablDetector,
)
