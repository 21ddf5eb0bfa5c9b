"""TensorRT: one backend over ``tensorrt`` 10 and 11 and ``tensorrt_rtx``.

Without a GPU, and with ``tensorrt_rtx`` installed, it still builds every graph into an engine ahead
of time; only running is left out, with the reason. The part that runs has been exercised with a
stand-in for the library and never on a GPU, see ``docs/tensorrt.md``.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_onnxdet.backends.base import Arrays, Backend, BackendError, Session
from pytest_onnxdet.backends.cuda import (
    Buffer,
    Device,
    Gpu,
    find_gpu,
    missing_binding,
    open_device,
)
from pytest_onnxdet.backends.engines import Library, Profile, Recipe, build, find_library, make_log

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_onnxdet.export.artifacts import Artifact

INSTALL = (
    "neither tensorrt nor tensorrt_rtx is installed: pip install tensorrt pycuda (with an NVIDIA "
    "GPU), or tensorrt-rtx-cu13 (which also builds without one)"
)
gpu_here = cache(find_gpu)


class TensorRTSession(Session):
    """An engine on the GPU. Shapes that a derived profile does not hold widen it once.

    Args:
        artifact: the graph.
        backend: builds and caches the engine.
        device: where it runs.
    """

    def __init__(self, artifact: Artifact, backend: TensorRTBackend, device: Device) -> None:
        super().__init__(artifact)
        self._backend, self._gpu = backend, device
        self._profile = backend.profile_of(artifact)
        self._inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Any] = {}
        self._engine = self._context = None
        self._load()

    @property
    def device(self) -> str:
        return "cuda"

    def _load(self) -> None:
        """Deserialises the engine; one that no longer fits this machine is built again."""
        library, _ = self._backend.here()
        self._trt = trt = library.load()
        self._log = make_log(trt)
        runtime = trt.Runtime(self._log)
        entry = self._backend.engine(self.artifact, self._profile)
        engine = runtime.deserialize_cuda_engine(entry.path.read_bytes())
        if engine is None and entry.cached:
            shutil.rmtree(entry.path.parent)
            entry = self._backend.engine(self.artifact, self._profile)
            engine = runtime.deserialize_cuda_engine(entry.path.read_bytes())
        if engine is None:
            raise self._failed("the engine was just built and does not load")
        context = engine.create_execution_context()
        if context is None:
            raise self._failed(
                "the engine loads and no execution context can be made: most likely the device "
                "memory does not suffice; a profile with smaller upper limits needs less"
            )
        self._runtime, self._engine, self._context = runtime, engine, context
        allocator = make_allocator(trt)
        self._outputs = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                self._outputs[name] = allocator(self._gpu)
                context.set_output_allocator(name, self._outputs[name])

    def _run(self, feeds: Arrays) -> Arrays:
        self._bind(feeds)
        self._launch()
        return self._fetch()

    def device_ms(self, feeds: Arrays) -> float:
        """Milliseconds that the device takes for the graph alone, copies not counted."""
        self._bind(feeds)
        start = self._gpu.event()
        self._launch()
        end = self._gpu.event()
        self._gpu.synchronize()
        return self._gpu.elapsed(start, end)

    def _bind(self, feeds: Arrays) -> None:
        """Copies the inputs to the device and tells the context their shapes."""
        self._fit(feeds["input"].shape)
        engine, context = self._engine, self._context
        assert engine is not None and context is not None
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            if name in self._outputs:
                continue
            array = feeds[name].astype(self._trt.nptype(engine.get_tensor_dtype(name)), copy=False)
            held = self._inputs.get(name)
            if held is None or held.size < array.nbytes:
                held = self._inputs[name] = self._gpu.empty(array.nbytes)
            if not context.set_input_shape(name, array.shape):
                raise self._failed(f"the engine refuses the shape {array.shape} of {name!r}")
            self._gpu.upload(array, held)
            context.set_tensor_address(name, held.address)

    def _fit(self, shape: tuple[int, ...]) -> None:
        """Makes sure that the engine takes (N, 3, H, W).

        Raises:
            BackendError: a profile that was set does not hold it.
        """
        n, _, h, w = shape
        profile = self._profile
        if profile is None or profile.holds((n, h, w)):
            return
        if self._backend.profile is not None:
            raise BackendError(
                f"{self.artifact.path.name}: the shape {n}x{h}x{w} (batch, height, width) is "
                f"outside of the optimization profile {profile}, which was set; widen it, or leave "
                "it out to have it derived"
            )
        self._profile = profile.with_shape((n, h, w))
        self._load()

    def _launch(self) -> None:
        assert self._context is not None
        if not self._context.execute_async_v3(self._gpu.stream):
            errors = [str(one.error) for one in self._outputs.values() if one.error is not None]
            raise self._failed("; ".join(errors) or "execution failed")

    def _fetch(self) -> Arrays:
        """The outputs, whose sizes the allocators were told while the graph ran."""
        import numpy as np

        assert self._engine is not None
        found: dict[str, NDArray[Any]] = {}
        self._gpu.synchronize()
        for name, allocator in self._outputs.items():
            dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
            found[name] = np.empty(allocator.shape, dtype)
            if allocator.buffer is not None:
                self._gpu.download(allocator.buffer, found[name])
        self._gpu.synchronize()
        return found

    def _failed(self, why: str) -> BackendError:
        lines = "".join(f"\n  {line}" for line in self._log.lines[-10:])
        return BackendError(f"TensorRT, {self.artifact.path.name}: {why}{lines}")

    def close(self) -> None:
        super().close()
        # In this order: a context outlives neither its engine nor the memory it writes to.
        self._context = self._engine = None
        self._inputs, self._outputs = {}, {}


def make_allocator(trt: Any) -> Any:
    """The class of output allocators: memory that grows with what a graph turns out to give."""

    class Output(trt.IOutputAllocator):
        def __init__(self, device: Device) -> None:
            super().__init__()
            self.device = device
            self.buffer: Buffer | None = None
            self.shape: tuple[int, ...] = ()
            self.error: BackendError | None = None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self._grown(size)

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self._grown(size)

        def _grown(self, size: int) -> int:
            # An exception must not cross into C++: 0 tells the library that there is no memory.
            try:
                if self.buffer is None or self.buffer.size < size:
                    self.buffer = self.device.empty(size)
                return self.buffer.address
            except BackendError as error:
                self.error = error
                return 0

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Output


class TensorRTBackend(Backend):
    """TensorRT, or TensorRT for RTX.

    Args:
        profile: the shapes that engines of dynamic graphs take; None: derived from the graph, and
            widened by a shape outside of it.
        cache: folder of engines; None: beside the graphs' store, or in the user's cache folder.
    """

    name: ClassVar[str] = "tensorrt"
    lowering: ClassVar[str] = "tensorrt"
    builds: ClassVar[bool] = True

    def __init__(self, profile: Profile | None = None, cache: Path | None = None) -> None:
        self.profile = profile
        self._cache = cache

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it computes in here: fp16 where the installed library offers it."""
        library = find_library(gpu=not isinstance(gpu_here(), str))
        return ("fp32", "fp16") if library is not None and library.fp16 else ("fp32",)

    def missing(self) -> str | None:
        gpu = gpu_here()
        library = find_library(gpu=not isinstance(gpu, str))
        if library is None:
            return INSTALL
        if isinstance(gpu, str) and not library.ahead:
            return f"{gpu}; without one only tensorrt_rtx builds: pip install tensorrt-rtx-cu13"
        return None

    def unrunnable(self) -> str | None:
        gpu = gpu_here()
        return gpu if isinstance(gpu, str) else missing_binding()

    def here(self) -> tuple[Library, Gpu | None]:
        """The library to use on this machine, and its GPU; raises BackendError without one."""
        why, gpu = self.missing(), gpu_here()
        library = find_library(gpu=not isinstance(gpu, str))
        if why is not None or library is None:
            raise BackendError(why or INSTALL)
        return library, None if isinstance(gpu, str) else gpu

    def profile_of(self, artifact: Artifact) -> Profile | None:
        """The shapes that the artifact's engine takes at first; None for a static graph."""
        return (
            Profile.of(artifact) if self.profile is None or artifact.static_shape else self.profile
        )

    def engine(self, artifact: Artifact, profile: Profile | None) -> Artifact:
        """The graph's engine, built when the cache does not hold it.

        Raises:
            BackendError: the library refuses the graph.
        """
        from pytest_onnxdet.export.artifacts import ArtifactStore, StoreError

        library, gpu = self.here()
        recipe = Recipe(library, gpu, str(artifact.info.get("precision", "fp32")), profile)
        try:
            store = ArtifactStore(self._cache or engines_beside(artifact))
        except StoreError as error:
            raise BackendError(f"engines cannot be kept: {error}") from error
        # The store names every file alike; what lies here is an engine.
        return store.get(recipe.parts(artifact), lambda path: build(artifact, recipe, path))

    def build(self, artifact: Artifact) -> dict[str, Any]:
        entry = self.engine(artifact, self.profile_of(artifact))
        return {**entry.info, "cached": entry.cached}

    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        return TensorRTSession(artifact, self, open_device())


def engines_beside(artifact: Artifact) -> Path:
    """Where engines are kept: beside the store that the graph lies in, else the user's cache."""
    if artifact.path.parent.name == artifact.key:
        return artifact.path.parents[2] / "engines"
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "pytest-onnxdet" / "engines"
