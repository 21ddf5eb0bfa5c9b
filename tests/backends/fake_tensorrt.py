"""A stand-in for NVIDIA's module: enough to build and run on neither the library nor a GPU.

The "engine" answers with the sum of everything that it is given for each image, as ``dets``, or
where it also has ``labels``, with one box in every image. Where it ``computes``, it gives what ONNX
Runtime finds with the graph. What it checks as the library does, by that one's documentation and
the sources of its Python bindings (the two have not been run side by side):

- a dynamic network needs a valid profile that names all of its inputs, and its engine refuses other
  shapes, as one of a static network does;
- calls of a context return whether they were obeyed;
- inputs are read from the addresses that were set, but shape inputs on the host;
- classes that Python derives must call the ``__init__`` of theirs;
- work belongs on the device's stream, and what was put there has happened only when the stream was
  waited for.

Stricter than the library: a context is of no use without its engine, which the bindings keep alive.
Not imitated: threads, errors of CUDA, memory limits, types other than float32 and int64.
"""

from __future__ import annotations

import base64
import enum
import json
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_gpu import ALIGNMENT, Host

from pytest_onnxdet.core.store import Artifact

#: Milliseconds of device time.
RUN_MS = 2.5
STATIC, WORDLESS = b"a static graph ", b"not an engine"


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Flag(enum.IntEnum):
    TF32, FP16 = range(2)


class DataType(enum.Enum):
    FLOAT, INT64 = np.float32, np.int64


class Location(enum.Enum):
    DEVICE, HOST = range(2)


class Mode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class Bindings(type):
    """Of classes that live in C++: theirs is the part that ``__init__`` makes."""

    def __call__(cls, *arguments: Any, **more: Any) -> Any:
        made = super().__call__(*arguments, **more)
        if not getattr(made, "_in_cpp", False):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class Logger(metaclass=Bindings):
    ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO

    def __init__(self) -> None:
        self._in_cpp = True


class OutputAllocator(metaclass=Bindings):
    def __init__(self) -> None:
        self._in_cpp = True


class Dims:
    """A sequence that is no tuple, and equal to none."""

    def __init__(self, sides: Any) -> None:
        self._sides = tuple(map(int, sides))

    def __len__(self) -> int:
        return len(self._sides)

    def __getitem__(self, i: int) -> int:
        return self._sides[i]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sides)


class Profile:
    """Shapes by input; a set of them that is out of order is refused at once."""

    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, min_shape: Any, opt_shape: Any, max_shape: Any) -> None:
        rows = zip(min_shape, opt_shape, max_shape, strict=True)
        if not all(0 <= a <= b <= c for a, b, c in rows):
            raise RuntimeError("Shape provided for min is inconsistent with other shapes.")
        self.shapes[name] = (min_shape, opt_shape, max_shape)


class Fake:
    """The module. Its attributes say what goes wrong, and tell what was asked."""

    ILogger, IOutputAllocator, BuilderFlag = Logger, OutputAllocator, Flag
    DataType, TensorLocation, TensorIOMode = DataType, Location, Mode
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    ComputeCapability = SimpleNamespace(SM80="sm80")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.refuses: list[tuple[str, str, str]] = []
        self.builds = True
        self.loads = 10**9  # how many engines still deserialise
        self.stale = b""  # the engine that does not
        self.fault = ""  # of the device, for which no engine loads
        self.context = True
        self.computes = False  # whether engines run the graphs that they are built of
        self.added = 0  # the number of a profile that is added; -1: it is not
        self.disobeys: set[str] = set()  # calls of a context that return False
        self.goes_on = False  # whether a run succeeds though an output gets no memory
        self.inputs: tuple[str, ...] = ("input", "image_shape")
        self.outputs: tuple[str, ...] = ("dets",)
        self.shape_inputs: tuple[str, ...] = ()  # read on the host, for the shapes of others
        self.on_host: tuple[str, ...] = ()  # others that lie in the host's memory
        self.configs: list[Any] = []
        self.networks: list[int] = []
        self.profiles: list[dict[str, Any]] = []

    def nptype(self, kind: DataType) -> Any:
        assert isinstance(kind, DataType)
        return kind.value

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

            def add(profile: Profile) -> int:
                if self.added >= 0:
                    config.profiles.append(profile)
                return self.added

            config.clear_flag = config.cleared.append
            config.add_optimization_profile = add
            config.set_compute_capability = lambda what, at: setattr(config, "target", what)
            self.configs.append(config)
            return config

        def create_profile() -> Any:
            profile = Profile()
            self.profiles.append(profile.shapes)
            return profile

        def create_network(flags: int) -> Any:
            self.networks.append(flags)
            return Network(self)

        def build(network: Network, config: Any) -> bytes | None:
            log.log(Severity.INFO, "chatter")
            if not self.builds:
                log.log(Severity.ERROR, "node_of_topk: K exceeds 3840")
                return None
            if network.dynamic != bool(config.profiles):
                log.log(Severity.ERROR, "dynamic inputs need an optimization profile, others none")
                return None
            limits = dict(config.profiles[0].shapes) if network.dynamic else None
            absent = [name for name in network.names if limits is not None and name not in limits]
            if absent:
                log.log(Severity.ERROR, f"the profile has no shapes of {', '.join(absent)}")
                return None
            return _engine(len(self.configs), limits, network.names, network.shape, network.model)

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=create_config,
            create_optimization_profile=create_profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Network, log: Any) -> Any:
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
            network.read(Path(path).read_bytes())
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


class Network:
    """What a file says of its inputs."""

    num_layers = 3

    def __init__(self, fake: Fake) -> None:
        self.fake, self.names, self.model = fake, fake.inputs, b""
        self.shape: list[int] | None = None

    def read(self, data: bytes) -> None:
        if data.startswith(STATIC):
            self.shape = json.loads(data.removeprefix(STATIC))
        elif self.fake.computes:
            self.model = data
            inputs = onnx.load_from_string(data).graph.input
            self.names = tuple(one.name for one in inputs)
            sides = [side.dim_value for side in inputs[0].type.tensor_type.shape.dim]
            self.shape = sides if all(sides) else None

    @property
    def dynamic(self) -> bool:
        return self.shape is None

    @property
    def num_inputs(self) -> int:
        return len(self.names)

    def get_input(self, i: int) -> Any:
        return SimpleNamespace(name=self.names[i])


def _engine(number: int, limits: Any, inputs: Any, shape: Any, model: bytes) -> bytes:
    encoded = base64.b64encode(model).decode()
    return json.dumps(
        {"number": number, "limits": limits, "inputs": inputs, "shape": shape, "model": encoded}
    ).encode()


def engine(
    number: int, limits: Any, inputs: tuple[str, ...] = ("input", "image_shape"), shape: Any = None
) -> bytes:
    """A serialised engine: of a range of (N, 3, H, W), or of one shape."""
    ranges = None
    if limits is not None:
        boxes = [(n, 2) for n, *_ in limits]
        ranges = {name: boxes if name == "image_shape" else limits for name in inputs}
    return _engine(number, ranges, inputs, shape, b"")


class Engine:
    """What goes in, and what comes out."""

    def __init__(self, fake: Fake, record: dict[str, Any]) -> None:
        self.fake, self.limits, self.shape = fake, record["limits"], record["shape"]
        model = base64.b64decode(record["model"])
        self.graph = onnxruntime.InferenceSession(model) if model else None
        self.inputs = tuple(record["inputs"])
        own = self.graph and tuple(output.name for output in self.graph.get_outputs())
        self.outputs = own or fake.outputs
        self.names = (*self.inputs, *self.outputs)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.OUTPUT if name in self.outputs else Mode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT if name in ("input", "dets") else DataType.INT64

    def get_tensor_shape(self, name: str) -> Dims:
        n, channels, h, w = self.shape or (-1, 3, -1, -1)
        return Dims((n, 2) if name == "image_shape" else (n, channels, h, w))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Dims]:
        return [Dims(part) for part in self.limits[name]]

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self.fake.shape_inputs

    def get_tensor_location(self, name: str) -> Location:
        on_host = self.is_shape_inference_io(name) or name in self.fake.on_host
        return Location.HOST if on_host else Location.DEVICE

    def create_execution_context(self) -> Any:
        return Context(self) if self.fake.context else None


class Context:
    """Computes, and tells the output's size as it runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.outputs: dict[str, int] = {}  # where the last run wrote them

    @property
    def engine(self) -> Engine:
        engine = self._engine()
        assert engine is not None, "the context outlives its engine"
        return engine

    def _obeys(self, call: str, name: str, among: tuple[str, ...]) -> bool:
        return call not in self.engine.fake.disobeys and name in among

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        assert isinstance(allocator, OutputAllocator)
        self.allocators[name] = allocator
        return self._obeys("set_output_allocator", name, self.engine.outputs)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        engine = self.engine
        if not self._obeys("set_input_shape", name, engine.inputs):
            return False
        if engine.limits is None:
            if tuple(shape) != tuple(engine.get_tensor_shape(name)):
                return False
        else:
            min_shape, _, max_shape = engine.limits[name]
            if len(shape) != len(min_shape) or not all(
                a <= b <= c for a, b, c in zip(min_shape, shape, max_shape, strict=True)
            ):
                return False
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert isinstance(address, int) and address % ALIGNMENT == 0
        self.addresses[name] = address
        return self._obeys("set_tensor_address", name, self.engine.names)

    def _read(self, name: str) -> Any:
        """An input, from where it was said to be."""
        location = self.engine.get_tensor_location(name)
        assert location is Location.DEVICE, "an address of the device on the host"
        kind = self.engine.get_tensor_dtype(name).value
        count = int(np.prod(self.shapes[name]))
        memory = self.engine.fake.host.at(self.addresses[name], count * np.dtype(kind).itemsize)
        return memory.view(kind).reshape(self.shapes[name])

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        host = engine.fake.host
        assert stream == host.stream, "the engine runs on a stream that nobody waits for"
        if "execute_async_v3" in engine.fake.disobeys:
            return False
        host.receive()
        feeds = {name: self._read(name) for name in engine.inputs}
        for name, value in self._compute(engine, feeds).items():
            allocator, last = self.allocators[name], self.outputs.get(name, 0)
            address = allocator.reallocate_output_async(name, last, value.nbytes, ALIGNMENT, stream)
            if not address:
                if engine.fake.goes_on:
                    continue
                return False
            assert address % ALIGNMENT == 0
            # The library may know a shape that hangs on data only when the graph has come to it.
            host.later(partial(allocator.notify_shape, name, Dims(value.shape)))
            self.outputs[name] = address
            host.at(address, value.nbytes)[:] = value.reshape(-1).view(np.uint8)
        host.clock += RUN_MS
        return True

    def _compute(self, engine: Engine, feeds: dict[str, Any]) -> dict[str, Any]:
        if engine.graph is not None:
            outputs = engine.graph.run(None, feeds)
            return dict(zip(engine.outputs, map(np.ascontiguousarray, outputs), strict=True))
        n = len(feeds["input"])
        if "labels" in engine.names:
            box = np.float32([[0, 0, 8, 8, 0.5]])
            return {"dets": np.stack([box] * n), "labels": np.zeros((n, 1), int)}
        sums = [value.reshape(n, -1).sum(axis=1) for value in feeds.values()]
        return {"dets": np.float32(sum(sums))[:, None]}


def graph(folder: Path, info: dict[str, Any] | None = None) -> Artifact:
    """A graph in a store; static where ``info`` says so."""
    path = folder / "graphs" / "key" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    fixed = (info or {}).get("static_shape")
    path.write_bytes(STATIC + json.dumps(fixed).encode() if fixed else b"a graph")
    shape = {"static_shape": None, "traced_shape": [3, 3, 192, 160]}
    known = {"inputs": ["input", "image_shape"], **shape, **(info or {})}
    return Artifact(path, "key", False, known)


def feeds(n: int = 2, h: int = 96, w: int = 64) -> dict[str, Any]:
    images = np.arange(n * 3 * h * w, dtype=np.float32).reshape(n, 3, h, w) % 7
    return {"input": images, "image_shape": np.array([[h, w]] * n)}
