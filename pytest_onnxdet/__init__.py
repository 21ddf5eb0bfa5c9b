"""Does an exported MMDetection 2.x detector still do what PyTorch does?

A pytest plugin and a small library that answer that for every detector, backend, shape mode and
batch size: does it export, does it give the same detections, does it keep the AP, how fast is it;
and where it does not, which stage is to blame.

The names in ``__all__`` are the public ones, and this is their only stable place. They are loaded
when they are asked for: pytest imports this module in every run, whether or not the suite was
asked for, so it imports nothing itself.
"""

TYPE_CHECKING = False  # typing's own, without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pytest_onnxdet.backends.base import Backend, BackendError, Session
    from pytest_onnxdet.backends.tensorrt.backend import TensorRTBackend
    from pytest_onnxdet.backends.tensorrt.profile import Profile
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.data.datasets import DatasetSpec
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.families.base import DeployModel
    from pytest_onnxdet.families.family import Family
    from pytest_onnxdet.models.spec import KnownFailure, ModelSpec, Tolerance
    from pytest_onnxdet.reference.recording import Recording
    from pytest_onnxdet.verify.compare import assert_detections_close

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Backend",
    "BackendError",
    "DatasetSpec",
    "DeployModel",
    "Detections",
    "Family",
    "KnownFailure",
    "ModelSpec",
    "Profile",
    "Recording",
    "Session",
    "TensorRTBackend",
    "Tolerance",
    "assert_detections_close",
]

_PLACES = {
    "Artifact": "core.store",
    "Backend": "backends.base",
    "BackendError": "backends.base",
    "DatasetSpec": "data.datasets",
    "DeployModel": "families.base",
    "Detections": "data.detections",
    "Family": "families.family",
    "KnownFailure": "models.spec",
    "ModelSpec": "models.spec",
    "Profile": "backends.tensorrt.profile",
    "Recording": "reference.recording",
    "Session": "backends.base",
    "TensorRTBackend": "backends.tensorrt.backend",
    "Tolerance": "models.spec",
    "assert_detections_close": "verify.compare",
}


def __getattr__(name: str) -> "Any":
    """A public name, loaded now; raises AttributeError for any other."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
