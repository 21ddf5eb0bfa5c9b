"""The second export: another process, another order of sets, the detector as it is."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportError, ExportOptions
from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.second_export import OTHER_PROCESS, SecondExporter
from pytest_onnxdet.verify.checks import CheckFailed, check_export

OPTIONS = ExportOptions(shape="static", size=(64, 96))

#: Loaded from its file, as pytest loads a conftest.py, and on no path.
NECK = """
from mmdet.models.necks import FPN

class Neck(FPN):
    def forward(self, inputs):
        first, *rest = super().forward(inputs)
        return first * (1.0 + {factor}), *rest
"""


@pytest.fixture(scope="module")
def exporter() -> Any:
    made = SecondExporter(threads=1)
    yield made
    made.close()


@pytest.fixture
def detector() -> Any:
    torch.set_num_threads(1)
    return build_detector(builtin_registry().get("retinanet"))


def first(detector: Any, tmp_path: Path) -> Any:
    from pytest_onnxdet.core.store import Artifact

    path = tmp_path / "first.onnx"
    return Artifact(path, "", False, export_detector(detector, OPTIONS, path))


def with_neck(detector: Any, tmp_path: Path, monkeypatch: Any, name: str, factor: str) -> None:
    file = tmp_path / "neck.py"
    file.write_text(NECK.format(factor=factor))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    detector.neck.__class__ = module.Neck


def test_the_same_bytes_come_out_of_another_process(
    exporter: SecondExporter, detector: Any, tmp_path: Path
) -> None:
    again = exporter.export(detector, OPTIONS)
    assert again.where == OTHER_PROCESS
    assert check_export(first(detector, tmp_path), again.path)
    assert exporter.export(detector, OPTIONS).path != again.path


def test_a_graph_that_hangs_on_the_order_of_a_set_is_caught(
    exporter: SecondExporter, detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one process its exports agree."""
    hashed = "hash('a name') % 10007 / 1e6"
    with_neck(detector, tmp_path, monkeypatch, "hashing_neck", hashed)
    artifact = first(detector, tmp_path)
    check_export(artifact, export_again(detector, tmp_path))
    again = exporter.export(detector, OPTIONS)
    assert again.where == OTHER_PROCESS
    with pytest.raises(CheckFailed, match="determinism: two exports differ"):
        check_export(artifact, again.path)


def export_again(detector: Any, tmp_path: Path) -> Path:
    export_detector(detector, OPTIONS, tmp_path / "again.onnx")
    return tmp_path / "again.onnx"


def test_classes_of_a_file_on_no_path_are_found(
    exporter: SecondExporter, detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_neck(detector, tmp_path, monkeypatch, "steady_neck", "0.25")
    again = exporter.export(detector, OPTIONS)
    assert again.where == OTHER_PROCESS
    check_export(first(detector, tmp_path), again.path)


def test_a_detector_that_cannot_be_sent_is_exported_here_and_that_is_told(
    exporter: SecondExporter, detector: Any, tmp_path: Path
) -> None:
    detector.callback = lambda: None
    again = exporter.export(detector, OPTIONS)
    assert again.where.startswith("in the same process, as the other one could not load it: ")
    check_export(first(detector, tmp_path), again.path)


def test_an_export_that_fails_there_only_is_an_error(
    exporter: SecondExporter, detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_neck(detector, tmp_path, monkeypatch, "failing_neck", "1 / 0")
    with pytest.raises(ExportError, match=r"in another process, failed: .*ZeroDivisionError"):
        exporter.export(detector, OPTIONS)


def test_a_process_that_ends_is_an_error_and_the_next_export_starts_another(
    detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = SecondExporter(threads=1)
    ending = "__import__('os')._exit(3)"
    with_neck(detector, tmp_path, monkeypatch, "ending_neck", ending)
    with pytest.raises(ExportError, match="ended with 3"):
        exporter.export(detector, OPTIONS)
    with_neck(detector, tmp_path, monkeypatch, "steady_again", "0.5")
    assert exporter.export(detector, OPTIONS).where == OTHER_PROCESS
    exporter.close()
    exporter.close()


def test_the_bench_exports_each_graph_once_and_takes_none_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def export(self: Any, detector: Any, options: ExportOptions, families: Any) -> Any:
        assert families is not None, "the other process looks the family up, too"
        asked.append(options.shape)
        path = tmp_path / f"{len(asked)}.onnx"
        path.write_text("graph")
        return SimpleNamespace(path=path, where=OTHER_PROCESS)

    monkeypatch.setattr(SecondExporter, "export", export)
    spec, backend = builtin_registry().get("retinanet"), SimpleNamespace(lowering="onnxruntime")
    settings = Settings(cache=tmp_path / "cache", limit=2)
    for _ in range(2):
        with Workbench(settings, builtin_datasets()) as bench:
            monkeypatch.setattr(bench, "detector", lambda spec: None)
            cases: list[Any] = [
                Case(spec, backend, "dynamic", 1),  # type: ignore[arg-type]
                Case(spec, backend, "dynamic", 2),  # type: ignore[arg-type]
                Case(spec, backend, "static", 1),  # type: ignore[arg-type]
            ]
            made = [bench.second_export(case).path for case in cases]
            assert len(set(made)) == 2 and all(path.exists() for path in made)
        assert not any(path.exists() for path in made)
    assert asked == ["dynamic", "static"] * 2
