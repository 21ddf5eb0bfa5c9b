"""Which part of a config a detector's classes do not take, and what they say of it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_UNKNOWN = re.compile(r"^'?(\S+) is not in the .* registry")


def why_unbuildable(model: Mapping[str, Any], error: BaseException) -> str:
    """The part's path and class, and what was raised, on one line.

    mmcv puts each class's name before what a class inside it raised; by these names the part is
    found. Of an assertion the code is quoted, as mmdet's often say nothing, or "Not implemented
    yet." of whatever it is.

    Args:
        model: the config's.
        error: what building it raised.
    """
    names, inner = unwrapped(error)
    path, part = "model", model
    for name in names[1:]:
        inner_part = next((p for p in _inside(part, path) if _type(p[1]) == name), None)
        if inner_part is None:
            break
        path, part = inner_part
    if isinstance(inner, KeyError) and inner.args:
        unknown = _UNKNOWN.match(str(inner.args[0]))
        for place, settings in _inside(part, path):
            if unknown and _type(settings) == unknown[1]:
                path, part = place, settings
    return f"{path} ({_type(part)}): {quoted(inner)}: change that part of the config"


def quoted(error: BaseException, letters: int = 300) -> str:
    """What was raised, on one line, cut at so many letters; of an assertion its code, too."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # not in quotes
    said = f"{type(error).__name__}: {' '.join(str(text).split())[:letters]}".removesuffix(": ")
    if isinstance(error, AssertionError) and (frames := traceback.extract_tb(error.__traceback__)):
        said += f" ({Path(frames[-1].filename).name}: {' '.join((frames[-1].line or '').split())})"
    return said


def unwrapped(error: BaseException) -> tuple[list[str], BaseException]:
    """The names of classes that an error came through, from outside, and the error inside."""
    names = []
    while (inner := error.__context__) is not None and error.args:
        text, end = str(error.args[0]), f": {inner}"
        if not text.endswith(end):
            break
        names.append(text.removesuffix(end))
        error = inner
    return names, error


def _inside(settings: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table in a part of a config with its path, the nearest first."""
    level = [(path, settings)]
    while level:
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if isinstance(value, Mapping):
                below += [(f"{place}.{key}", inner) for key, inner in value.items()]
            elif isinstance(value, list | tuple):
                below += [(f"{place}[{number}]", inner) for number, inner in enumerate(value)]
        yield from ((place, value) for place, value in below if isinstance(value, Mapping))
        level = below


def _type(settings: Mapping[str, Any]) -> str:
    kind = settings.get("type")
    return kind.__name__ if isinstance(kind, type) else str(kind)
