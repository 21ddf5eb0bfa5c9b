"""mmcv 1.x imports torchvision, which may have to be stood in for before a test imports mmcv."""

from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()
