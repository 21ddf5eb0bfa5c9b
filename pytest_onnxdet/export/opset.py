"""The least opset at which a detector's graph is exact, known before it is traced."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Need(NamedTuple):
    """The least opset, and what needs it."""

    opset: int
    reason: str


def least_opset(detector: nn.Module, lowering: str) -> Need:
    """What the detector's layers need in the ONNX Runtime lowering; 11 for the other ones.

    Another lowering's needs show when it is traced.
    """
    if lowering == "onnxruntime":
        for module in detector.modules():
            kind = type(module).__name__
            if kind == "RoIAlign" and getattr(module, "aligned", False):
                return Need(16, "RoiAlign samples at pixel centres only from opset 16 on")
            if kind in ("SimpleRoIAlign", "MaskPointHead"):
                return Need(16, "GridSample exists only from opset 16 on")
    return Need(11, "")
