"""Backends that a project registers or replaces, and what of the machine a report tells."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy_project

from pytest_onnxdet.backends import builtin_backends
from pytest_onnxdet.backends.registry import BackendRegistry
from pytest_onnxdet.backends.tensorrt.backend import TensorRTBackend
from pytest_onnxdet.backends.tensorrt.profile import Profile
from pytest_onnxdet.report import machine

DOCS = Path(__file__).parents[2] / "docs" / "tensorrt.md"


def test_a_built_in_backend_is_replaced_by_one_of_other_options() -> None:
    registry = BackendRegistry(builtin_backends().values())
    before = list(registry.as_dict())
    profile = Profile((1, 64, 64), (1, 800, 1344), (4, 1344, 1344))
    ours = TensorRTBackend(profile=profile)
    with pytest.raises(ValueError, match="registered already"):
        registry.register(ours)
    registry.replace(ours)
    assert list(registry.as_dict()) == before
    assert registry.as_dict()["tensorrt"] is ours


def test_replacing_what_is_not_there_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no backend 'tensorrt' to replace; there are: none"):
        BackendRegistry().replace(TensorRTBackend())


def test_the_documented_hook_sets_the_profile() -> None:
    # The page's own lines.
    (code,) = (
        block.removeprefix("python\n")
        for block in DOCS.read_text().split("```")
        if block.startswith("python\n")
    )
    names: dict[str, object] = {}
    exec(code, names)
    registry = BackendRegistry(builtin_backends().values())
    names["pytest_onnxdet_backends"](registry)  # type: ignore[operator]
    backend = registry.as_dict()["tensorrt"]
    assert isinstance(backend, TensorRTBackend) and backend.profile is not None
    assert backend.profile.max[0] == 4


def test_a_project_replaces_a_backend_by_the_hook(toy: pytest.Pytester) -> None:
    toy.makeconftest(
        toy_project.CONFTEST
        + """
class Other(Toy):
    def prepare(self, artifact, threads=None):
        raise RuntimeError("the other one")


@pytest.hookimpl(trylast=True)
def pytest_onnxdet_backends(registry):
    registry.register(Toy())
    registry.replace(Other())
"""
    )
    result = toy.runpytest(
        "--onnxdet", "-m", "parity and one_net and static and batch1", "test_graphs.py"
    )
    result.stdout.fnmatch_lines(["*the other one*"])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("something else", None),
        (None, None),
    ],
)
def test_the_report_tells_the_gpus_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, version: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as where it is not installed
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "version")
    if text is not None:
        (tmp_path / "version").write_text(text)
    assert machine.environment()["versions"].get("nvidia-driver") == version


class NvmlError(Exception):
    pass


@pytest.mark.parametrize(("fault", "names"), [(None, ["A", "B"]), ("init", []), ("name", [])])
def test_the_report_asks_nvml_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str | None, names: list[str]
) -> None:
    def fails(*_: object) -> None:
        raise NvmlError

    shut: list[bool] = []
    nvml = SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=fails if fault == "init" else lambda: None,
        nvmlShutdown=lambda: shut.append(True),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetName=fails if fault == "name" else ["A", b"B"].__getitem__,
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(machine, "DRIVER", tmp_path / "none")
    environment = machine.environment()
    assert environment["devices"] == names
    assert environment["versions"].get("nvidia-driver") == (None if fault == "init" else "580.1")
    assert bool(shut) == (fault != "init")


def test_the_distribution_of_tensorrt_rtx_is_named_as_it_is_installed() -> None:
    # As the extra of this project and the message of the backend name it.
    assert "tensorrt-rtx-cu13" in machine.DISTRIBUTIONS
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert "tensorrt-rtx-cu13" in project
