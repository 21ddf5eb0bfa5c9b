"""The node to blame is the one that was broken, whichever way it is looked for."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import onnx
import pytest

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.families import lower
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.guilty import CHANGED, guilty_node, source_of
from pytest_onnxdet.verify.localize import Blame
from pytest_onnxdet.verify.mutants import operators

FAULTS = {one.name: one for one in operators()}
#: A fault of each kind of node, and what has to be named.
PLACES = {
    "zero_channel": "/bbox_head/retina_cls/Conv",
    "resize_mode": "/neck/Resize",
    "relu_leaky": "/bbox_head/cls_convs.0/activate/Relu",
    "swap_channels": "/bbox_head/reg_convs.0/conv/Conv",
}
EXPORT = Blame("export", ("lowering",), SimpleNamespace(faults=[SimpleNamespace(index=1)]))  # type: ignore[arg-type]


class Broken(NamedTuple):
    """A case at work, its deploy model, and what puts a fault into its graph."""

    bench: Workbench
    case: Case
    deploy: Any
    good: Artifact
    folder: Path

    def graph(self, fault: str, place: str) -> Artifact:
        model = FAULTS[fault].apply(onnx.load(self.good.path), place)
        assert model is not None
        path = self.folder / f"{fault}.onnx"
        onnx.save(model, path)
        return dataclasses.replace(self.good, path=path)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("guilty")
    settings = Settings(cache=folder / "cache", batches=(2,), limit=2)
    spec = builtin_registry().get("retinanet")
    case = Case(spec, OnnxRuntimeBackend("cpu"), "dynamic", 2)
    with Workbench(settings, builtin_datasets(), threads=1) as bench:
        deploy = lower(bench.detector(spec), case.backend.lowering, fixed_shape=False)
        yield Broken(bench, case, deploy, bench.artifact(case), folder)


@pytest.fixture
def graphs(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> Callable[[Artifact, Artifact], None]:
    """Makes these the case's graph and the one of a second export."""

    def are(artifact: Artifact, second: Artifact) -> None:
        monkeypatch.setattr(broken.bench, "artifact", lambda *_, **__: artifact)
        monkeypatch.setattr(broken.bench, "second_export", lambda *_, **__: second)

    return are


@pytest.mark.parametrize(("fault", "place"), PLACES.items())
def test_a_graph_that_was_changed_names_the_node(
    broken: Broken, graphs: Callable[..., None], fault: str, place: str
) -> None:
    graphs(broken.graph(fault, place), broken.good)
    said = guilty_node(broken.bench, broken.case, EXPORT, broken.deploy)
    assert f"{place!r}" in said and said.endswith(CHANGED)
    assert "worst at" in said


@pytest.mark.parametrize(("fault", "place"), PLACES.items())
def test_an_exporters_own_fault_names_the_node_and_pytorchs_value(
    broken: Broken, graphs: Callable[..., None], fault: str, place: str
) -> None:
    graphs(broken.graph(fault, place), broken.graph(fault, place))
    said = guilty_node(broken.bench, broken.case, EXPORT, broken.deploy)
    assert f"{place!r}" in said and CHANGED not in said
    assert "worst at" in said and "PyTorch computes it by aten." in said
    assert ".py:" in said and ".forward, line" in said


def test_of_a_good_graph_no_node_is_named(broken: Broken, graphs: Callable[..., None]) -> None:
    graphs(broken.good, broken.good)
    for stage in ("export", "runtime"):
        blame = dataclasses.replace(EXPORT, stage=stage)
        assert guilty_node(broken.bench, broken.case, blame, broken.deploy) == ""


@pytest.mark.parametrize("blame", [Blame(None), Blame("lowering"), Blame("export")])
def test_where_no_stage_is_named_no_node_is(blame: Blame) -> None:
    assert guilty_node(None, None, blame, None) == ""  # type: ignore[arg-type]


def test_a_search_that_fails_says_so(broken: Broken, graphs: Callable[..., None]) -> None:
    graphs(dataclasses.replace(broken.good, path=broken.folder / "gone"), broken.good)
    said = guilty_node(broken.bench, broken.case, EXPORT, broken.deploy)
    assert said.startswith("no node is named: FileNotFoundError")


def test_the_source_is_that_of_the_nearest_module_with_code_of_its_own(broken: Broken) -> None:
    found = source_of(broken.deploy.detector, "bbox_head.cls_convs.0.conv")
    assert found.startswith("mmcv.cnn.bricks.conv_module.ConvModule.forward, line ")
    assert source_of(broken.deploy.detector, "") == ""
    assert source_of(broken.deploy.detector, "no.such.module") == ""
