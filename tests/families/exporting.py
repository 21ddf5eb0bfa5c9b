"""A module of a test as an ONNX Runtime session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from pytest_onnxdet.families.ops.custom import translations

OPSET = 17


def exported(
    module: nn.Module, example: tuple[Tensor, ...], path: Path, free: dict[int, dict[int, str]]
) -> ort.InferenceSession:
    """The module as an ONNX Runtime session with inputs ``x0``, ``x1``, …"""
    names = [f"x{i}" for i in range(len(example))]
    with translations(OPSET):
        torch.onnx.export(
            module.eval(),
            example,
            str(path / "module.onnx"),
            input_names=names,
            dynamic_axes={names[i]: axes for i, axes in free.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    return ort.InferenceSession(str(path / "module.onnx"))


def run(session: ort.InferenceSession, *arrays: Tensor) -> list[np.ndarray]:
    return session.run(None, {f"x{i}": a.numpy() for i, a in enumerate(arrays)})
