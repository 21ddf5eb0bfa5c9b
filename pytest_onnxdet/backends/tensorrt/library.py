"""Which of NVIDIA's packages is here, and what it can do.

``tensorrt`` times kernels and so builds only where the GPU is. ``tensorrt_rtx`` compiles for a
named compute capability and needs no GPU to build; it chooses kernels when the engine is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from typing import Any

from pytest_onnxdet.backends.base import BackendError


@dataclass(frozen=True)
class Library:
    """Which of NVIDIA's packages is used.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``, as it is imported.
        version: of the installed distribution; empty where that is unknown.
    """

    name: str
    version: str

    @property
    def ahead(self) -> bool:
        """Whether it builds without a GPU."""
        return self.name == "tensorrt_rtx"

    @property
    def fp16(self) -> bool:
        """Whether its builder lowers an fp32 graph to fp16 by itself.

        TensorRT 11 and TensorRT for RTX build strongly typed networks alone, in the graph's types.
        """
        return self.name == "tensorrt" and self.version.startswith("10.")

    def load(self) -> Any:
        """The imported module; raises BackendError where it does not import."""
        try:
            return import_module(self.name)
        except Exception as error:
            raise BackendError(
                f"{self.name} {self.version} is installed and does not import: "
                f"{type(error).__name__}: {error}"
            ) from error


def find_library(gpu: bool) -> Library | None:
    """The package to use: ``tensorrt`` where both can work, else the one that can.

    Args:
        gpu: whether there is one. Without, only ``tensorrt_rtx`` is of use.
    """
    for name in ("tensorrt", "tensorrt_rtx") if gpu else ("tensorrt_rtx", "tensorrt"):
        if find_spec(name) is not None:
            owners = packages_distributions().get(name, ())
            return Library(name, version(owners[0]) if owners else "")
    return None
