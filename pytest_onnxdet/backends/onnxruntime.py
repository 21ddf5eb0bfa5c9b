"""ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_onnxdet.backends.base import Arrays, Backend, BackendError, Bound, Session
from pytest_onnxdet.backends.tensorrt.device import Gpu, gpu_here

if TYPE_CHECKING:
    from pytest_onnxdet.core.store import Artifact

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


#: What is said where a TopK asks for more than there is.
_TOO_FEW = re.compile(r"k argument \[(\d+)\] should not be greater than .*\[(\d+)\]")


class OnnxRuntimeSession(Session):
    """An ``InferenceSession`` that runs on the device it was asked for, or not at all."""

    def __init__(self, artifact: Artifact, device: str, threads: int | None) -> None:
        super().__init__(artifact)
        import onnxruntime as ort

        self._device = device
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised, and not printed, too
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
        self._names = [output.name for output in self._session.get_outputs()]
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
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:
            raise self._failed(error) from error

    def _bind(self, feeds: Arrays) -> Bound:
        kind = OnnxRuntimeBound if self._device == "cpu" else DeviceBound
        return kind(self, feeds)

    def _failed(self, error: Exception) -> BackendError:
        failed = f"ONNX Runtime failed in {self.artifact.path.name}: "
        few = _TOO_FEW.search(str(error))
        if few is None:
            return BackendError(f"{failed}{error}")
        wanted, there = map(int, few.groups())
        return BackendError(
            f"{failed}an input is too small: the graph takes the best {wanted} of {there} places, "
            "where PyTorch fails, too: give images whose sides are at least "
            f"{math.sqrt(wanted / there):.2f} times as long, or export with a smaller top-k "
            "(corner_topk, topk in test_cfg)"
        )


class OnnxRuntimeBound(Bound):
    """Inputs and outputs as ``OrtValue`` on the session's device.

    The first run sizes the outputs, and later ones write into the same memory: ONNX Runtime refuses
    a run that finds another number of things. None does, as what is bound are one set of inputs.
    """

    def __init__(self, session: OnnxRuntimeSession, feeds: Arrays) -> None:
        super().__init__(session, feeds)
        import onnxruntime as ort

        self._owner, self._inference = session, session._session
        self._binding = session._session.io_binding()
        self._ran = False
        try:
            # On the CPU a value is a view of its array, which the base class keeps alive.
            self._values = {
                name: ort.OrtValue.ortvalue_from_numpy(array, session.device, 0)
                for name, array in feeds.items()
            }
            for name, value in self._values.items():
                self._binding.bind_ortvalue_input(name, value)
            for name in session._names:
                self._binding.bind_output(name, session.device)
        except Exception as error:
            raise session._failed(error) from error

    def _run(self) -> float | None:
        try:
            self._inference.run_with_iobinding(self._binding)
        except Exception as error:
            raise self._owner._failed(error) from error
        self._ran = True
        return None

    def fetch(self) -> Arrays:
        # Before the first run there are no outputs, and ONNX Runtime 1.32 ends the process.
        self.require_ran(self._ran)
        outputs = self._binding.copy_outputs_to_cpu()
        return dict(zip(self._owner._names, outputs, strict=True))


class DeviceBound(OnnxRuntimeBound):
    """On a GPU. ONNX Runtime shows no events: the host's clock is taken after its stream."""

    excludes_copies: ClassVar[bool] = True

    def _run(self) -> float | None:
        super()._run()
        self._binding.synchronize_outputs()
        return None


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime; CUDA where ``onnxruntime-gpu`` offers it and there is a GPU, else the CPU.

    Args:
        device: ``cpu`` or ``cuda``; None: CUDA when this build of ONNX Runtime has it, and the
            driver a GPU.
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
            # The providers are those that were compiled in, whether there is a GPU or not.
            compiled = PROVIDERS["cuda"] in ort.get_available_providers()
            device = "cuda" if compiled and isinstance(gpu_here(), Gpu) else "cpu"
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
