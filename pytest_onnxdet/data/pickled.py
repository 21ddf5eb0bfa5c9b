"""Annotations that mmdet unpickles, looked at first: a pickle can run any code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.files import is_file
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.places import file_of

_PICKLES, _YAMLS = (".pkl", ".pickle"), (".yaml", ".yml")
#: What arrays, scalars and containers are made of, under the names that numpy 1 and 2 use.
_DATA = {
    *(("numpy", name) for name in ("ndarray", "dtype", "bool_", "float32", "float64", "int64")),
    *(
        (f"{package}.{module}", name)
        for package in ("numpy.core", "numpy._core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
    ("_codecs", "encode"),  # bytes in protocols 0 to 2
    ("collections", "OrderedDict"),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "bytearray", "complex", "list", "dict", "tuple")
    ),
}


class _DataOnly(pickle.Unpickler):
    """Knows arrays and containers alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DATA:
            raise _Foreign(f"{module}.{name}")
        return super().find_class(module, name)


class _Foreign(Exception):
    """A class or function that is no data."""


def require_data_alone(test: Mapping[str, Any]) -> None:
    """Refuses a data set whose annotations or proposals can run code, see `require_data_only`.

    Args:
        test: a config's ``data.test``.

    Raises:
        DataError: they do, or cannot be read.
    """
    for key in ("ann_file", "proposal_file"):
        if (place := file_of(test, key)) and is_file(place):
            require_data_only(place)


def require_data_only(path: Path) -> None:
    """Refuses a pickle that holds more than lists, tables, texts, numbers and numpy's arrays.

    The same is looked for in YAML, which mmcv reads with all tags. Other files pass.

    Raises:
        DataError: it does, or cannot be read; nothing of it was run.
    """
    ending = path.suffix.lower()
    if ending in _YAMLS:
        raw = path.read_bytes()
        if b"!!python" in raw or b"tag:yaml.org,2002:python" in raw:
            raise DataError(f"{path}: holds Python objects, which can run code: give plain YAML")
    if ending not in _PICKLES:
        return
    try:
        with path.open("rb") as file:
            _DataOnly(file).load()
    except _Foreign as error:
        raise DataError(
            f"{path}: holds {error}, and a pickle can run code that way: save lists, tables and "
            "numpy's arrays alone"
        ) from None
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: is no pickle that can be read ({type(error).__name__}: {said}): correct "
            "the file"
        ) from error
