"""Questions to NVIDIA's management library (NVML), which starts no CUDA in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def ask(question: Callable[[Any], T]) -> T | None:
    """What NVML says.

    Args:
        question: is called with nvidia-ml-py's module ``pynvml``, initialised.

    Returns:
        The question's answer; None where NVML, or nvidia-ml-py, is not there or does not know.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def text(value: str | bytes) -> str:
    """A name or version, which some versions of nvidia-ml-py give as bytes."""
    return value if isinstance(value, str) else value.decode()
