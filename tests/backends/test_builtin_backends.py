"""The suite for backends on the built-in ones, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_tensorrt import Fake

from pytest_onnxdet import Backend, Profile, TensorRTBackend
from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend, TensorRTLoweringBackend
from pytest_onnxdet.backends.tensorrt.device import Buffer, find_gpu
from pytest_onnxdet.testing import BackendTests

NARROW = Profile((1, 32, 32), (2, 32, 32), (2, 32, 32))


class TestOnnxRuntime(BackendTests):
    @pytest.fixture
    def backend(self) -> Backend:
        return OnnxRuntimeBackend("cpu")


class TestTensorRTLowering(BackendTests):
    @pytest.fixture
    def backend(self) -> Backend:
        return TensorRTLoweringBackend()


class TestFakeTensorRT(BackendTests):
    """The session's own code, on a stand-in for the library and the GPU."""

    @pytest.fixture
    def backend(self, fake: Fake) -> Backend:
        fake.computes = True
        return TensorRTBackend()

    @pytest.fixture
    def device(self) -> str:
        return "cuda"

    @pytest.fixture
    def narrow_backend(self, fake: Fake) -> Backend:
        fake.computes = True
        return TensorRTBackend(NARROW)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_an_input_that_does_not_reach_the_device_is_noticed(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    """As if the session forgot to copy ``input``, or ``image_shape``."""
    fake.computes, upload = True, fake.host.upload

    def forgets(array: Any, to: Buffer) -> None:
        if array.dtype != kind:
            upload(array, to)

    monkeypatch.setattr(fake.host, "upload", forgets)
    with pytest.raises(AssertionError):
        BackendTests().test_image_shape_matters(TensorRTBackend(), tmp_path)


class TestOnnxRuntimeOnAGpu(BackendTests):
    @pytest.fixture
    def backend(self) -> Backend:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime is built without CUDA: pip install onnxruntime-gpu")
        if isinstance(gpu := find_gpu(), str):
            pytest.skip(gpu)
        return OnnxRuntimeBackend("cuda")

    @pytest.fixture
    def device(self) -> str:
        return "cuda"


class TestTensorRTOnAGpu(BackendTests):
    @pytest.fixture
    def backend(self) -> Backend:
        backend = TensorRTBackend()
        if why := backend.missing() or backend.unrunnable():
            pytest.skip(why)
        return backend

    @pytest.fixture
    def device(self) -> str:
        return "cuda"

    @pytest.fixture
    def narrow_backend(self, backend: Backend) -> Backend:
        return TensorRTBackend(NARROW)
