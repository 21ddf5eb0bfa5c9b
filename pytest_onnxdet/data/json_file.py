"""Text of a json file, whatever machine it was written on and is read on."""

from __future__ import annotations

import codecs
import json
import locale
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.data.batches import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_json(path: Path) -> tuple[dict[str, Any], bool]:
    """The document in a json file, and whether mmdet would read the file in another encoding.

    mmdet opens it in the locale's, which is not that of a file with a byte order mark (Windows'
    tools write one), and without UTF-8 in the locale turns names into others.

    Raises:
        DataError: it cannot be read, or is no table.
    """
    broken = f"{path}: not a COCO annotation file"
    if kind := no_file(path):
        raise DataError(f"{path}: is {kind}, not an annotation file: give a COCO json")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    encoding = next((name for bom, name in _BOMS if raw.startswith(bom)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{broken}: byte {error.start} is not {encoding}: save it as UTF-8"
        ) from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{broken}: {error}: it needs images, categories and annotations") from None
    if not isinstance(document, dict):
        raise DataError(f"{broken}: it is a {type(document).__name__}: {_hint(document)}")
    theirs = codecs.lookup(locale.getpreferredencoding(False)).name
    return document, encoding != "utf-8" or (not text.isascii() and theirs != "utf-8")


def _hint(document: Any) -> str:
    first = document[0] if isinstance(document, list) and document else None
    if isinstance(first, dict) and "score" in first:
        return "a file of results; give the file with images, categories and annotations"
    return "it needs images, categories and annotations"
