"""Reads PyTorch checkpoints as data: a pickle can run code, and a checkpoint has no need to.

``torch.load(weights_only=True)`` takes tensors and plain containers. Those of MMDetection 2.x also
hold numpy scalars (the best score in ``meta.hook_msgs``, the random state's pieces) and small
arrays; what those need, and nothing else, is allowed on top. None of it can do more than make
numbers. A file that holds anything else is refused by name, and read only when trusted explicitly.
"""

from __future__ import annotations

import _codecs
import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_OPERAND = re.compile(r"Unsupported operand (\d+)")
_REASON = re.compile(r"WeightsUnpickler error:\s*(\S.*)")
_REWRITE = 'torch.save(torch.load(FILE, weights_only=False)["state_dict"], FILE)'


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
        if not trust and isinstance(error, pickle.UnpicklingError) and _is_whole(file):
            raise BuildError(
                f"{file}: not a plain checkpoint: {_refused(str(error))}, which is not loaded "
                "because that can run code from the file: save only its state_dict. If you trust "
                "whoever made the file: `onnxdet export --trust-checkpoint` reads it; for pytest, "
                f"which has no such option, rewrite it once: {_REWRITE}"
            ) from error
        raise BuildError(
            f"{file}: the checkpoint is corrupt: {one_line(error)}: fetch or train it again"
        ) from error


def _refused(message: str) -> str:
    """What torch's reader does not take, of the page that it says about it."""
    match = _GLOBAL.search(message)
    if match:
        return f"it holds a {match[1]}"
    match = _OPERAND.search(message)
    operands = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
    operand = operands.get(int(match[1])) if match else None
    if operand is not None:
        return f"it is pickled with {operand.name} (protocol {operand.proto})"
    match = _REASON.search(message)
    return f"it holds more than data ({match[1][:200] if match else message[:200]})"


def _is_whole(file: Path) -> bool:
    """Whether a file is one of ``torch.save``, pickled from end to end, whatever it holds.

    Of a corrupt file torch's reader says the same as of one that it refuses. Nothing is unpickled
    here; operations are only listed.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                inner = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                return bool(list(pickletools.genops(archive.read(inner))))
        # The old format: its first pickle is a number by which it is known.
        with file.open("rb") as stream:
            start = io.BytesIO(stream.read(1 << 10))
        magic = torch.serialization.MAGIC_NUMBER
        return any(value == magic for _, value, _ in pickletools.genops(start))
    except Exception:  # whatever a damaged file brings about
        return False


def one_line(error: BaseException) -> str:
    """An error on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
