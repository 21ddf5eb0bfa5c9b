"""Runtimes for exported graphs. Importing this loads none of them."""

from __future__ import annotations

from pytest_onnxdet.backends.base import Backend, BackendError, Session
from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend, TensorRTLoweringBackend
from pytest_onnxdet.backends.tensorrt.backend import TensorRTBackend

__all__ = ["Backend", "BackendError", "Session", "builtin_backends"]


def builtin_backends() -> dict[str, Backend]:
    """The backends of this package by name, installed or not."""
    every = (OnnxRuntimeBackend(), TensorRTBackend(), TensorRTLoweringBackend())
    return {backend.name: backend for backend in every}
