"""Where data lie: files of this machine are read, and what else a path may mean is named."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.files import is_file, no_file
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.models.names import wrong_names

#: Files that count as images in a folder of them.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
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
        if path is not None and key == "proposal_file" and not is_file(path):
            raise DataError(f"{path}: no such file of proposals: set data.test.{key}")
    if wrong := wrong_names(test.get("classes")):
        raise DataError(f"{where}: {wrong}")
    for key in test:  # the files that other classes of data sets have
        path = file_of(test, key) if key not in _PATHS else None
        if path is not None and (kind := no_file(path)) and kind != "a folder":
            raise DataError(f"{path}: is {kind}, not a file: set data.test.{key}")


def file_of(test: Mapping[str, Any], key: str) -> Path | None:
    """The file that a key of ``data.test`` names, as mmdet finds it; None where it names none."""
    file = test.get(key)
    return Path(test.get("data_root") or "", file) if isinstance(file, str) else None


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
