"""ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_onnxdet.backends.base import Arrays, Backend, BackendError, Session

if TYPE_CHECKING:
    from pytest_onnxdet.export.artifacts import Artifact

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeSession(Session):
    """An ``InferenceSession`` that runs on the device it was asked for, or not at all."""

    def __init__(self, artifact: Artifact, device: str, threads: int | None) -> None:
        super().__init__(artifact)
        import onnxruntime as ort

        self._device = device
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        providers: list[Any] = [PROVIDERS[device]]
        if device == "cuda":
            # TF32 rounds what a convolution multiplies to 10 bits: no longer PyTorch's fp32.
            providers = [(PROVIDERS[device], {"use_tf32": "0"}), PROVIDERS["cpu"]]
        try:
            self._session = ort.InferenceSession(str(artifact.path), options, providers=providers)
        except Exception as error:
            raise BackendError(f"ONNX Runtime refuses {artifact.path.name}: {error}") from error
        # ONNX Runtime goes on with the CPU when the CUDA provider does not load.
        got = self._session.get_providers()
        if PROVIDERS[device] not in got:
            raise BackendError(
                f"ONNX Runtime was asked for {PROVIDERS[device]} and runs on {', '.join(got)}: "
                "the CUDA or cuDNN libraries did not load; check the driver and the CUDA version "
                "that onnxruntime-gpu was built for"
            )

    @property
    def device(self) -> str:
        return self._device

    def _run(self, feeds: Arrays) -> Arrays:
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed in {self.artifact.path.name}: {error}"
            ) from error


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime; CUDA where ``onnxruntime-gpu`` offers it, else the CPU.

    Args:
        device: ``cpu`` or ``cuda``; None: CUDA when this build of ONNX Runtime has it.
    """

    name: ClassVar[str] = "onnxruntime"
    lowering: ClassVar[str] = "onnxruntime"

    def __init__(self, device: str | None = None) -> None:
        self._device = device

    def missing(self) -> str | None:
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install onnxruntime"
        return None

    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        import onnxruntime as ort

        device = self._device
        if device is None:
            device = "cuda" if PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"
        return OnnxRuntimeSession(artifact, device, threads)


class TensorRTLoweringBackend(OnnxRuntimeBackend):
    """The ``tensorrt`` lowering on ONNX Runtime's CPU: proves that its graphs are exact.

    They are plain ONNX, and compare all pairs of candidates where ``onnxruntime``'s own lowering
    looks at few: too slow for every run, so this one runs for those who name it.
    """

    name: ClassVar[str] = "onnxruntime[tensorrt-lowering]"
    lowering: ClassVar[str] = "tensorrt"
    default: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__("cpu")
