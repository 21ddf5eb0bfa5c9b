"""The names and the number of a detector's classes, as its config says them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.files import is_file, no_file
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision


def class_names(cfg: Any) -> tuple[str, ...]:
    """Class names of a config's test data in label order; () where it does not name them.

    Args:
        cfg: a whole config; ``data.test.classes`` is a list, or a file of a name a line, as mmdet
            reads it; without it the data set's class names them.

    Raises:
        NamesError: the list or the file names no classes.
    """
    ensure_torchvision()
    from mmdet.datasets import DATASETS, CustomDataset

    test = cfg.data.test
    if test.get("classes") is not None:
        if wrong := wrong_names(test.classes):
            raise NamesError(wrong)
        named = CustomDataset.get_classes(test.classes)
    else:
        named = getattr(DATASETS.get(test.get("type", "")), "CLASSES", None)
    return tuple(named) if isinstance(named, list | tuple) else ()


class NamesError(ValueError):
    """What should name classes does not; the message names the key, its value and the remedy."""


def wrong_names(classes: Any) -> str:
    """Why a config's ``data.test.classes`` names no classes, and what to do; empty: it does.

    mmdet takes a text for the path of a file with a name a line, and its lines as they are: a byte
    order mark is part of the first name, and an empty line is a class of no name.

    Args:
        classes: None, a list, or a file's path.
    """
    if classes is None:
        return ""
    if isinstance(classes, str):
        return _wrong_file(classes)
    key = "data.test.classes is"
    if not isinstance(classes, list | tuple) or not all(isinstance(n, str) for n in classes):
        return f"{key} {str(classes)[:60]}: give a list of names"
    twice = _twice(classes)
    if twice is not None:
        return f"{key} {str(classes)[:60]}, with {twice!r} twice: give each class its own name"
    if not all(name.strip() for name in classes):
        return f"{key} {str(classes)[:60]}, with an empty name: give each class a name"
    return ""


def _wrong_file(file: str) -> str:
    key = "data.test.classes is"
    if kind := no_file(Path(file)):
        return f"{key} {file}: {kind}, not a file of class names"
    if not is_file(Path(file)):
        return (
            f"{key} {file!r}: a text is the path of a file of class names, and there is none: give "
            f"a list, [{file}], or that file"
        )
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        return f"{key} {file}: cannot be read ({error.strerror}): correct its permissions"
    save = "save it as UTF-8 without one"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"{key} {file}: is UTF-16, which mmdet does not read: {save[:16]}"
    if raw.startswith(codecs.BOM_UTF8):
        return (
            f"{key} {file}: begins with a byte order mark, which mmdet takes for a part of the "
            f"first class's name: {save} (in Windows' editors: UTF-8, not UTF-8 with BOM)"
        )
    try:
        # As mmdet splits them; `splitlines` knows more ends of lines.
        lines = raw.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        return f"{key} {file}: byte {error.start} is not UTF-8: {save[:16]}"
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if len(empty) == len(lines):
        return f"{key} {file}: is empty: write a class's name in each line"
    if empty:
        return (
            f"{key} {file}: line {empty[0]} is empty, which mmdet takes for a class of no name: "
            f"take {'it' if len(empty) == 1 else f'all {len(empty)} of them'} out"
        )
    twice = _twice(lines)
    if twice is not None:
        return f"{key} {file}: {twice!r} is there twice: give each class its own name"
    return ""


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def known_names(meta: Mapping[str, Any], cfg: Any) -> tuple[str, ...]:
    """The class names that a checkpoint's ``meta`` says, else :func:`class_names`."""
    named = meta.get("CLASSES")
    return (named,) if isinstance(named, str) else tuple(named or class_names(cfg))


def class_count(model: Mapping[str, Any]) -> int | None:
    """How many classes a detector's heads tell apart; None where they do not say."""
    heads = [{name: part for name, part in model.items() if str(name).endswith("head")}]
    counts = (part.get("num_classes") for part in _parts(heads))
    return next((count for count in counts if isinstance(count, int)), None)


def numbered(count: int) -> tuple[str, ...]:
    """Names for classes that have none: ``class_0``, ``class_1``, ..."""
    return tuple(f"class_{number}" for number in range(count))


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _parts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _parts(value)
