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
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytest_onnxdet.core.errors import StageError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_OPERAND = re.compile(r"Unsupported operand (\d+)")
_REASON = re.compile(r"WeightsUnpickler error:\s*(\S.*)")
_REWRITE = 'torch.save(torch.load(FILE, weights_only=False)["state_dict"], FILE)'


class BuildError(StageError):
    """A detector cannot be built; the message names the file at fault and the remedy."""

    stage = "build"


def allowed() -> list[Any]:
    """What may be unpickled besides torch's own list, with the module names that numpy 1 and 2 use.

    ``_codecs.encode`` turns text into bytes, which is how pickle's protocol 2 writes an array.
    """
    multiarray: Any = np.core.multiarray
    functions = {"scalar": multiarray.scalar, "_reconstruct": multiarray._reconstruct}
    kinds = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
    return [
        *(
            (function, f"{package}.multiarray.{name}")
            for name, function in functions.items()
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
    other = what_else(file)
    if other is not None:
        raise BuildError(f"{file}: {other}")
    # Mapped into memory, what is not used of a file (the optimizer's state) is not read.
    how: dict[str, Any] = {"map_location": "cpu", "mmap": zipfile.is_zipfile(file)}
    try:
        if trust:
            return torch.load(file, weights_only=False, **how)
        with torch.serialization.safe_globals(allowed()):
            return torch.load(file, weights_only=True, **how)
    except Exception as error:
        if not trust and isinstance(error, pickle.UnpicklingError) and _is_whole(file):
            refused = _refused(str(error))
            if "mmengine." in refused:
                refused += " (MMDetection 3's, where this package verifies MMDetection 2.x)"
            raise BuildError(
                f"{file}: not a plain checkpoint: {refused}, which is not loaded "
                "because that can run code from the file: save only its state_dict. If you trust "
                "whoever made the file: `onnxdet export --trust-checkpoint` reads it; for pytest, "
                f"which has no such option, rewrite it once: {_REWRITE}"
            ) from error
        text = one_line(error)
        if "Weights only load failed" in text:  # a page about files that may be trusted
            with file.open("rb") as stream:
                text = f"it is no file of torch.save (it begins with {stream.read(12)!r})"
        raise BuildError(
            f"{file}: the checkpoint is corrupt: {text}: fetch or train it again"
        ) from error


_FETCH = "fetch it again"
_BEGINNINGS = (
    (b"<!DOCTYPE", f"a web page, not a checkpoint: {_FETCH}, from the file's own address"),
    (b"<html", f"a web page, not a checkpoint: {_FETCH}, from the file's own address"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file: run `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
)


def what_else(file: Path) -> str | None:
    """What a file is where it is plainly no checkpoint, and what to do; None: it may be one.

    Args:
        file: that is there. Nothing in it is run.

    Raises:
        BuildError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
            size = stream.seek(0, io.SEEK_END)
    except OSError as error:
        raise BuildError(f"{file}: cannot be read: {error.strerror or error}") from error
    if not start:
        return f"the checkpoint is corrupt: it is empty: {_FETCH}"
    for beginning, what in _BEGINNINGS:
        if start.lstrip().lower().startswith(beginning.lower()):
            return what
    if not start.strip(b"\0"):  # tar, as which torch would take it, ends like that
        return f"the checkpoint is corrupt: it begins with zeros, as a broken download: {_FETCH}"
    if tarfile.is_tarfile(file):
        return "a tar archive: unpack it first"
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "a safetensors file: name it .safetensors"
    if not start.startswith(b"PK"):
        return None
    if not zipfile.is_zipfile(file):
        return f"the checkpoint is corrupt: its end is missing ({size:,} bytes are there): {_FETCH}"
    with zipfile.ZipFile(file) as archive:
        inside = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in inside:
        return "a TorchScript program: give the checkpoint that it was made from"
    if "data.pkl" not in inside:
        return f"a zip file that torch.save did not write ({', '.join(sorted(inside)[:3])})"
    return None


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
    return f"{type(error).__name__}: {text[:300]}".removesuffix(": ")
