"""What TensorRT's Python API leaves to its caller: device memory, a stream, events.

Through torch where it is built for CUDA, else through pycuda; callers see neither. Whether there
is a GPU is asked of NVML or the driver, because pytest asks while it collects, when neither is
imported. This module has been run with stand-ins only, see ``docs/tensorrt.md``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.tensorrt import driver
from pytest_onnxdet.core import nvml

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Seconds that the driver may take to answer; some GPUs need several to wake up.
ASK_S = 60


@dataclass(frozen=True)
class Gpu:
    """The first GPU, as the driver describes it.

    Attributes:
        name: ``NVIDIA A10``.
        capability: its compute capability, (8, 6).
    """

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]})"


def find_gpu() -> Gpu | str:
    """The first GPU, or why there is none.

    Nothing of CUDA is started in this process, which may fork workers that use it: NVML is asked
    where nvidia-ml-py is installed and knows which GPU CUDA takes first, else another process.
    """
    if driver.load() is None:
        return "no GPU: NVIDIA's driver is not installed"
    gpu = nvml.ask(_only_gpu) if "CUDA_VISIBLE_DEVICES" not in os.environ else None
    return gpu or _by_process()


@cache
def gpu_here() -> Gpu | str:
    """As :func:`find_gpu`, asked once in a process."""
    return find_gpu()


def _only_gpu(pynvml: Any) -> Gpu | None:
    """What NVML says of the only GPU; None where it cannot say which one is CUDA's first.

    NVML numbers GPUs by their place on the bus and CUDA by their speed, and a GPU that is divided
    is several to CUDA.
    """
    if pynvml.nvmlDeviceGetCount() != 1:
        return None
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    if _divided(pynvml, device):
        return None
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    return Gpu(nvml.text(pynvml.nvmlDeviceGetName(device)), (int(major), int(minor)))


def _divided(pynvml: Any, device: Any) -> bool:
    """Whether a GPU is divided into instances (MIG)."""
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(device)[0])
    except pynvml.NVMLError:  # it cannot be
        return False


def _by_process() -> Gpu | str:
    """What the driver says to another process."""
    command = [sys.executable, "-I", driver.__file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S)
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"no GPU: the driver does not answer ({type(error).__name__})"
    return answer if isinstance(answer, str) else Gpu(answer[0], (answer[1], answer[2]))


def missing_binding() -> str | None:
    """None when torch for CUDA or pycuda is there to reach device memory, else what to install."""
    if find_spec("pycuda") is not None or _torch_has_cuda():
        return None
    return "neither pycuda nor a torch for CUDA is installed: pip install pycuda"


def _torch_has_cuda() -> bool:
    """Judged by the distribution's version, as importing torch takes seconds."""
    try:
        return "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False


class Buffer:
    """Memory on the device. It is freed when nothing refers to it any more.

    Attributes:
        address: of the first byte.
        size: in bytes.
        owner: what keeps the memory alive.
    """

    def __init__(self, address: int, size: int, owner: Any) -> None:
        self.address, self.size, self.owner = address, size, owner


class Device(ABC):
    """The first GPU, with one stream that everything here is ordered on.

    Attributes:
        stream: the stream's handle, as TensorRT's ``execute_async_v3`` takes it.
    """

    stream: int

    @abstractmethod
    def empty(self, size: int) -> Buffer:
        """Memory of ``size`` bytes, at least one; raises BackendError when there is not enough."""

    @abstractmethod
    def upload(self, array: NDArray[Any], to: Buffer) -> None:
        """Copies a contiguous array to the device."""

    @abstractmethod
    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copies from the device into a contiguous array. The caller synchronises."""

    @abstractmethod
    def synchronize(self) -> None:
        """Waits for everything that was put on the stream."""

    @abstractmethod
    def event(self) -> Any:
        """A mark at this point of the stream."""

    @abstractmethod
    def elapsed(self, start: Any, end: Any) -> float:
        """Milliseconds of device time between two marks, which have been passed."""


class TorchDevice(Device):
    """Through torch, whose caching allocator makes repeated sizes cheap."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._stream = torch.cuda.Stream()
        self.stream = int(self._stream.cuda_stream)

    def empty(self, size: int) -> Buffer:
        torch = self._torch
        try:
            # On our stream: the allocator reuses a freed block only behind that stream's work.
            with torch.cuda.stream(self._stream):
                memory = torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError as error:
            raise out_of_memory(size) from error
        return Buffer(int(memory.data_ptr()), size, memory)

    def upload(self, array: NDArray[Any], to: Buffer) -> None:
        if array.nbytes:
            with self._torch.cuda.stream(self._stream):
                to.owner[: array.nbytes].copy_(self._bytes(array))

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        if array.nbytes:
            with self._torch.cuda.stream(self._stream):
                self._bytes(array).copy_(buffer.owner[: array.nbytes])

    def _bytes(self, array: NDArray[Any]) -> Any:
        return self._torch.from_numpy(array.reshape(-1).view("uint8"))

    def synchronize(self) -> None:
        self._stream.synchronize()

    def event(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def elapsed(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end))


class PycudaDevice(Device):
    """Through pycuda, in the device's primary context, which other libraries share."""

    def __init__(self) -> None:
        import pycuda.autoprimaryctx
        import pycuda.driver

        self._driver = pycuda.driver
        self._stream = pycuda.driver.Stream()
        self.stream = int(self._stream.handle)

    def empty(self, size: int) -> Buffer:
        try:
            memory = self._driver.mem_alloc(max(size, 1))
        except self._driver.MemoryError as error:
            raise out_of_memory(size) from error
        return Buffer(int(memory), size, memory)

    def upload(self, array: NDArray[Any], to: Buffer) -> None:
        if array.nbytes:
            self._driver.memcpy_htod_async(to.address, array, self._stream)

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        if array.nbytes:
            self._driver.memcpy_dtoh_async(array, buffer.address, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def event(self) -> Any:
        return self._driver.Event().record(self._stream)

    def elapsed(self, start: Any, end: Any) -> float:
        return float(end.time_since(start))


def open_device() -> Device:
    """The first GPU through what is installed.

    Raises:
        BackendError: there is no GPU, or neither torch for CUDA nor pycuda.
    """
    gpu = find_gpu()
    if isinstance(gpu, str):
        raise BackendError(gpu)
    try:
        if _torch_has_cuda():
            import torch

            if torch.cuda.is_available():
                return TorchDevice()
        if find_spec("pycuda") is not None:
            return PycudaDevice()
    except Exception as error:
        raise BackendError(f"{gpu} cannot be opened: {type(error).__name__}: {error}") from error
    raise BackendError(f"{gpu}: {missing_binding() or 'torch cannot use it: pip install pycuda'}")


def out_of_memory(size: int) -> BackendError:
    """The error for an allocation that failed."""
    return BackendError(
        f"out of device memory: {size / 2**20:.0f} MiB more were asked for; use a smaller batch, "
        "a profile with smaller upper limits, or end what else runs on the GPU"
    )
