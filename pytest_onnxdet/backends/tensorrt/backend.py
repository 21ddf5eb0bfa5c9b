"""TensorRT: one backend over ``tensorrt`` 10 and 11 and ``tensorrt_rtx``.

Without a GPU, and with ``tensorrt_rtx`` installed, it still builds every graph into an engine ahead
of time; only running is left out, with the reason. The part that runs has been exercised with a
stand-in for the library and never on a GPU, see ``docs/tensorrt.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_onnxdet.backends.base import Backend, BackendError, Session
from pytest_onnxdet.backends.tensorrt.builder import Recipe, build, discard
from pytest_onnxdet.backends.tensorrt.device import Gpu, gpu_here, missing_binding, open_device
from pytest_onnxdet.backends.tensorrt.library import Library, find_library
from pytest_onnxdet.backends.tensorrt.profile import Profile
from pytest_onnxdet.backends.tensorrt.session import EngineFor, TensorRTSession, is_engine
from pytest_onnxdet.core.paths import user_cache

if TYPE_CHECKING:
    from pytest_onnxdet.core.store import Artifact

INSTALL = (
    "neither tensorrt nor tensorrt_rtx is installed: pip install tensorrt pycuda (with an NVIDIA "
    "GPU), or tensorrt-rtx-cu13 (which also builds without one)"
)


class TensorRTBackend(Backend):
    """TensorRT, or TensorRT for RTX.

    Args:
        profile: the shapes that engines of dynamic graphs take; None: derived, see
            :meth:`Profile.of`, and widened by a shape outside of it.
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
            EngineError: the library refuses the graph.
            BackendError: it is not there, or engines cannot be kept.
        """
        from pytest_onnxdet.core.store import ArtifactStore, StoreError

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
        """A session of a graph's engine, or of a file that is an engine itself."""
        device = open_device()
        library, _ = self.here()
        return TensorRTSession(
            artifact,
            library,
            device,
            self._engines(artifact),
            None if is_engine(artifact) else self.profile_of(artifact),
            widens=self.profile is None,
        )

    def _engines(self, artifact: Artifact) -> EngineFor:
        """What gives a session the artifact's engines, out of the cache where they are kept."""
        last: Artifact | None = None

        def engine_for(profile: Profile | None, refused: bytes | None) -> bytes | None:
            nonlocal last
            if refused is not None and last is not None:
                if not last.cached:
                    return None
                discard(last, refused)
            last = self.engine(artifact, profile)
            try:
                return last.path.read_bytes()
            except FileNotFoundError:  # another process has just removed it as stale
                last = self.engine(artifact, profile)
                return last.path.read_bytes()

        return engine_for


def engines_beside(artifact: Artifact) -> Path:
    """Where engines are kept: beside the store that the graph lies in, else the user's cache."""
    if artifact.path.parent.name == artifact.key:
        return artifact.path.parents[2] / "engines"
    return user_cache() / "engines"
