"""The crowd at the data set's end reaches the detectors' limits, so a graph that cuts elsewhere
does not pass."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pytest_onnxdet.backends.base import Session
from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batches
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.reference.detector import max_per_img
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.cuts import Counting
from pytest_onnxdet.run.parity import sides, tie_proofs
from pytest_onnxdet.verify.judge import Verdict, judge
from pytest_onnxdet.verify.verdict import DIFFERENT

MINIS = builtin_registry().select((), "mini")
CROWD = 72
# Of 128 x 160 px level 0 has 16 x 20 positions and so 960 pairs of position and class.
FEWER_PAIRS = ("fcos", "fsaf", "atss")
# YOLOX keeps all that it finds, and SOLOv2 finds fewer than it keeps where the crowd is not padded.
UNREACHED = ("yolox", "solov2")
NO_NMS_PRE = ("yolov3", "cornernet", "detr", "yolox", "deformable_detr", "solov2")


class CutBackend(OnnxRuntimeBackend):
    """ONNX Runtime on a graph whose outputs lack the slots from the ``keep``-th on."""

    keep: ClassVar[int] = 60
    name: ClassVar[str] = "cut"

    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        model = onnx.load(artifact.path)
        if any(output.name == "dets" for output in model.graph.output):
            artifact = replace(artifact, path=self._cut(model, artifact.path))
        return OnnxRuntimeBackend("cpu").prepare(artifact, threads)

    def _cut(self, model: onnx.ModelProto, path: Path) -> Path:
        for name, value in (("from", 0), ("to", self.keep), ("axis", 1)):
            constant = numpy_helper.from_array(np.array([value], np.int64), f"cut_{name}")
            model.graph.initializer.append(constant)
        for output in model.graph.output:
            for node in model.graph.node:
                node.output[:] = [f"{o}_all" if o == output.name else o for o in node.output]
                node.input[:] = [f"{i}_all" if i == output.name else i for i in node.input]
            wanted = [f"{output.name}_all", "cut_from", "cut_to", "cut_axis"]
            model.graph.node.append(helper.make_node("Slice", wanted, [output.name]))
            output.type.tensor_type.shape.dim[1].dim_param = f"kept_{output.name}"
        place = path.with_name(f"{path.stem}.cut{self.keep}.onnx")
        onnx.save(model, place)
        return place


class Cut99(CutBackend):
    keep = 99
    name = "cut99"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    settings = Settings(cache=tmp_path_factory.mktemp("cuts"))
    with Workbench(settings, builtin_datasets(), threads=1) as made:
        yield made


def verdict(bench: Workbench, case: Case) -> Verdict:
    """The judge's, as the suite asks it."""
    tolerance = case.spec.tolerance(case.backend.name, case.precision, "cpu")
    both = sides(bench, case, bench.results(case), bench.candidates(case))
    return judge(both, tolerance, tie_proofs(bench, case, tolerance))


@pytest.mark.parametrize("model", ["ssd", "faster_rcnn"])
def test_a_graph_that_cuts_at_60_or_99_is_caught_by_the_crowd_alone(
    bench: Workbench, model: str
) -> None:
    (spec,) = (one for one in MINIS if one.name == model)
    cases = [Case(spec, b, "dynamic", 1) for b in (OnnxRuntimeBackend("cpu"), CutBackend())]
    good, at_60 = (verdict(bench, case) for case in cases)
    at_99 = verdict(bench, Case(spec, Cut99(), "dynamic", 1))
    assert good.ok, good.message
    assert bench.recording(cases[0]).cuts["max_per_img"] == 1
    # Without the crowd no image has so many detections, but for Faster R-CNN's 62 in one.
    limit = sorted(len(one) for one in bench.results(cases[0]))[-2]
    for bad, keep in ((at_60, 60), (at_99, 99)):
        assert not bad.ok and "missed" in bad.images[CROWD].reason
        assert len(bad.images) == CROWD + 1
        differ = [image.index for image in bad.images if image.outcome == DIFFERENT]
        assert (differ == [CROWD]) == (limit <= keep)
    assert limit < 63


@pytest.mark.parametrize("spec", MINIS, ids=lambda spec: spec.name)
def test_the_crowd_reaches_every_limit_that_its_size_allows(bench: Workbench, spec: object) -> None:
    counting, case = Counting(bench.reference(spec)), Case(spec, OnnxRuntimeBackend(), "dynamic", 1)
    for shape in ("dynamic", "static"):
        batches: Batches = bench.batches(replace(case, shape=shape))
        before = dict(counting.reached)
        (result,) = counting.run(batches[CROWD])
        limit = max_per_img(bench.detector(spec))
        reached = len(result) == limit
        assert reached or spec.name in UNREACHED
        now = {cut: count - before[cut] for cut, count in counting.reached.items()}
        assert now.pop("max_per_img", 0) == reached
        assert ("nms_pre" in now) == (spec.name not in NO_NMS_PRE), now
        assert now.pop("nms_pre", 0) == (spec.name not in (*NO_NMS_PRE, *FEWER_PAIRS))
        assert set(now) <= {"proposals"}


def test_an_ordinary_scene_reaches_none_of_a_dense_detectors(bench: Workbench) -> None:
    (spec,) = (one for one in MINIS if one.name == "fcos")
    counting = Counting(bench.reference(spec))
    case = Case(spec, OnnxRuntimeBackend(), "dynamic", 2)
    counting.run(bench.batches(case)[0])
    assert counting.reached == {"nms_pre": 0, "max_per_img": 0}
    head = bench.detector(spec).bbox_head
    assert "forward" not in vars(head)  # nothing is left behind


def test_images_that_only_fill_a_batch_are_not_counted(bench: Workbench) -> None:
    (spec,) = (one for one in MINIS if one.name == "ssd")
    counting = Counting(bench.reference(spec))
    batch = bench.batches(Case(spec, OnnxRuntimeBackend(), "static", 2))[CROWD // 2]
    assert batch.valid == 1 and len(batch.images) == 2
    counting.run(batch)
    assert counting.reached == {"nms_pre": 1, "max_per_img": 1}
