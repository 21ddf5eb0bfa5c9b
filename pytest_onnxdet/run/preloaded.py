"""What takes long to import and every detector needs, for :mod:`pytest_onnxdet.run.apart`."""

# ruff: noqa: F401, E402
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()

import mmdet.datasets
import mmdet.models
import onnxruntime
import scipy.optimize
import torch.onnx
