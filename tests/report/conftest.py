from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_onnxdet.report import Record


def make(
    model: str = "retinanet",
    check: str = "parity",
    outcome: str = "passed",
    reason: str = "",
    metrics: dict[str, Any] | None = None,
    **axes: Any,
) -> Record:
    axes = {
        "profile": "mini",
        "backend": "onnxruntime",
        "device": "cpu",
        "shape": "dynamic",
        "batch": 1,
        "precision": "fp32",
        **axes,
    }
    case = f"{model}-{axes['backend']}-{axes['shape']}-b{axes['batch']}"
    return Record(
        id=case,
        model=model,
        check=check,
        outcome=outcome,
        reason=reason,
        metrics=metrics or {},
        **axes,
    )


@pytest.fixture
def record() -> Callable[..., Record]:
    """Makes a record; every axis has a default."""
    return make


def accuracy(bbox: float, delta: float = 0.0, segm: float | None = None) -> dict[str, float]:
    """The metrics of an accuracy check whose PyTorch AP is ``bbox - delta``."""
    figures = {"bbox_mAP_torch": bbox - delta, "bbox_mAP": bbox, "bbox_mAP_delta": delta}
    if segm is not None:
        figures |= {"segm_mAP_torch": segm, "segm_mAP": segm, "segm_mAP_delta": 0.0}
    return figures


@pytest.fixture
def ap() -> Callable[..., dict[str, float]]:
    return accuracy


@pytest.fixture
def timing() -> Callable[..., dict[str, float]]:
    """The metrics of a latency check."""

    def made(ms: float, torch_ms: float, iqr: float = 0.1, rounds: int = 100) -> dict[str, float]:
        return {
            "ms": ms,
            "torch_ms": torch_ms,
            "speedup": torch_ms / ms,
            "min": ms * 0.99,
            "median": ms,
            "iqr": iqr,
            "rounds": rounds,
        }

    return made
