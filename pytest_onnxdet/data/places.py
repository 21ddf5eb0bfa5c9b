"""Where data lie: files of this machine are read, and what else a path may mean is named."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_onnxdet.data.batches import DataError

#: Files that count as images in a folder of them.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
#: An address, as it is written and as a path leaves it of one: with a single slash.
_ADDRESS = re.compile(r"(?:^|[/\\:])([A-Za-z][A-Za-z0-9+.-]+)://?\S")
_PATHS = ("data_root", "ann_file", "img_prefix", "proposal_file")
#: What is a file's path, where it is a text, and what that file holds.
_FILES = {"ann_file": "an annotation file", "proposal_file": "a file of proposals"}


def require_local(test: Mapping[str, Any], where: str, files: bool = True) -> None:
    """Refuses a data set whose files are not this machine's, or are no files.

    Args:
        test: the config's ``data.test``.
        where: the config's file.
        files: False: of its class names alone, where other images are run.

    Raises:
        DataError: the message names the key and its value.
    """
    for key in _PATHS if files else ():
        value = test.get(key)
        if key not in _FILES and not isinstance(value, str | os.PathLike | None):
            raise DataError(f"{where}: data.test.{key} is {value!r}: give a folder's path")
        if isinstance(value, str) and "://" in value and not Path(value).exists():
            address = _ADDRESS.search(value)
            if address:
                raise DataError(
                    f"{where}: data.test.{key} is {value}: files of this machine are read, nothing "
                    f"by {address[1]}: copy or mount them, and give that folder"
                )
        if isinstance(value, str) and value.startswith("\\\\") and os.name != "nt":
            raise DataError(
                f"{where}: data.test.{key} is {value}: a share of Windows' network: mount it, and "
                "give that folder"
            )
    for key, what in _FILES.items() if files else ():
        path = file_of(test, key)
        if path is not None and (kind := no_file(path)):
            raise DataError(f"{path}: is {kind}, not {what}: set data.test.{key}")
        if path is not None and key == "proposal_file" and not path.is_file():
            raise DataError(f"{path}: no such file of proposals: set data.test.{key}")
    _check_classes(test.get("classes"), where)


def _check_classes(classes: Any, where: str) -> None:
    """Refuses what names no classes: mmdet takes a text for the path of a file with their names."""
    key = f"{where}: data.test.classes is"
    if isinstance(classes, str):
        if kind := no_file(Path(classes)):
            raise DataError(f"{key} {classes}: {kind}, not a file of class names")
        if not is_file(Path(classes)):
            raise DataError(
                f"{key} {classes!r}: a text is the path of a file of class names, and there is "
                f"none: give a list, [{classes}], or that file"
            )
    elif classes is not None and (
        not isinstance(classes, list | tuple) or not all(isinstance(n, str) for n in classes)
    ):
        raise DataError(f"{key} {str(classes)[:60]}: give a list of names")


def file_of(test: Mapping[str, Any], key: str) -> Path | None:
    """The file that a key of ``data.test`` names, as mmdet finds it; None where it names none."""
    file = test.get(key)
    return Path(test.get("data_root") or "", file) if isinstance(file, str) else None


def is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def no_file(path: Path) -> str:
    """What lies in a file's place; empty where it is a file, or nothing is there.

    A named pipe would be waited for without end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return next((name for is_one, name in _KINDS if is_one(mode)), "")


def why_absent(path: Path) -> str:
    """What may be the reason that a listed file is not there; empty where nothing is seen."""
    if address := _ADDRESS.search(str(path)):
        return f" (an address: files of this machine are read, nothing by {address[1]})"
    if kind := no_file(path):
        return f" (but {kind} of that name)"
    if "\\" in str(path):  # written on Windows, and read elsewhere
        return " (its name has backslashes: write / between folders)"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return f" (this locale's {sys.getfilesystemencoding()} lacks its letters: set PYTHONUTF8=1)"
    return ""
