"""Device memory, streams and events, on stand-ins for torch with CUDA and for pycuda."""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.tensorrt import device as cuda
from pytest_onnxdet.backends.tensorrt import driver as nvidia
from pytest_onnxdet.backends.tensorrt.device import Buffer, Device, Gpu, PycudaDevice, TorchDevice

GPU = Gpu("Fake 1", (8, 6))
HANDLE = 42


class Stream:
    """Notes the waits; both libraries' name for its handle."""

    cuda_stream = handle = HANDLE

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


class FakeTorch(ModuleType):
    """torch on the CPU, with a ``cuda`` that notes which stream work is put on."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.uint8 = torch.uint8
        self.streams: list[Stream | None] = [None]
        self.full, self.there = False, True
        self.on: list[Any] = []
        self.recorded: list[Any] = []
        outer = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: Stream) -> None:
                outer.recorded.append(stream)

            def elapsed_time(self, end: Any) -> float:
                return 3.5

        class OutOfMemoryError(RuntimeError):
            pass

        @contextlib.contextmanager
        def on(stream: Stream) -> Iterator[None]:
            self.streams.append(stream)
            yield
            self.streams.pop()

        self.cuda = SimpleNamespace(
            Stream=Stream,
            Event=Event,
            OutOfMemoryError=OutOfMemoryError,
            stream=on,
            is_available=lambda: self.there,
        )

    def from_numpy(self, array: Any) -> Any:
        """Called for every copy, either way."""
        self.on.append(self.streams[-1])
        return torch.from_numpy(array)

    def empty(self, size: int, dtype: Any, device: str) -> Any:
        assert device == "cuda"
        self.on.append(self.streams[-1])
        if self.full:
            raise self.cuda.OutOfMemoryError("CUDA out of memory")
        return torch.empty(size, dtype=dtype)


class FakeDriver(ModuleType):
    """pycuda.driver on host memory; copies are notes until the stream is waited for."""

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.full = False
        self.alive: list[Any] = []
        self.on: list[Any] = []

        class MemoryError(Exception):
            pass

        class Event:
            def record(self, stream: Any) -> Any:
                self.stream = stream
                return self  # as pycuda's does

            def time_since(self, start: Any) -> float:
                assert start is not self
                return 3.5

        self.MemoryError, self.Event, self.Stream = MemoryError, Event, Stream

    def mem_alloc(self, size: int) -> Any:
        if self.full:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        self.alive.append(ctypes.create_string_buffer(size))
        return ctypes.addressof(self.alive[-1])

    def memcpy_htod_async(self, to: int, array: Any, stream: Any) -> None:
        self.on.append(stream)
        ctypes.memmove(to, array.ctypes.data, array.nbytes)

    def memcpy_dtoh_async(self, array: Any, address: int, stream: Any) -> None:
        self.on.append(stream)
        ctypes.memmove(array.ctypes.data, address, array.nbytes)


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    module = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    package: Any = ModuleType("pycuda")
    package.driver = FakeDriver()
    package.autoprimaryctx = ModuleType("pycuda.autoprimaryctx")
    monkeypatch.setitem(sys.modules, "pycuda", package)
    for name in ("driver", "autoprimaryctx"):
        monkeypatch.setitem(sys.modules, f"pycuda.{name}", getattr(package, name))
    made: FakeDriver = package.driver
    return made


def there_and_back(device: Device) -> Buffer:
    """Copies arrays of several shapes and types; the last one's buffer."""
    for array in (
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.array([[96, 64]], np.int64),
        np.zeros((0, 5), np.float32),
    ):
        buffer = device.empty(array.nbytes + 8)
        assert buffer.address and buffer.size == array.nbytes + 8
        device.upload(array, buffer)
        result = np.ones_like(array)
        device.download(buffer, result)
        device.synchronize()
        np.testing.assert_array_equal(result, array)
    return buffer


def test_torch_puts_everything_on_its_stream(fake_torch: FakeTorch) -> None:
    device = TorchDevice()
    assert device.stream == HANDLE
    there_and_back(device)
    assert device.empty(0).address  # at least one byte
    assert all(isinstance(stream, Stream) for stream in fake_torch.on)
    assert len(set(fake_torch.on)) == 1
    start, end = device.event(), device.event()
    assert set(fake_torch.recorded) == set(fake_torch.on)
    assert device.elapsed(start, end) == 3.5
    (stream,) = set(fake_torch.on)
    assert stream.waits == 3


def test_pycuda_puts_everything_on_its_stream(driver: FakeDriver) -> None:
    device = PycudaDevice()
    assert device.stream == HANDLE
    there_and_back(device)
    assert device.empty(0).address
    assert len(driver.on) == 4 and len(set(driver.on)) == 1  # nothing is copied of no bytes
    start, end = device.event(), device.event()
    assert {start.stream, end.stream} == set(driver.on)
    assert device.elapsed(start, end) == 3.5
    assert driver.on[0].waits == 3


def test_no_memory_is_told_with_the_size(fake_torch: FakeTorch, driver: FakeDriver) -> None:
    fake_torch.full = driver.full = True
    for device in (TorchDevice(), PycudaDevice()):
        with pytest.raises(BackendError, match=r"out of device memory: 3 MiB more"):
            device.empty(3 << 20)


@pytest.mark.parametrize(
    ("torch_version", "available", "pycuda", "kind"),
    [
        ("2.13.0", True, True, "TorchDevice"),
        ("2.13.0+cu130", True, False, "TorchDevice"),
        ("2.13.0+cpu", True, True, "PycudaDevice"),
        ("2.13.0", False, True, "PycudaDevice"),
        (None, False, True, "PycudaDevice"),
        ("2.13.0", False, False, "torch cannot use it: pip install pycuda"),
        ("2.13.0+cpu", False, False, "neither pycuda nor a torch for CUDA is installed"),
        (None, False, False, "neither pycuda nor a torch for CUDA is installed"),
    ],
)
def test_the_device_is_opened_through_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    fake_torch: FakeTorch,
    driver: FakeDriver,
    torch_version: str | None,
    available: bool,
    pycuda: bool,
    kind: str,
) -> None:
    def version(name: str) -> str:
        if torch_version is None:
            raise cuda.PackageNotFoundError(name)
        return torch_version

    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    monkeypatch.setattr(cuda, "version", version)
    monkeypatch.setattr(cuda, "find_spec", lambda name: object() if pycuda else None)
    fake_torch.there = available
    if " " in kind:
        with pytest.raises(BackendError, match=kind) as caught:
            cuda.open_device()
        assert str(caught.value).startswith("Fake 1 (sm_86): ")
    else:
        assert type(cuda.open_device()).__name__ == kind
    binding = cuda.missing_binding()
    assert (binding is None) == (pycuda or torch_version in ("2.13.0", "2.13.0+cu130"))


def test_a_device_that_does_not_open_says_why(
    monkeypatch: pytest.MonkeyPatch, fake_torch: FakeTorch
) -> None:
    def fails() -> bool:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(cuda, "find_gpu", lambda: GPU)
    monkeypatch.setattr(cuda, "version", lambda name: "2.13.0")
    fake_torch.cuda.is_available = fails
    with pytest.raises(BackendError, match=r"Fake 1 .* cannot be opened: RuntimeError: the driver"):
        cuda.open_device()
    monkeypatch.setattr(cuda, "find_gpu", lambda: "no GPU: none")
    with pytest.raises(BackendError, match="no GPU: none"):
        cuda.open_device()


class Driver:
    """libcuda, as far as it is asked."""

    def __init__(self, status: int = 0, count: int = 1) -> None:
        self.status, self.count = status, count

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.count
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:
        name.value = b"Fake 1"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value._obj.value = {nvidia.CAPABILITY_MAJOR: 8, nvidia.CAPABILITY_MINOR: 6}[attribute]
        return 0


@pytest.mark.parametrize(
    ("library", "result"),
    [
        (Driver(), ["Fake 1", 8, 6]),
        (Driver(status=100), "no GPU: the driver does not start (cuInit gives error 100)"),
        (Driver(count=0), "no GPU: the driver sees none; check CUDA_VISIBLE_DEVICES"),
        (None, "no GPU: NVIDIA's driver is not installed"),
    ],
)
def test_the_driver_is_asked_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, library: Driver | None, result: list[Any] | str
) -> None:
    monkeypatch.setattr(nvidia, "load", lambda: library)
    assert nvidia.ask() == result


class Asked:
    """Counts which way the GPU is asked for, and never starts CUDA in this process."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.processes: list[list[str]] = []
        self.answer = json.dumps(["Fake 1", 8, 6])
        patch.setattr(nvidia, "load", lambda: SimpleNamespace())  # whatever is called of it fails
        patch.setattr(cuda.subprocess, "run", self.run)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(self, command: list[str], **_: Any) -> Any:
        self.processes.append(command)
        return SimpleNamespace(stdout=self.answer)


class NvmlError(Exception):
    pass


def nvml(count: int = 1, mig: int | None = 0, starts: bool = True) -> Any:
    """nvidia-ml-py, as far as it is asked; ``mig`` None: this GPU cannot be divided."""

    def start() -> None:
        if not starts:
            raise NvmlError

    def mode(device: Any) -> tuple[int, int]:
        if mig is None:
            raise NvmlError
        return mig, mig

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetMigMode=mode,
        nvmlDeviceGetName=lambda device: "NVML 1",
        nvmlDeviceGetCudaComputeCapability=lambda device: (9, 0),
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nvml(), "NVML 1"),
        (nvml(mig=None), "NVML 1"),
        (nvml(mig=1), "Fake 1"),  # CUDA sees an instance
        (nvml(count=2), "Fake 1"),  # which of them CUDA takes first NVML does not know
        (nvml(starts=False), "Fake 1"),
        (None, "Fake 1"),  # not installed
    ],
)
def test_nvml_is_asked_where_it_knows_and_another_process_elsewhere(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    asked = Asked(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    result = cuda.find_gpu()
    assert isinstance(result, Gpu) and result.name == name
    assert len(asked.processes) == (name == "Fake 1")


def test_nvml_does_not_know_which_gpus_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked.answer = json.dumps("no GPU: the driver sees none; check CUDA_VISIBLE_DEVICES")
    assert cuda.find_gpu() == "no GPU: the driver sees none; check CUDA_VISIBLE_DEVICES"
    asked.answer = "a crash"
    assert cuda.find_gpu() == "no GPU: the driver does not answer (JSONDecodeError)"


def test_the_other_process_needs_the_standard_library_alone() -> None:
    """It is run for real: what it prints is what this machine has, or why there is nothing."""
    result = cuda._by_process()
    assert isinstance(result, Gpu) or result.startswith("no GPU: ")
    assert "does not answer" not in str(result)
