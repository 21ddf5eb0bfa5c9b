"""Running an engine: memory for what goes in, output whose size only a run decides, events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_onnxdet.backends.base import Arrays, BackendError, Bound, Session
from pytest_onnxdet.backends.tensorrt.builder import device_fault, make_log, tail
from pytest_onnxdet.backends.tensorrt.device import Buffer, Device
from pytest_onnxdet.backends.tensorrt.library import Library
from pytest_onnxdet.backends.tensorrt.outputs import make_allocator
from pytest_onnxdet.backends.tensorrt.profile import Profile
from pytest_onnxdet.core.notes import note

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_onnxdet.core.store import Artifact

#: Inputs on the device by name, each with its shape.
Placed = dict[str, tuple[Buffer, tuple[int, ...]]]

#: Gives a graph's engine for a profile. Asked with the bytes that it gave last, which did not load,
#: it gives another one where those had been kept, None where they had just been built.
EngineFor = Callable[[Profile | None, bytes | None], bytes | None]

LESS = "use a smaller batch, a profile with smaller upper limits, or end what else runs on the GPU"


class TensorRTSession(Session):
    """An engine on the GPU. Shapes that a derived profile does not hold widen it once.

    Args:
        artifact: the graph, or an engine, see :func:`is_engine`. Of an engine nothing but its path
            has to be known: the session's own ``artifact`` has the inputs and the fixed shape.
        library: what loads the engine.
        device: where it runs.
        engine_for: gives the graph's engine for a profile; of a file that is an engine not called.
        profile: the shapes that a dynamic graph's engine takes at first; None for a static one.
        widens: whether a shape outside of the profile gets an engine of a wider one.

    Attributes:
        profile: the shapes that the engine takes; None for a graph of fixed shape.
    """

    def __init__(
        self,
        artifact: Artifact,
        library: Library,
        device: Device,
        engine_for: EngineFor,
        profile: Profile | None = None,
        widens: bool = True,
    ) -> None:
        super().__init__(artifact)
        self._library, self._gpu = library, device
        self._engine_for, self._widens = engine_for, widens
        self.profile = None if is_engine(artifact) else profile
        self._memory: dict[str, Buffer] = {}
        self._outputs: dict[str, Any] = {}
        self._runtime = self._engine = self._context = None
        self._load()

    @property
    def device(self) -> str:
        return "cuda"

    def _load(self) -> None:
        """Deserialises the engine and makes it ready to run."""
        # First, as the next engine may need the memory of this one.
        self._release()
        self._trt = trt = self._library.load()
        self._log = make_log(trt)
        runtime = trt.Runtime(self._log)
        engine = self._loaded(runtime) if is_engine(self.artifact) else self._built(runtime)
        self._require_on_device(engine)
        context = engine.create_execution_context()
        if context is None:
            raise self._failed(
                "the engine loads and no execution context can be made: most likely the device "
                f"memory does not suffice; {LESS}"
            )
        allocator = make_allocator(trt)
        for name in tensors(engine):
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                self._outputs[name] = allocator(self._gpu)
                if not context.set_output_allocator(name, self._outputs[name]):
                    raise self._failed(f"the output {name!r} takes no allocator")
        self._runtime, self._engine, self._context = runtime, engine, context

    def _require_on_device(self, engine: Any) -> None:
        """Raises BackendError where an input or output is not in the device's memory.

        An engine reads the values of a shape input on the host, before it runs: an address on the
        device there ends the process.
        """
        for name in tensors(engine):
            if engine.is_shape_inference_io(name):
                raise self._failed(
                    f"{name!r} is a shape input: the engine computes tensors' shapes of its "
                    "values and reads them in the host's memory, where a session has nothing; "
                    "export a graph whose shapes follow from the shape of 'input' alone"
                )
            if engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise self._failed(f"{name!r} lies in the host's memory, which no session reads")

    def _built(self, runtime: Any) -> Any:
        """The graph's engine; a cached one that does not fit this machine is built again."""
        data = self._engine_for(self.profile, None)
        engine = None if data is None else self._deserialised(runtime, data)
        if engine is None:
            rebuilt = self._engine_for(self.profile, data)
            if rebuilt is not None:
                note(
                    f"the cached engine of {self.artifact.path.name} does not load and is built "
                    f"again{tail(self._log)}"
                )
                engine = self._deserialised(runtime, rebuilt)
        if engine is None:
            raise self._failed("the engine was just built and does not load")
        return engine

    def _loaded(self, runtime: Any) -> Any:
        """The engine that the artifact is; what it takes becomes known."""
        trt = self._trt
        engine = self._deserialised(runtime, self.artifact.path.read_bytes())
        if engine is None:
            raise self._failed(
                "this engine does not load: it was built by another version of the library or for "
                "another GPU, or is none; build it again here, or give the .onnx file"
            )
        names = [
            name
            for name in tensors(engine)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ]
        if "input" not in names or set(names) - {"input", "image_shape"}:
            raise self._failed(
                f"the engine takes {', '.join(names) or 'nothing'}: a detector's takes input, and "
                "may take image_shape"
            )
        shape = tuple(engine.get_tensor_shape("input"))
        fixed = all(side > 0 for side in shape)
        if not fixed:
            self.profile = Profile.of_engine(engine.get_tensor_profile_shape("input", 0))
        info = {"inputs": names, "static_shape": list(shape) if fixed else None}
        self.artifact = replace(self.artifact, info={**self.artifact.info, **info})
        return engine

    def _deserialised(self, runtime: Any, data: bytes) -> Any:
        """The engine, None where it does not load.

        Raises:
            BackendError: memory lacks or CUDA fails, which says nothing about the engine.
        """
        self._log.lines.clear()
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None and (fault := device_fault(self._log)):
            raise self._failed(f"{fault}; {LESS}")
        return engine

    def _run(self, feeds: Arrays) -> Arrays:
        self._launch(self._place(feeds, self._memory))
        return self._fetch()

    def _bind(self, feeds: Arrays) -> Bound:
        bound = TensorRTBound(self, feeds, self._place(feeds, {}))
        self._gpu.synchronize()
        return bound

    def _place(self, feeds: Arrays, memory: dict[str, Buffer]) -> Placed:
        """Copies the inputs to the device, into ``memory`` where it is large enough."""
        self._fit(feeds["input"].shape)
        engine: Any = self._engine
        placed: Placed = {}
        for name in tensors(engine):
            if name in self._outputs:
                continue
            array = feeds[name].astype(self._trt.nptype(engine.get_tensor_dtype(name)), copy=False)
            held = memory.get(name)
            if held is None or held.size < array.nbytes:
                held = memory[name] = self._gpu.empty(array.nbytes)
            self._gpu.upload(array, held)
            placed[name] = held, array.shape
        return placed

    def _fit(self, shape: tuple[int, ...]) -> None:
        """Makes sure that the engine takes (N, 3, H, W).

        Raises:
            BackendError: the profile that was set, or that an engine's file has, does not hold it.
        """
        n, _, h, w = shape
        profile = self.profile
        if profile is None or profile.holds((n, h, w)):
            self.ready()
            return
        if is_engine(self.artifact):
            reason = "the engine was built for; build it for more, or give the .onnx file"
        elif not self._widens:
            reason = "was set; widen it, or leave it out to have it derived"
        else:
            reason = ""
        if reason:
            raise BackendError(
                f"{self.artifact.path.name}: the shape {n}x{h}x{w} (batch, height, width) is "
                f"outside of the optimization profile {profile}, which {reason}"
            )
        self.profile = profile.with_shape((n, h, w))
        try:
            self._load()
        except BaseException:
            self.profile = profile
            raise

    def ready(self) -> None:
        """Loads the engine where there is none, as after a wider one that could not be made.

        Raises:
            BackendError: the session is closed, or the engine cannot be loaded.
        """
        self.require_open()
        if self._context is None:
            self._load()

    def _launch(self, placed: Placed, timed: bool = False) -> float | None:
        """Runs the engine; when ``timed``, waits and gives the milliseconds between two events."""
        context: Any = self._context
        for name, (buffer, shape) in placed.items():
            if not context.set_input_shape(name, shape):
                raise self._failed(f"the engine refuses the shape {shape} of {name!r}")
            if not context.set_tensor_address(name, buffer.address):
                raise self._failed(f"the engine refuses the address of {name!r}")
        for output in self._outputs.values():
            output.error = None
        start = self._gpu.event() if timed else None
        done = context.execute_async_v3(self._gpu.stream)
        errors = [output.error for output in self._outputs.values() if output.error is not None]
        if not done or errors:
            text = "; ".join(
                str(e) if isinstance(e, BackendError) else f"{type(e).__name__}: {e}"
                for e in errors
            )
            raise self._failed(text or "execution failed") from next(iter(errors), None)
        if not timed:
            return None
        end = self._gpu.event()
        self._gpu.synchronize()
        return self._gpu.elapsed(start, end)

    def _fetch(self) -> Arrays:
        """The outputs, whose sizes the allocators learnt while the graph ran."""
        import numpy as np

        engine: Any = self._engine
        outputs: dict[str, NDArray[Any]] = {}
        self._gpu.synchronize()
        for name, allocator in self._outputs.items():
            dtype = self._trt.nptype(engine.get_tensor_dtype(name))
            outputs[name] = np.empty(allocator.shape, dtype)
            if allocator.buffer is not None:
                self._gpu.download(allocator.buffer, outputs[name])
        self._gpu.synchronize()
        return outputs

    def _failed(self, why: str) -> BackendError:
        return BackendError(f"TensorRT, {self.artifact.path.name}: {why}{tail(self._log)}")

    def _release(self) -> None:
        # In this order: a context outlives neither its engine nor the memory it writes to.
        self._context = self._engine = self._runtime = None
        self._memory, self._outputs = {}, {}

    def close(self) -> None:
        super().close()
        self._release()


class TensorRTBound(Bound):
    """Inputs that stay on the device. Outputs stay there too, where the session has them."""

    excludes_copies: ClassVar[bool] = True

    def __init__(self, session: TensorRTSession, feeds: Arrays, placed: Placed) -> None:
        super().__init__(session, feeds)
        self._owner, self._placed = session, placed
        self._ran = False

    def _run(self) -> float | None:
        self._owner.ready()
        took = self._owner._launch(self._placed, timed=True)
        self._ran = True
        return took

    def fetch(self) -> Arrays:
        self._owner.ready()
        self.require_ran(self._ran)
        # Once more, as another run of the session may have written its outputs over these.
        self._owner._launch(self._placed)
        return self._owner._fetch()


def is_engine(artifact: Artifact) -> bool:
    """Whether a file is an engine rather than a graph, by its suffix."""
    return artifact.path.suffix != ".onnx"


def tensors(engine: Any) -> list[str]:
    """The names of what goes in and comes out."""
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
