"""A stand-in for NVIDIA's module and for a GPU: enough of both to run a session on neither.

The "engine" answers every input with the sum of ``input`` for each image, as ``dets``, whose size
it only tells while it runs.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.cuda import Buffer, Device


class Host(Device):
    """Device memory is host memory; addresses are numbers in a table."""

    stream = 7

    def __init__(self, most: int = 1 << 30) -> None:
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.most = most
        self.waits = 0

    def empty(self, size: int) -> Buffer:
        if size > self.most:
            raise BackendError("out of device memory")
        address = 1000 + len(self.memory)
        self.memory[address] = np.zeros(size, np.uint8)
        return Buffer(address, size, None)

    def upload(self, array: Any, to: Buffer) -> None:
        self.memory[to.address][: array.nbytes] = array.reshape(-1).view(np.uint8)

    def download(self, buffer: Buffer, array: Any) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.memory[buffer.address][: array.nbytes]

    def synchronize(self) -> None:
        self.waits += 1

    def event(self) -> float:
        return 2.5

    def elapsed(self, start: float, end: float) -> float:
        return start


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Flag(enum.IntEnum):
    TF32, FP16 = range(2)


class Logger:
    ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO


class OutputAllocator:
    pass


class Fake:
    """The module. Its attributes say what goes wrong, and tell what was asked."""

    ILogger, IOutputAllocator, BuilderFlag = Logger, OutputAllocator, Flag
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    ComputeCapability = SimpleNamespace(SM80="sm80")
    TensorIOMode = SimpleNamespace(INPUT=0, OUTPUT=1)

    def __init__(self, host: Host) -> None:
        self.host = host
        self.refuses: list[tuple[str, str, str]] = []
        self.builds = True
        self.loads = 10**9  # how many engines still deserialise
        self.stale = b""  # the engine that does not
        self.context = True
        self.configs: list[Any] = []
        self.profiles: list[dict[str, Any]] = []

    def nptype(self, kind: Any) -> Any:
        return kind

    def Builder(self, log: Any) -> Any:
        def create_config() -> Any:
            flags: list[Any] = []
            config = SimpleNamespace(
                cleared=[],
                flags=flags,
                set_flag=flags.append,
                profiles=[],
                num_compute_capabilities=0,
                target=None,
            )
            config.clear_flag = config.cleared.append
            config.add_optimization_profile = config.profiles.append
            config.set_compute_capability = lambda what, at: setattr(config, "target", what)
            self.configs.append(config)
            return config

        def create_profile() -> Any:
            shapes: dict[str, Any] = {}
            self.profiles.append(shapes)
            return SimpleNamespace(set_shape=lambda name, *limits: shapes.update({name: limits}))

        def build(network: Any, config: Any) -> bytes | None:
            log.log(Severity.INFO, "chatter")
            if not self.builds:
                log.log(Severity.ERROR, "node_of_topk: K exceeds 3840")
                return None
            return b"engine %d" % len(self.configs)

        inputs = [SimpleNamespace(name=name) for name in ("input", "image_shape")]
        network = SimpleNamespace(num_inputs=2, num_layers=3, get_input=lambda i: inputs[i])
        return SimpleNamespace(
            create_network=lambda flags: network,
            create_builder_config=create_config,
            create_optimization_profile=create_profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:
        errors = [
            SimpleNamespace(
                node=lambda: 4,
                node_name=lambda name=name: name,
                node_operator=lambda kind=kind: kind,
                desc=lambda text=text: text,
            )
            for name, kind, text in self.refuses
        ]
        return SimpleNamespace(
            num_errors=len(errors),
            get_error=lambda i: errors[i],
            parse_from_file=lambda path: not errors,
        )

    def Runtime(self, log: Any) -> Any:
        def load(data: bytes) -> Any:
            if data == self.stale or self.loads <= 0:
                log.log(Severity.ERROR, "The engine plan file is not compatible")
                return None
            self.loads -= 1
            return Engine(self)

        return SimpleNamespace(deserialize_cuda_engine=load)


class Engine:
    """Two inputs and one output."""

    names = ("input", "image_shape", "dets")
    num_io_tensors = 3

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.types = dict(zip(self.names, (np.float32, np.int64, np.float32), strict=True))

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_mode(self, name: str) -> int:
        return int(name == "dets")

    def get_tensor_dtype(self, name: str) -> Any:
        return self.types[name]

    def create_execution_context(self) -> Any:
        return Context(self.fake) if self.fake.context else None


class Context:
    """Sums, and tells the output's size as it runs."""

    def __init__(self, fake: Fake) -> None:
        self.host = fake.host
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocator: Any = None

    def set_output_allocator(self, name: str, allocator: Any) -> None:
        self.allocator = allocator

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        shape = self.shapes["input"]
        count = int(np.prod(shape))
        memory = self.host.memory[self.addresses["input"]][: 4 * count]
        sums = memory.view(np.float32).reshape(shape[0], -1).sum(axis=1)
        address = self.allocator.reallocate_output_async("dets", 0, sums.nbytes, 1, stream)
        if not address:
            return False
        self.allocator.notify_shape("dets", (shape[0], 1))
        self.host.memory[address][: sums.nbytes] = sums.view(np.uint8)
        return True
