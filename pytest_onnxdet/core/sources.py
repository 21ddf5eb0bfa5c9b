"""Hashes of source code, for the names of cached files.

A graph or a recording is worth keeping as long as the code that made it is the same: this
package's, the detector's own modules', and its pipeline's steps. An edit without a new parameter
changes no weight, and an old graph would agree with an old reference.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

#: Rooms of this package that decide what a graph, an engine or a recording holds.
ROOMS = (
    "core",
    "models",
    "data",
    "families",
    "graph",
    "export",
    "reference",
    "bundle",
    "backends",
    "verify",  # a recording's noise is measured with its matching
    "run",  # which makes recordings, counts their limits and asks for their noise
)
#: Whose classes are known by the version of what is installed.
VERSIONED = frozenset({"torch", "builtins", "abc", "typing", "collections"})


@cache
def package_digest() -> str:
    """A hash of this package's source, the same one for everything in the cache."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def objects_digest(things: Iterable[object]) -> str:
    """A hash of the source of what these objects do.

    Of each object's class, and of all that it inherits from outside of PyTorch, the file that the
    class is written in: functions beside it are part of what it does. Where there is no such file,
    the class's source as Python knows it, else its bytecode. A method that was put into a class
    or an object from elsewhere counts as it is.

    Args:
        things: modules of a detector, steps of a pipeline; classes stand for themselves.
    """
    sources: dict[str, bytes] = {}
    for thing in things:
        kind = thing if isinstance(thing, type) else type(thing)
        for cls in kind.__mro__:
            if cls.__module__.partition(".")[0] not in VERSIONED:
                name = f"{cls.__module__}.{cls.__qualname__}"
                if name not in sources:
                    sources[name] = _class_bytes(cls)
        if not isinstance(thing, type):
            for name, own in vars(thing).items():
                if inspect.isfunction(own):
                    sources[f"{kind.__qualname__}().{name}"] = _code_bytes(own.__code__)
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + hashlib.sha256(sources[name]).digest())
    return digest.hexdigest()


def _class_bytes(cls: type) -> bytes:
    """What a class is written as, and the bytecode of methods that come from elsewhere."""
    file, source = _file(cls), b""
    if file is not None:
        source = _read(file)
    else:
        try:
            source = inspect.getsource(cls).encode()
        except (OSError, TypeError):
            return b"".join(_code_bytes(code) for code in _codes(cls))
    foreign = (code for code in _codes(cls) if code.co_filename != str(file))
    return source + b"".join(_code_bytes(code) for code in foreign)


def _file(cls: type) -> Path | None:
    try:
        path = Path(inspect.getfile(cls))
    except (OSError, TypeError):
        return None
    return path if path.is_file() else None


@cache
def _read(path: Path) -> bytes:
    """A source file, as it was when it was first asked for: that is what was imported."""
    return path.read_bytes()


def _codes(cls: type) -> Iterator[CodeType]:
    """The code of a class's functions, in the order of their names."""
    for _, value in sorted(vars(cls).items()):
        inner: Any = getattr(value, "__func__", getattr(value, "fget", value))
        code = getattr(inner, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _code_bytes(code: CodeType) -> bytes:
    """Bytecode with its names and constants, without the place that it was written at."""
    parts = [code.co_code, repr((code.co_names, code.co_varnames)).encode()]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            parts.append(_code_bytes(constant))
        elif isinstance(constant, frozenset):
            parts.append(repr(sorted(map(repr, constant))).encode())
        else:
            parts.append(repr(constant).encode())
    return b"\0".join(parts)
