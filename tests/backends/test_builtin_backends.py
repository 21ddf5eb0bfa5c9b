"""The suite for backends on the built-in ones, and on a GPU where there is one."""

from __future__ import annotations

import onnxruntime
import pytest
from fake_tensorrt import Fake

from pytest_onnxdet import Backend, Profile, TensorRTBackend
from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend, TensorRTLoweringBackend
from pytest_onnxdet.backends.tensorrt.device import find_gpu
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
