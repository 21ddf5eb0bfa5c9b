"""A config file as mmcv reads it, and what is wrong with one: the file, the line and the remedy.

mmcv copies a file, imports the copy, and does the same with its bases. Whatever happens there is
told of the copy, in a folder that is gone by then. So files are looked at first, base by base, and
what their code raises afterwards is traced back to the file and line that it stands in.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.models.checkpoint import BuildError, one_line

if TYPE_CHECKING:
    import mmcv

SUFFIXES = (".py", ".json", ".yaml", ".yml")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_BOM = b"\xef\xbb\xbf"
MMDET_3 = (
    "this is MMDetection 3's, and this package verifies MMDetection 2.x: take the {what} of the "
    "same model from MMDetection 2.28 (branch 2.x), or {instead}"
)


def of_mmdet_3(what: str) -> str:
    """What to say of a ``config`` or ``checkpoint`` of MMDetection 3."""
    instead = {
        "config": "write its model for 2.x: no data_preprocessor, the pipeline with Normalize and "
        "Pad in data.test",
        "checkpoint": "if the network is the same, save its weights alone: "
        'torch.save({"state_dict": {k: v for k, v in S.items() if not '
        'k.startswith("data_preprocessor.")}}, FILE), with S the state_dict',
    }
    return MMDET_3.format(what=what, instead=instead[what])


def read_config_file(path: Path) -> mmcv.Config:
    """The config as mmcv reads it, its ``custom_imports`` not yet imported.

    Raises:
        BuildError: it, or a base of it, is missing or cannot be read; the message names the file
            and the line.
    """
    import mmcv

    _require_source(path, ())
    before = list(sys.path)
    try:
        try:
            return mmcv.Config.fromfile(str(path), import_custom_modules=False)
        except SystemError:
            # CPython 3.11's ast module keeps its recursion depth in shared state, and parsing fails
            # ("AST constructor recursion depth mismatch") when a collection interrupts it. Once.
            return mmcv.Config.fromfile(str(path), import_custom_modules=False)
    except (Exception, SystemExit) as error:  # a config is Python: anything can come out of it
        where, text = _place(error, path), one_line(error)
        missing = isinstance(error, ModuleNotFoundError) and error.name
        _let_go(error)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise BuildError(
                f"{path}: mmcv reads a copy, and {tempfile.gettempdir()} takes none "
                f"({error.strerror}): set TMPDIR to a folder with room"
            ) from None
        if missing and str(missing).startswith("mmengine"):
            raise BuildError(f"{where}: {text}: {of_mmdet_3('config')}") from None
        raise BuildError(f"{where}: the config does not parse: {text}: correct the file") from None
    finally:
        sys.path[:] = before  # mmcv leaves its copy's folder there where the copy raises


def _require_source(path: Path, above: tuple[Path, ...]) -> None:
    """Refuses a file, or a base of it, that mmcv cannot take for a config; raises `BuildError`."""
    if above and not path.is_file():
        if "::" in str(path):
            raise BuildError(f"{above[-1]}: `_base_` is {path.name!r}: {of_mmdet_3('config')}")
        if kind := no_file(path):
            raise BuildError(f"{above[-1]}: its `_base_` {path} is {kind}: give a config file")
        raise BuildError(
            f"{above[-1]}: its `_base_` {path} is not there: correct the path, which is relative "
            "to the file"
        )
    if path in above:
        raise BuildError(f"{above[-1]}: its `_base_` {path} leads back to itself: take it out")
    if path.suffix not in SUFFIXES:
        raise BuildError(f"{path}: a config is a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.startswith(_BOM):
        raise BuildError(
            f"{path}: begins with a byte order mark, which mmcv does not read: save it as UTF-8 "
            "without one (in Windows' editors: UTF-8, not UTF-8 with BOM)"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BuildError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02x}): save it as "
            "UTF-8"
        ) from error
    if path.suffix == ".py":
        for base in _bases(_parsed(text, path), path):
            _require_source(base, (*above, path))


def based_on(path: Path) -> Iterator[Path]:
    """The files that a config inherits from, and those that they do, where they are written out.

    Args:
        path: a config that :func:`read_config_file` reads.
    """
    if path.suffix == ".py":
        for base in _bases(_parsed(path.read_text(encoding="utf-8"), path), path):
            yield base
            yield from based_on(base)


def _parsed(text: str, path: Path) -> ast.Module:
    for attempt in (1, 2):
        try:
            return ast.parse(text, str(path))
        except SystemError:  # as above
            if attempt == 2:
                raise
        except (SyntaxError, ValueError) as error:
            number = getattr(error, "lineno", None)
            line = f", line {number}" if number else ""
            quoted = str(getattr(error, "text", None) or "").strip()
            said = getattr(error, "msg", None) or str(error)
            raise BuildError(
                f"{path}{line}: the config does not parse: {said}"
                f"{f' in {quoted[:80]!r}' if quoted else ''}: correct the file"
            ) from error
    raise AssertionError("one of the attempts returns or raises")


def _bases(tree: ast.Module, path: Path) -> Iterator[Path]:
    """The files that a config names as its bases, where they are written out."""
    known = {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not any(
            isinstance(target, ast.Name) and target.id == "_base_" for target in node.targets
        ):
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:  # computed: mmcv says whether it is there
            continue
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str):
                raise BuildError(
                    f"{path}, line {node.lineno}: `_base_` holds {name!r}: give paths of configs"
                )
            name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: known.get(m[1], m[0]), name)
            yield Path(os.path.abspath(path.parent / name))


def _place(error: BaseException, path: Path) -> str:
    """The file, and in Python its line, at which a config's own code raised."""
    file, line = str(path), None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_name == "_file2dict":
            file = str(trace.tb_frame.f_locals.get("filename", file))
        elif code.co_name == "<module>" and Path(code.co_filename).parent.name.startswith("tmp"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return file if line is None else f"{file}, line {line}"


def _let_go(error: BaseException) -> None:
    """Drops what an error holds on to, without a word.

    mmcv's temporary file is in a folder that is gone. Python prints a traceback of its own when
    such a file is collected.
    """
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__
    with _unraisable_dropped():
        for link in chain:
            traceback.clear_frames(link.__traceback__)
            link.__traceback__ = None


@contextlib.contextmanager
def _unraisable_dropped() -> Iterator[None]:
    """For the duration of the block, a file that is gone may be collected in silence."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, FileNotFoundError):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
