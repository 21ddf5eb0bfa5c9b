"""Deploy models: each detector family, rewritten where PyTorch's form does not trace exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_onnxdet.families.ops.boxes import UnsupportedPart

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.families.base import DeployModel, Limits

__all__ = ["UnsupportedPart", "lower"]


def lower(
    detector: nn.Module,
    lowering: str = "onnxruntime",
    limits: Limits | None = None,
    fixed_shape: bool = False,
) -> DeployModel:
    """The deploy model of a detector. The detector is shared, not copied, and not changed.

    Args:
        detector: one of mmdet's detectors, in eval mode.
        lowering: ``onnxruntime`` or ``tensorrt``.
        limits: caps on candidates and detections; None keeps PyTorch's results exactly.
        fixed_shape: whether the input's shape may be used as numbers, as static graphs bake it.

    Raises:
        UnsupportedPart: the detector, or a part of it, has no lowering; the message names it.
    """
    from pytest_onnxdet.families.base import Limits
    from pytest_onnxdet.families.ops.lowering import OnnxRuntimeLowering
    from pytest_onnxdet.families.ops.lowering_tensorrt import TensorRTLowering

    lowerings = {kind.name: kind for kind in (OnnxRuntimeLowering, TensorRTLowering)}
    if lowering not in lowerings:
        raise UnsupportedPart(f"no lowering {lowering!r}; there are {', '.join(lowerings)}")
    pieces = lowerings[lowering](fixed_shape)
    return _family(detector)(detector, pieces, limits or Limits()).eval()


def _family(detector: nn.Module) -> type[DeployModel]:
    """The deploy model's class, by the head that decides how the detector decodes."""
    from pytest_onnxdet.families.cornernet import CornerDetector
    from pytest_onnxdet.families.dense import DenseDetector
    from pytest_onnxdet.families.detr import DetrDetector
    from pytest_onnxdet.families.point_rend import PointRendDetector
    from pytest_onnxdet.families.two_stage import MaskDetector, TwoStageDetector
    from pytest_onnxdet.families.yolo import YoloDetector

    families: dict[str, type[DeployModel]] = {
        "RetinaHead": DenseDetector,
        "FSAFHead": DenseDetector,
        "SSDHead": DenseDetector,
        "FCOSHead": DenseDetector,
        "YOLOV3Head": YoloDetector,
        "DETRHead": DetrDetector,
        "CornerHead": CornerDetector,
        "StandardRoIHead": TwoStageDetector,
        "CascadeRoIHead": TwoStageDetector,
        "PointRendRoIHead": PointRendDetector,
    }
    head = getattr(detector, "roi_head", None) or getattr(detector, "bbox_head", None)
    family = families.get(type(head).__name__)
    if family is None:
        raise UnsupportedPart(
            f"{type(detector).__name__} with {type(head).__name__} has no lowering; "
            f"these heads have: {', '.join(families)}"
        )
    if family is TwoStageDetector and head is not None and head.with_mask:
        return MaskDetector
    return family
