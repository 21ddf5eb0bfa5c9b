"""What a backend is: it makes a :class:`Session` from an artifact, and a session runs batches.

A backend is small on purpose. It overrides three methods; state, shape checks and lifetime are
guarded here, so that a backend somebody writes for their own runtime cannot skip them::

    class MyBackend(Backend):
        name = "mine"

        def missing(self):
            return None if find_spec("mine") else "mine is not installed: pip install mine"

        def prepare(self, artifact, threads=None):
            return MySession(artifact)

A session overrides :meth:`Session._run`, and :meth:`Session._bind` where the runtime can keep
inputs on a device: then latency separates the graph's time from the copies'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pytest_onnxdet.core.errors import StageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.data.batches import Batch

Arrays = dict[str, "NDArray[Any]"]


class BackendError(StageError):
    """A backend cannot do what it was asked for; the message says why and what helps.

    Attributes:
        stage: what reports blame: ``runtime``, or ``build`` for what is made ahead of time.
    """

    stage = "runtime"


class EngineError(BackendError):
    """A backend that builds ahead of time does not build this graph."""

    stage = "build"


class Bound:
    """A graph whose inputs lie where it reads them, to be run many times; see :meth:`Session.bind`.

    A session that cannot bind returns this class itself, whose runs copy as :meth:`Session.run`
    does.

    Attributes:
        excludes_copies: whether a run leaves out copies that :meth:`Session.run` makes.
    """

    excludes_copies: ClassVar[bool] = False

    def __init__(self, session: Session, feeds: Arrays) -> None:
        self._session, self._feeds = session, feeds
        self._outputs: Arrays = {}

    def run(self) -> float | None:
        """Runs the graph once, and waits until it is done.

        Returns:
            Milliseconds by the device's own clock; None where the caller has to take the time.

        Raises:
            BackendError: the session is closed, or the runtime fails.
        """
        self._session.require_open()
        return self._run()

    def _run(self) -> float | None:
        self._outputs = self._session._run(self._feeds)
        return None

    def fetch(self) -> Arrays:
        """The last run's outputs, copied to the host.

        A subclass that keeps them on a device must not compute them here without a run before, see
        :meth:`require_ran`: a run that does nothing would not be noticed.

        Returns:
            By name, with shapes and types as :meth:`Session.run` returns them.

        Raises:
            BackendError: there was no run, or the outputs cannot be had from the device.
        """
        self.require_ran(bool(self._outputs))
        return self._outputs

    def require_ran(self, ran: bool) -> None:
        """Raises BackendError where nothing ran."""
        if not ran:
            raise BackendError(f"{self._session.artifact.path.name}: nothing ran, nothing to fetch")


class Session(ABC):
    """A loaded artifact, ready to run. Use as a context manager, or call :meth:`close`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._open = True

    def run(self, batch: Batch) -> Arrays:
        """Runs one batch.

        Args:
            batch: images float32 (N, 3, H, W), image_shape int64 (N, 2).

        Returns:
            The graph's outputs by name, see DESIGN's contract: ``dets`` (N, K, 5),
            ``labels`` (N, K), perhaps ``masks`` (N, K, h, w).

        Raises:
            BackendError: when the session is closed, or a static graph is fed another shape.
        """
        return self.run_arrays({"input": batch.images, "image_shape": batch.image_shape})

    def run_arrays(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Like :meth:`run`, from arrays by input name.

        Args:
            feeds: ``input`` float32 (N, C, H, W), normalised pixels; ``image_shape`` int64 (N, 2),
                each image's height and width in pixels before padding. Names that the graph does
                not have are ignored: YOLOv3's engine has no ``image_shape``.

        Returns:
            The graph's outputs by name: ``dets`` float32 (N, K, 5) in network-input pixels,
            ``labels`` int64 (N, K), perhaps ``masks`` float32 (N, K, h, w); of a graph of raw
            outputs the heads' float32 (N, C, h, w) maps.

        Raises:
            BackendError: an input is missing, the session is closed, a static graph is fed another
                shape, or the runtime fails.
        """
        return self._run(self._checked(feeds))

    def bind(self, feeds: Mapping[str, NDArray[Any]]) -> Bound:
        """The graph with these inputs, on the session's device already where it has one.

        For measuring: a run of it is the graph's, without the copies from and to the host, where
        :attr:`Bound.excludes_copies`.

        Args:
            feeds: as for :meth:`run_arrays`.

        Raises:
            BackendError: as :meth:`run_arrays`, and where the device has no memory for the inputs.
        """
        return self._bind(self._checked(feeds))

    def _bind(self, feeds: Arrays) -> Bound:
        """Checked, contiguous arrays, bound. A runtime that has no way to bind leaves this out."""
        return Bound(self, feeds)

    def require_open(self) -> None:
        """Raises BackendError when the session is closed."""
        if not self._open:
            raise BackendError(f"the session of {self.artifact.path.name} is closed")

    def _checked(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The graph's own inputs among the arrays, contiguous and of a shape that it takes."""
        import numpy as np  # the plugin imports this module, and must stay light

        self.require_open()
        names = self.artifact.inputs
        arrays = {name: np.ascontiguousarray(feeds[name]) for name in names if name in feeds}
        absent = [name for name in names if name not in arrays]
        if absent:
            raise BackendError(f"{self.artifact.path.name} needs the inputs {', '.join(absent)}")
        fixed = self.artifact.static_shape
        if fixed is not None and arrays["input"].shape != fixed:
            raise BackendError(
                f"{self.artifact.path.name} was exported for the static shape {fixed}, "
                f"and got {arrays['input'].shape}"
            )
        return arrays

    @abstractmethod
    def _run(self, feeds: Arrays) -> Arrays:
        """Runs the graph on checked, contiguous arrays."""

    @property
    def device(self) -> str:
        """Where the session runs, as reports name it: ``cpu``, ``cuda``."""
        return "cpu"

    def close(self) -> None:
        """Frees what the session holds. Calling it twice is harmless."""
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Backend(ABC):
    """A runtime for artifacts.

    Attributes:
        name: what ``--onnxdet-backend`` and the marker call it.
        lowering: which lowering of the deploy model it runs: ``onnxruntime`` or ``tensorrt``.
        builds: whether :meth:`build` makes something of a graph before it is run.
        default: whether it runs when no backend is asked for; one that is not is for those who
            name it.
    """

    name: ClassVar[str]
    lowering: ClassVar[str] = "onnxruntime"
    builds: ClassVar[bool] = False
    default: ClassVar[bool] = True

    @abstractmethod
    def missing(self) -> str | None:
        """None when the backend is of use here, else what is missing and how to get it.

        Must not import the runtime: it is asked while pytest collects.
        """

    def unrunnable(self) -> str | None:
        """Why sessions cannot run here although graphs can be built, None where they can.

        Asked of a backend that is not missing, and as light.
        """
        return None

    def build(self, artifact: Artifact) -> dict[str, Any]:
        """Makes of a graph what the runtime runs, ahead of time. For backends that ``builds``.

        Returns:
            ``seconds``, ``engine_bytes`` and what else is worth reporting.

        Raises:
            BackendError: the runtime refuses the graph.
        """
        raise BackendError(f"the backend {self.name!r} builds nothing ahead of time")

    @abstractmethod
    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        """Loads an artifact.

        Args:
            artifact: an exported graph of this backend's lowering.
            threads: intra-op threads; None leaves the runtime's default.

        Raises:
            BackendError: the runtime refuses the graph, or is not what was asked for.
        """


def expecting(artifact: Artifact, batch: int, size: Sequence[int]) -> Artifact:
    """The artifact of a dynamic graph, with the largest shape that it will be fed.

    A graph is traced at an arbitrary shape: only the caller, who has the images, knows for which
    range of shapes a backend should build. Backends that build nothing ignore it.

    Args:
        artifact: a static graph's is returned as it is.
        batch: the largest number of images.
        size: (H, W) that holds every image.
    """
    if artifact.static_shape is not None:
        return artifact
    channels = artifact.info.get("channels", 3)
    return replace(artifact, info={**artifact.info, "largest_shape": [batch, channels, *size]})
