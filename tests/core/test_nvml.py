"""Questions to NVML, with a stand-in for nvidia-ml-py."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pytest_onnxdet
from pytest_onnxdet.core import nvml


class NvmlError(Exception):
    pass


def stand_in(calls: list[str], starts: bool = True) -> Any:
    def start() -> None:
        calls.append("init")
        if not starts:
            raise NvmlError

    return SimpleNamespace(
        NVMLError=NvmlError, nvmlInit=start, nvmlShutdown=lambda: calls.append("shutdown")
    )


def refuse(_: Any) -> None:
    raise NvmlError


def broken(_: Any) -> None:
    raise KeyError("a question's own mistake")


@pytest.mark.parametrize("starts", [True, False])
def test_nvml_is_shut_down_as_often_as_it_starts(
    monkeypatch: pytest.MonkeyPatch, starts: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(calls, starts))
    assert nvml.ask(lambda module: module is sys.modules["pynvml"]) is (True if starts else None)
    assert nvml.ask(refuse) is None
    assert calls == (["init", "shutdown"] if starts else ["init"]) * 2


def test_a_mistake_in_a_question_is_raised_after_the_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "pynvml", stand_in(calls))
    with pytest.raises(KeyError):
        nvml.ask(broken)
    assert calls == ["init", "shutdown"]


def test_without_nvidia_ml_py_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.ask(broken) is None


def test_text_of_either_kind() -> None:
    assert nvml.text("NVIDIA A10") == nvml.text(b"NVIDIA A10") == "NVIDIA A10"


def test_nothing_else_imports_it() -> None:
    package = Path(pytest_onnxdet.__file__).parent
    places = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(one.name == "pynvml" for one in node.names)
    ]
    assert places == ["core/nvml.py"]
