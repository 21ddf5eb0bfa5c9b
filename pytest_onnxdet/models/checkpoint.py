"""Reads PyTorch checkpoints as data: a pickle can run code, and a checkpoint has no need to.

``torch.load(weights_only=True)`` takes tensors and plain containers. Those of MMDetection 2.x also
hold numpy scalars (the best score in ``meta.hook_msgs``, the random state's pieces) and small
arrays; what those need, and nothing else, is allowed on top. None of it can do more than make
numbers. A file that holds anything else is refused by name, and read only when trusted explicitly.
"""

from __future__ import annotations

import _codecs
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


class BuildError(Exception):
    """A detector cannot be built; the message names the file at fault and the remedy."""


def allowed() -> list[Any]:
    """What may be unpickled besides torch's own list, with the module names that numpy 1 and 2 use.

    ``_codecs.encode`` turns text into bytes, which is how pickle's protocol 2 writes an array.
    """
    multiarray: Any = np.core.multiarray
    functions = (multiarray.scalar, multiarray._reconstruct)
    kinds = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
    return [
        *(
            (function, f"{package}.multiarray.{function.__name__}")
            for function in functions
            for package in ("numpy.core", "numpy._core")
        ),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in kinds},
        _codecs.encode,
    ]


def read_checkpoint(file: Path, trust: bool = False) -> Any:
    """What a .pth file holds, on the CPU.

    Args:
        file: written by ``torch.save``.
        trust: unpickle everything, which can run code from the file.

    Raises:
        BuildError: the file is corrupt, or holds more than is allowed.
    """
    try:
        if trust:
            return torch.load(file, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(allowed()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        found = _REFUSED.search(str(error))
        if not trust and isinstance(error, pickle.UnpicklingError) and found:
            raise BuildError(
                f"{file}: not a plain checkpoint: it holds a {found[1]}, which is not loaded "
                "because making one can run code from the file: save only its state_dict, or, if "
                "you trust whoever made the file, `onnxdet export --trust-checkpoint`"
            ) from error
        raise BuildError(
            f"{file}: the checkpoint is corrupt: {told(error)}: fetch or train it again"
        ) from error


def told(error: BaseException) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
