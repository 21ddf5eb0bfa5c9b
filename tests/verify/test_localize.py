"""The stage and the node to blame are the ones that were broken."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from verify_graphs import detector, feeds, run, save, to_detections
from verify_samples import CLASSES, TOLERANCE, detections, empty, nudge

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.graph.cut import with_outputs
from pytest_onnxdet.run.eager import Eager
from pytest_onnxdet.verify.localize import Stage, localize, standard_stages
from pytest_onnxdet.verify.mutants import operators
from pytest_onnxdet.verify.nodes import first_differing_node, ort_runner, scope, tensors

NAMES = ("lowering", "export", "runtime")
GOOD = [detections(s) for s in range(2)]
BAD = [GOOD[0], nudge(GOOD[1], "boxes", 3, np.float32([1, 0, 0, 0]))]


def walk(reference, *results):
    stages = [Stage(n, lambda r=r: r) for n, r in zip(NAMES, results, strict=True)]
    return localize(reference, stages, TOLERANCE, classes=CLASSES, images=["a", "b"])


@pytest.mark.parametrize("broken", range(3))
def test_the_first_step_that_changes_something_is_blamed(broken):
    blame = walk(GOOD, *[BAD if at >= broken else GOOD for at in range(3)])
    assert blame.stage == NAMES[broken]
    assert blame.before == NAMES[:broken]
    assert [m.kind for m in blame.result.faults] == ["box_shift"]
    assert f"stage to blame: {NAMES[broken]}" in str(blame)
    assert "image 1 (b)" in str(blame)


def test_a_step_that_raises_is_blamed_and_later_ones_are_not_run():
    def fail():
        raise RuntimeError("out of memory")

    stages = [Stage("lowering", lambda: GOOD), Stage("export", fail), Stage("runtime", 1 / 1)]
    blame = localize(GOOD, stages, TOLERANCE)
    assert (blame.stage, blame.before) == ("export", ("lowering",))
    assert "RuntimeError: out of memory" in str(blame)


def test_a_step_that_loses_an_image_is_blamed():
    assert walk(GOOD, GOOD, GOOD[:1], GOOD[:1]).stage == "export"


def test_a_step_that_loses_everything_is_blamed():
    nothing = [empty(), empty()]
    assert walk(GOOD, nothing, nothing, nothing).stage == "lowering"


def test_no_difference_and_a_sum_of_small_ones():
    assert walk(GOOD, GOOD, GOOD, GOOD).stage is None
    step = [nudge(GOOD[0], "boxes", 0, np.float32([k * 8e-3, 0, 0, 0])) for k in range(4)]
    blame = walk([step[0]], [step[1]], [step[2]], [step[3]])
    assert blame.stage is None
    assert "their sum is not" in str(blame)


@pytest.mark.parametrize("stage", range(3))
def test_a_step_that_decides_a_tie_otherwise_is_not_blamed(stage):
    """BAD is what the reference might have detected, too: asked of the stage that did."""
    asked = []

    def alternatives(one, index, candidate):
        asked.append((one.name, index))
        assert candidate is BAD[1]
        return [GOOD[1], BAD[1]]

    results = [BAD if at == stage else GOOD for at in range(3)]
    stages = [Stage(n, lambda r=r: r) for n, r in zip(NAMES, results, strict=True)]
    assert localize(GOOD, stages, TOLERANCE).stage == NAMES[stage]
    blame = localize(GOOD, stages[: stage + 1], TOLERANCE, alternatives=alternatives)
    assert blame.stage is None and blame.note == "nothing differs here"
    assert asked[0] == (NAMES[stage], 1)


def test_what_differs_beside_a_tie_is_blamed():
    other = nudge(GOOD[0], "boxes", 0, np.float32([1, 0, 0, 0]))
    stages = [Stage("lowering", lambda: GOOD), Stage("export", lambda: [other, BAD[1]])]
    blame = localize(
        GOOD,
        stages,
        TOLERANCE,
        alternatives=lambda _, index, candidate: [candidate] if index else [],
    )
    assert blame.stage == "export"
    assert {fault.index for fault in blame.result.faults} == {0}


def test_a_proof_that_fails_or_proves_nothing_leaves_the_blame():
    def fail(*_):
        raise RuntimeError("no raw outputs")

    stages = [Stage("lowering", lambda: BAD)]
    for alternatives in (fail, lambda *_: [], lambda *_: GOOD):
        assert localize(GOOD, stages, TOLERANCE, alternatives=alternatives).stage == "lowering"


def test_a_stage_that_loses_everything_is_not_saved_by_a_proof():
    nothing = [empty(), empty()]
    stages = [Stage("lowering", lambda: nothing)]
    blame = localize(GOOD, stages, TOLERANCE, alternatives=lambda _, __, candidate: [candidate])
    assert blame.stage == "lowering"


class Deploy:
    """A deploy model as the chain sees one: tensors in, tensors out, names of the outputs."""

    outputs = ("dets", "labels")

    def __init__(self, model):
        self.model = model

    def __call__(self, images, image_shape):
        import torch

        outputs = run(self.model, {"input": images.numpy(), "image_shape": image_shape.numpy()})
        return tuple(torch.from_numpy(outputs[name]) for name in self.outputs)


class Backend:
    def __init__(self, model):
        self.model = model

    def run(self, batch):
        return run(self.model, {"input": batch.images, "image_shape": batch.image_shape})


@pytest.mark.parametrize("broken", range(3))
def test_the_standard_chain(tmp_path, broken):
    mistake = next(m for m in operators() if m.name == "box_shift").apply(detector())
    graphs = [mistake if at >= broken else detector() for at in range(3)]
    batches = [
        Batch(values["input"], values["image_shape"], [{"scale_factor": np.ones(4)}] * 2)
        for values in (feeds(0), feeds(1))
    ]
    reference = [one for s in range(2) for one in to_detections(run(detector(), feeds(s)))]
    artifact = save(graphs[1], tmp_path / "model.onnx")
    stages = standard_stages(Eager(Deploy(graphs[0])), artifact, Backend(graphs[2]), batches)
    assert tuple(stage.name for stage in stages) == NAMES
    assert localize(reference, stages, TOLERANCE).stage == NAMES[broken]


def test_each_step_of_the_standard_chain_tells_its_own_raw_outputs(tmp_path):
    artifact, batch = save(detector(), tmp_path / "model.onnx"), Batch(*feeds(0).values(), [])
    deploy = Deploy(detector())
    deploy.raw = lambda *arrays: dict(zip(Deploy.outputs, deploy(*arrays), strict=True))
    stages = standard_stages(
        Eager(deploy),
        artifact,
        Backend(detector()),
        [],
        raw_lowered=lambda: Eager(deploy, raw=True),
        raw_artifact=lambda: artifact,
        raw_session=lambda: Backend(detector()),
    )
    for stage in stages:
        outputs = stage.raw().run(batch)
        np.testing.assert_allclose(outputs["dets"], run(detector(), feeds(0))["dets"], atol=1e-3)
    without = standard_stages(Eager(deploy), artifact, Backend(None), [])
    assert [stage.raw for stage in without] == [None] * 3


def test_the_outputs_of_a_copy_are_more():
    model = detector()
    more = with_outputs(model, ["mapped", "dets"])
    assert [v.name for v in model.graph.output] == ["dets", "labels"]
    assert [v.name for v in more.graph.output] == ["dets", "labels", "mapped"]
    assert run(more, feeds())["mapped"].shape == (2, 7, 64, 96)
    assert tensors(model)[0] == "mapped"


def runners():
    return ort_runner(feeds(), optimised=False), ort_runner(feeds(), optimised=True)


@pytest.mark.parametrize("window", [9, 128])
def test_equal_graphs_have_no_first_difference(window):
    model = detector()
    assert first_differing_node(model, model, *runners(), window=window) is None


@pytest.mark.parametrize("window", [9, 128])
@pytest.mark.parametrize("at", ["linear", "inside", "which", "labels"])
def test_the_broken_node_is_named(at, window):
    """One node's output is changed; all after it differ too, and are not blamed."""
    bad = detector()
    index, node = next((i, n) for i, n in enumerate(bad.graph.node) if at in n.output)
    kind = np.int64 if at in ("which", "labels") else np.float32
    bad.graph.initializer.append(numpy_helper.from_array(np.array(2, kind), "two"))
    node.output[0] = "before"
    bad.graph.node.insert(index + 1, helper.make_node("Mul", ["before", "two"], [at], name="bug"))
    blame = first_differing_node(detector(), bad, *runners(), window=window)
    assert (blame.name, blame.op_type, blame.tensor) == ("bug", "Mul", at)
    assert blame.index == index + 1
    assert blame.difference.count
    assert f"node {index + 1}, Mul 'bug': {at}: " in str(blame)


def test_a_broken_weight_is_found_at_its_node():
    bad = detector()
    weight = next(t for t in bad.graph.initializer if t.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, "weight"))
    bad.graph.node[0].name = "/detector/backbone/conv1/Conv"
    blame = first_differing_node(detector(), bad, *runners())
    assert "Conv '/detector/backbone/conv1/Conv' in detector.backbone.conv1: mapped: " in str(blame)


def test_a_fault_that_shows_only_unobserved():
    """A runtime that breaks what it fuses around one tensor, and is right when watched there."""
    model, good = detector(), ort_runner(feeds(), optimised=False)

    def fusing(graph, names):
        outputs = dict(good(graph, names))
        watched = {value.name for value in graph.graph.output}
        if "inside" not in watched and graph.graph.node[-1].output[0] == "labels":
            outputs["dets"] = outputs["dets"] + 1
        return outputs

    blame = first_differing_node(model, model, good, fusing, window=128)
    assert (blame.op_type, blame.tensor, blame.difference) == ("Min", "inside", None)
    assert "look at an optimisation here" in str(blame)


def test_scope_from_metadata():
    node = onnx.NodeProto(name="node_conv_1")
    assert scope(node) == ""
    node.metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'backbone', 'backbone.fc', 'linear']"
    )
    assert scope(node) == "backbone.fc"
