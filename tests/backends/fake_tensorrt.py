"""A stand-in for NVIDIA's module and for a GPU: enough of both to run a session on neither.

The "engine" answers every input with the sum of ``input`` for each image, as ``dets``, whose size
it only tells while it runs; one with ``labels`` finds one box in every image. It is as particular
as the real one: a dynamic network needs a profile and its engine refuses other shapes, work belongs
on the device's stream, and what was put there has happened only when the stream was waited for.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.tensorrt.device import Buffer, Device
from pytest_onnxdet.core.store import Artifact

#: Milliseconds of device time.
COPY_MS, RUN_MS = 100.0, 2.5
STATIC, WORDLESS = b"a static graph", b"not an engine"


class Host(Device):
    """Device memory is host memory; addresses are numbers in a table."""

    stream = 7

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.most = 1 << 30
        self.fails: Exception | None = None  # what the next allocations raise
        self.clock = 0.0  # of what was put on the stream
        self.passed = 0.0  # of what is known to be done
        self._pending: list[Any] = []

    def empty(self, size: int) -> Buffer:
        if self.fails is not None:
            raise self.fails
        if size > self.most:
            raise BackendError("out of device memory")
        address = 1000 + len(self.memory)
        self.memory[address] = np.zeros(size, np.uint8)
        return Buffer(address, size, None)

    def upload(self, array: Any, to: Buffer) -> None:
        self.clock += COPY_MS
        self.memory[to.address][: array.nbytes] = array.reshape(-1).view(np.uint8)

    def download(self, buffer: Buffer, array: Any) -> None:
        def arrive() -> None:
            array.reshape(-1).view(np.uint8)[:] = self.memory[buffer.address][: array.nbytes]

        array.reshape(-1).view(np.uint8)[:] = 255
        self.clock += COPY_MS
        self._pending.append(arrive)

    def synchronize(self) -> None:
        for arrive in self._pending:
            arrive()
        self._pending, self.passed = [], self.clock

    def event(self) -> float:
        return self.clock

    def elapsed(self, start: float, end: float) -> float:
        assert end <= self.passed, "the event has not been passed: synchronize first"
        return end - start


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
        self.fault = ""  # of the device, for which no engine loads
        self.context = True
        self.inputs: tuple[str, ...] = ("input", "image_shape")
        self.outputs: tuple[str, ...] = ("dets",)
        self.configs: list[Any] = []
        self.networks: list[int] = []
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
            setter = lambda name, *limits: shapes.update({name: limits})  # noqa: E731
            return SimpleNamespace(set_shape=setter, shapes=shapes)

        def create_network(flags: int) -> Any:
            self.networks.append(flags)
            inputs = [SimpleNamespace(name=name) for name in self.inputs]
            count = len(inputs)
            return SimpleNamespace(num_inputs=count, num_layers=3, get_input=lambda i: inputs[i])

        def build(network: Any, config: Any) -> bytes | None:
            log.log(Severity.INFO, "chatter")
            if not self.builds:
                log.log(Severity.ERROR, "node_of_topk: K exceeds 3840")
                return None
            if network.dynamic != bool(config.profiles):
                log.log(Severity.ERROR, "dynamic inputs need an optimization profile, others none")
                return None
            limits = config.profiles[0].shapes["input"] if network.dynamic else None
            return engine(len(self.configs), limits, self.inputs)

        return SimpleNamespace(
            create_network=create_network,
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

        def parse(path: str) -> bool:
            network.dynamic = Path(path).read_bytes() != STATIC
            if errors:
                log.log(Severity.ERROR, "ModelImporter: this is where it stopped")
            return not errors

        return SimpleNamespace(
            num_errors=len(errors), get_error=lambda i: errors[i], parse_from_file=parse
        )

    def Runtime(self, log: Any) -> Any:
        def load(data: bytes) -> Any:
            if self.fault:
                log.log(Severity.ERROR, self.fault)
                return None
            if data == self.stale or self.loads <= 0 or data == WORDLESS:
                log.log(Severity.ERROR, "The engine plan file is not compatible")
                return None
            self.loads -= 1
            return Engine(self, json.loads(data))

        return SimpleNamespace(deserialize_cuda_engine=load)


def engine(
    number: int, limits: Any, inputs: tuple[str, ...] = ("input", "image_shape"), shape: Any = None
) -> bytes:
    """A serialised engine: of a range of shapes, or of one."""
    return json.dumps(
        {"number": number, "limits": limits, "inputs": inputs, "shape": shape}
    ).encode()


class Engine:
    """What goes in, and what comes out."""

    def __init__(self, fake: Fake, given: dict[str, Any]) -> None:
        self.fake, self.limits, self.shape = fake, given["limits"], given["shape"]
        self.names = (*given["inputs"], *fake.outputs)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_mode(self, name: str) -> int:
        return int(name in self.fake.outputs)

    def get_tensor_dtype(self, name: str) -> Any:
        return np.float32 if name in ("input", "dets") else np.int64

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.shape or (-1, 3, -1, -1))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(part) for part in self.limits]

    def create_execution_context(self) -> Any:
        return Context(self) if self.fake.context else None


class Context:
    """Sums, and tells the output's size as it runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.host = engine, engine.fake.host
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}

    def set_output_allocator(self, name: str, allocator: Any) -> None:
        self.allocators[name] = allocator

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        limits = self.engine.limits
        if name == "input" and limits is not None:
            least, _, most = limits
            if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
                return False
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.host.stream, "the engine runs on a stream that nobody waits for"
        shape = self.shapes["input"]
        count = int(np.prod(shape))
        memory = self.host.memory[self.addresses["input"]][: 4 * count]
        sums = memory.view(np.float32).reshape(shape[0], -1).sum(axis=1)
        found = {"dets": sums[:, None]}
        if "labels" in self.engine.names:
            box = np.float32([[0, 0, 8, 8, 0.5]])
            found = {"dets": np.stack([box] * shape[0]), "labels": np.zeros((shape[0], 1), int)}
        for name, value in found.items():
            allocator = self.allocators[name]
            address = allocator.reallocate_output_async(name, 0, value.nbytes, 1, stream)
            if not address:
                return False
            allocator.notify_shape(name, value.shape)
            self.host.memory[address][: value.nbytes] = value.reshape(-1).view(np.uint8)
        self.host.clock += RUN_MS
        return True


def graph(folder: Path, info: dict[str, Any] | None = None) -> Artifact:
    """A graph in a store; static where ``info`` says so."""
    path = folder / "graphs" / "key" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    static = bool((info or {}).get("static_shape"))
    path.write_bytes(STATIC if static else b"a graph")
    shape = {"static_shape": None, "traced_shape": [3, 3, 192, 160]}
    known = {"inputs": ["input", "image_shape"], **shape, **(info or {})}
    return Artifact(path, "key", False, known)


def feeds(n: int = 2, h: int = 96, w: int = 64) -> dict[str, Any]:
    images = np.arange(n * 3 * h * w, dtype=np.float32).reshape(n, 3, h, w) % 7
    return {"input": images, "image_shape": np.array([[h, w]] * n)}
