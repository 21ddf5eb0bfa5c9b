"""mmcv 1.x imports torchvision, which may have to be stood in for before a test imports mmcv."""

import pytest
from fake_gpu import Host
from fake_tensorrt import Fake

from pytest_onnxdet.backends.tensorrt import backend as tensorrt
from pytest_onnxdet.backends.tensorrt import library
from pytest_onnxdet.backends.tensorrt.device import Gpu
from pytest_onnxdet.backends.tensorrt.library import Library
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """tensorrt 10 and a GPU, both made up."""
    module = Fake(Host())
    monkeypatch.setattr(tensorrt, "gpu_here", lambda: Gpu("Fake 1", (8, 6)))
    monkeypatch.setattr(tensorrt, "find_library", lambda gpu: Library("tensorrt", "10.3"))
    monkeypatch.setattr(tensorrt, "open_device", lambda: module.host)
    monkeypatch.setattr(library, "import_module", lambda name: module)
    return module
