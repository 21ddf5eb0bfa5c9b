"""A second export of a graph, in a process whose sets have another order.

Within one process a set of names always comes in the same order, and what is memoised stays: two
exports there agree however much they depend on either. So the second one is made by a process of
its own with another ``PYTHONHASHSEED``, from the detector as it is, and never taken from a cache.
One such process serves a whole run: importing PyTorch and mmdet takes it longer than an export.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pytest_onnxdet.export.options import ExportError, ExportOptions, NoLoweringError

if TYPE_CHECKING:
    from torch import nn

OTHER_PROCESS = "in another process"
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pytest_onnxdet.run.second_export import serve; serve()"
)


class SecondExport(NamedTuple):
    """A graph to hold the first one against.

    Attributes:
        path: its file.
        where: :data:`OTHER_PROCESS`, or that it was made in the same process and why.
    """

    path: Path
    where: str


class SecondExporter:
    """Exports in a process of its own, which is started when it is first needed.

    Args:
        threads: for PyTorch; None: no limit.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[bytes] | None = None
        self._detector: weakref.ref[nn.Module] | None = None
        self._modules: dict[str, str] = {}
        self._count = 0

    def export(self, detector: nn.Module, options: ExportOptions, **more: Any) -> SecondExport:
        """The detector's graph, exported anew; its file is the caller's to delete.

        A detector that the other process cannot load, for it is made of classes that only this one
        knows, is exported here, and ``where`` says so.

        Args:
            detector: one of mmdet's detectors in eval mode.
            options: which graph.
            more: further arguments of ``export_detector``; the same for the same detector.

        Raises:
            ExportError: the export failed, or its process ended.
        """
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="onnxdet-second-")
        self._count += 1
        path = Path(self._folder.name) / f"{self._count}.onnx"
        answer = self._ask(detector, options, path, more)
        if answer.get("failed") == "load":
            from pytest_onnxdet.export.exporter import export_detector

            export_detector(detector, options, path, **more)
            why = f"the other one could not load it: {answer['message']}"
            return SecondExport(path, f"in the same process, as {why}")
        if "failed" in answer:
            raise ExportError(f"a second export, {OTHER_PROCESS}, failed: {answer['message']}")
        return SecondExport(path, OTHER_PROCESS)

    def close(self) -> None:
        """Ends the process and deletes its files; calling it twice is harmless."""
        if self._process is not None:
            # At the end of its input it ends by itself; what it holds is no loss.
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = self._detector = None

    def _ask(
        self, detector: nn.Module, options: ExportOptions, path: Path, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        assert self._folder is not None
        file = Path(self._folder.name) / "detector.pt"
        if self._detector is None or self._detector() is not detector:
            self._detector = None
            try:
                self._modules = _save((detector, dict(more)), file)
            except Exception as error:  # pickle raises whatever an object's own code does
                return {"failed": "load", "message": f"{type(error).__name__}: {error}"}
            self._detector = weakref.ref(detector)
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        request = {
            "detector": str(file),
            "stamp": file.stat().st_mtime_ns,
            "modules": self._modules,
            "options": asdict(options),
            "path": str(path),
            "threads": self._threads,
        }
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code, last = process.wait(), self._last_words()
            self.close()
            raise ExportError(f"the process of the second export ended with {code}: {last}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONHASHSEED": seed},
            text=True,
        )
        return self._process

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])


def _save(thing: object, file: Path) -> dict[str, str]:
    """Pickles a thing into a file; returns the modules that it is made of, and their files."""
    import torch

    names: set[str] = set()

    class Noting(pickle.Pickler):
        def reducer_override(self, part: Any) -> Any:
            kind = part if isinstance(part, type | FunctionType) else type(part)
            names.add(kind.__module__)
            return NotImplemented

    torch.save(thing, file, pickle_module=SimpleNamespace(__name__="pickle", Pickler=Noting))
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in names}
    return {name: path for name, path in files.items() if path}


def serve() -> None:
    """Exports what it is asked for, a JSON line each, until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
    from pytest_onnxdet.reference.threads import share_cores

    ensure_torchvision()
    detector: Any = None
    more: dict[str, Any] = {}
    stamp: object = None
    limited = False
    for request in map(json.loads, sys.stdin):
        if not limited:
            share_cores(request["threads"])
            limited = True
        answer = {}
        try:
            if stamp != request["stamp"]:
                detector, more = _load(request)
                stamp = request["stamp"]
        except Exception as error:
            answer = _failure("load", error)
        else:
            answer = _export(detector, request, more)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _load(request: Mapping[str, Any]) -> Any:
    import torch

    # A conftest.py, or a module that pytest imported from its file, is on no path.
    for name, file in request["modules"].items():
        if name not in sys.modules and not _importable(name, file):
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    return torch.load(request["detector"], weights_only=False)


def _importable(name: str, file: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin == file


def _export(detector: Any, request: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, str]:
    from pytest_onnxdet.export.exporter import export_detector

    options = request["options"]
    options = ExportOptions(**{**options, "size": tuple(options["size"])})
    try:
        export_detector(detector, options, Path(request["path"]), **more)
    except NoLoweringError as error:  # a family that only the first process knows
        return _failure("load", error)
    except Exception as error:
        return _failure("export", error)
    return {}


def _failure(stage: str, error: Exception) -> dict[str, str]:
    return {"failed": stage, "message": f"{type(error).__name__}: {error}"}
