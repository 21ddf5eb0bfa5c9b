"""TensorRT engines: for which target, for which shapes; built once and cached."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.backends.base import EngineError
from pytest_onnxdet.backends.tensorrt.device import Gpu
from pytest_onnxdet.backends.tensorrt.library import Library
from pytest_onnxdet.backends.tensorrt.profile import Profile, input_shapes
from pytest_onnxdet.core.locks import locked

if TYPE_CHECKING:
    from pytest_onnxdet.core.store import Artifact

#: The compute capability that engines are built for where there is no GPU to ask.
AHEAD = "SM80"
# What the library says in its log where an engine is not to blame: memory lacks, or CUDA fails.
MEMORY = re.compile(r"out ?of ?memory|memory\b.* could not be allocated|MemoryAllocation", re.I)
CUDA = re.compile(r"cuda ?error|cuda runtime", re.I)
LOG_LINES = 30


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an engine besides its graph.

    Attributes:
        library: what builds it.
        gpu: what it is for; None: built ahead of time for :data:`AHEAD`.
        precision: ``fp32`` or ``fp16``.
        profile: for a dynamic graph.
    """

    library: Library
    gpu: Gpu | None
    precision: str = "fp32"
    profile: Profile | None = None

    def parts(self, artifact: Artifact) -> Mapping[str, Any]:
        """What the engine's place in the cache is named by."""
        from pytest_onnxdet.core.sources import package_digest
        from pytest_onnxdet.core.store import file_digest

        made = {"graph": file_digest(artifact.path), "code": package_digest(), "target": AHEAD}
        return made | asdict(self)


def build(artifact: Artifact, recipe: Recipe, path: Path) -> dict[str, Any]:
    """Builds an engine and writes it to ``path``.

    Returns:
        ``seconds``, ``engine_bytes``, ``layers`` of the network, ``library``, ``target`` and the
        builder's ``warnings``.

    Raises:
        EngineError: the parser refuses a node, or the builder the network; with the node's name
            and operator, and the end of the builder's log.
    """
    trt = recipe.library.load()
    name, log = artifact.path.name, make_log(trt)
    start = time.perf_counter()
    builder = _builder(trt, log, recipe)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # fp16 is for the builder to choose only in a weakly typed network.
    strong = recipe.precision == "fp32"
    network = builder.create_network(1 << int(typed) if typed is not None and strong else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(artifact.path)):
        raise EngineError(
            f"{recipe.library.name} does not parse {name}: {_refused(parser)}{tail(log)}"
        )
    try:
        config = _config(trt, log, builder, network, recipe)
        engine = builder.build_serialized_network(network, config)
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(_failed(recipe, name, log, f"{type(error).__name__}: {error}")) from None
    if engine is None:
        raise EngineError(_failed(recipe, name, log, "no engine came of it"))
    path.write_bytes(memoryview(engine))
    return {
        "seconds": time.perf_counter() - start,
        "engine_bytes": path.stat().st_size,
        "layers": int(network.num_layers),
        "library": f"{recipe.library.name} {recipe.library.version}",
        "target": AHEAD if recipe.gpu is None else str(recipe.gpu),
        "warnings": len(log.lines),
    }


def make_log(trt: Any) -> Any:
    """A logger for NVIDIA's API that keeps warnings and errors, in its ``lines``."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.WARNING):
                self.lines.append(f"{getattr(severity, 'name', severity)}: {message}")

    return Log()


def _builder(trt: Any, log: Any, recipe: Recipe) -> Any:
    try:
        builder = trt.Builder(log)
    except Exception as error:
        log.lines.append(f"{type(error).__name__}: {error}")
        builder = None
    if builder is None:
        raise EngineError(
            f"{recipe.library.name} {recipe.library.version} makes no builder"
            f"{tail(log)}\nwhere there is no GPU, or its driver is older than the library asks "
            "for, only tensorrt_rtx builds"
        )
    return builder


def _config(trt: Any, log: Any, builder: Any, network: Any, recipe: Recipe) -> Any:
    config = builder.create_builder_config()
    # TF32 rounds what a convolution multiplies to 10 bits: no longer PyTorch's fp32.
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if recipe.precision == "fp16":
        if not recipe.library.fp16:
            raise EngineError(
                f"{recipe.library.name} {recipe.library.version} computes in the types of the "
                "graph: it has no fp16 for a graph of fp32; tensorrt 10 has"
            )
        config.set_flag(trt.BuilderFlag.FP16)
    if recipe.gpu is None and recipe.library.ahead:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, AHEAD), 0)
    if recipe.profile is not None:
        limits = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            name = network.get_input(i).name
            shapes = input_shapes(name, recipe.profile)
            try:
                limits.set_shape(name, *shapes)
            except Exception as error:
                raise EngineError(
                    f"{recipe.library.name} {recipe.library.version} refuses the shapes of "
                    f"{name!r} in the optimization profile, {' to '.join(map(str, shapes))}: "
                    f"{error}"
                ) from error
        if config.add_optimization_profile(limits) < 0:
            raise EngineError(
                f"{recipe.library.name} {recipe.library.version} refuses the optimization profile "
                f"{recipe.profile}{tail(log)}"
            )
    return config


def _refused(parser: Any) -> str:
    """What the parser says, with the node that it stopped at."""
    errors = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        node, kind = _ask(error, "node_name"), _ask(error, "node_operator")
        where = f"node {node or error.node()}{f' ({kind})' if kind else ''}"
        errors.append(f"{where}: {error.desc()}")
    return "; ".join(errors) or "it gives no reason"


def _ask(error: Any, name: str) -> str:
    """A detail of a parser's error that only newer versions have."""
    method = getattr(error, name, None)
    return str(method()) if method is not None else ""


def _failed(recipe: Recipe, name: str, log: Any, why: str) -> str:
    limits = "" if recipe.profile is None else f" for {recipe.profile}"
    return (
        f"{recipe.library.name} {recipe.library.version} does not build {name}{limits}: {why}"
        f"{tail(log)}"
    )


def tail(log: Any) -> str:
    """The end of the log, where the reason is, as lines to follow a message."""
    lines = log.lines[-LOG_LINES:]
    return "".join(f"\n  {line}" for line in lines)


def device_fault(log: Any) -> str:
    """What the log says of the device, where it is not the engine that is at fault; else empty."""
    text = "\n".join(log.lines)
    if MEMORY.search(text):
        return "there is not enough device memory to load the engine"
    return "CUDA failed while the engine was loaded" if CUDA.search(text) else ""


def discard(entry: Artifact, data: bytes) -> None:
    """Removes a cached engine that does not load, unless another process has replaced it already.

    Args:
        entry: its place in the cache.
        data: the bytes that do not load.
    """
    folder = entry.path.parent
    # The store's own lock for this entry: nobody writes or reads it meanwhile.
    with locked(folder.parent / f"{entry.key}.lock"):
        if entry.path.is_file() and entry.path.read_bytes() == data:
            shutil.rmtree(folder)
