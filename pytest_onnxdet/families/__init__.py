"""Deploy models: each detector family, rewritten where PyTorch's form does not trace exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_onnxdet.families.classes import UnsupportedPart

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.families.base import DeployModel, Limits
    from pytest_onnxdet.families.registry import FamilyRegistry

__all__ = ["UnsupportedPart", "lower"]


def lower(
    detector: nn.Module,
    lowering: str = "onnxruntime",
    limits: Limits | None = None,
    fixed_shape: bool = False,
    families: FamilyRegistry | None = None,
) -> DeployModel:
    """The deploy model of a detector. The detector is shared, not copied, and not changed.

    Args:
        detector: one of mmdet's detectors, in eval mode.
        lowering: ``onnxruntime`` or ``tensorrt``.
        limits: caps on candidates and detections; None keeps PyTorch's results exactly.
        fixed_shape: whether the input's shape may be used as numbers, as static graphs bake it.
        families: where the detector's family is looked up; None: the built-in ones.

    Raises:
        UnsupportedPart: the detector, or a part of it, has no lowering; the message names it.
    """
    from pytest_onnxdet.families.base import Limits
    from pytest_onnxdet.families.ops.lowering import OnnxRuntimeLowering
    from pytest_onnxdet.families.ops.lowering_tensorrt import TensorRTLowering
    from pytest_onnxdet.families.registry import builtin_families

    lowerings = {kind.name: kind for kind in (OnnxRuntimeLowering, TensorRTLowering)}
    if lowering not in lowerings:
        raise UnsupportedPart(f"no lowering {lowering!r}; there are {', '.join(lowerings)}")
    family = (families or builtin_families()).of(detector)
    return family.lower(detector, lowerings[lowering](fixed_shape), limits or Limits()).eval()
