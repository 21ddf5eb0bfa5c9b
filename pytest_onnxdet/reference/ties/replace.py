"""Standing in for a function of mmdet's or mmcv's, for the duration of a block."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from pytest_onnxdet.core.patching import overridden

__all__ = ["overridden", "replaced"]


@contextlib.contextmanager
def replaced(original: Any, substitute: Any) -> Iterator[None]:
    """For the duration of the block, all loaded modules that hold a function hold another.

    mmdet's modules import functions by name, each module for itself.

    Args:
        original: the function; modules hold it by its own name.
        substitute: what is called instead.
    """
    name = original.__name__
    loaded = [module for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    holders = [module for module in loaded if vars(module).get(name) is original]
    for module in holders:
        vars(module)[name] = substitute
    try:
        yield
    finally:
        for module in holders:
            vars(module)[name] = original
