"""The export check refuses every graph that departs from the contract."""

import numpy as np
import onnx
import pytest
from onnx import helper
from verify_graphs import HEIGHT, WIDTH, detector, fixed, save

from pytest_onnxdet.graph.describe import describe
from pytest_onnxdet.graph.walk import model_nodes
from pytest_onnxdet.verify.checks import CheckFailed, check_export

STATIC = {"shape": "static", "static_shape": (2, 3, HEIGHT, WIDTH)}


def failure(model, tmp_path, again=None, **info):
    with pytest.raises(CheckFailed) as caught:
        check_export(save(model, tmp_path / "model.onnx", **info), again, case_id="case-1")
    assert caught.value.stage == "export"
    assert caught.value.message.startswith("case-1: ")
    assert "look at: export" in caught.value.message
    assert {"nodes", "bytes", "opset"} <= caught.value.metrics.keys()
    return caught.value.message


@pytest.mark.parametrize("masks", [False, True])
def test_a_good_graph(tmp_path, masks):
    artifact = save(detector(masks), tmp_path / "model.onnx")
    assert check_export(artifact) == {
        "seconds": 0.1,
        "cached": False,
        "nodes": len(detector(masks).graph.node),
        "bytes": artifact.path.stat().st_size,
        "opset": 17,
        "domains": ["ai.onnx"],
    }
    assert check_export(save(fixed(detector(masks)), tmp_path / "static.onnx", **STATIC))


def test_equal_exports(tmp_path):
    one = save(detector(), tmp_path / "one.onnx")
    two = save(detector(), tmp_path / "two.onnx")
    assert check_export(one, two) == check_export(one, two.path)


def other_weight(model):
    array = onnx.numpy_helper.to_array(model.graph.initializer[-1]) + np.float32(1)
    name = model.graph.initializer[-1].name
    model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(array, name))


def other_node(model):
    model.graph.node[5].name = "renamed"


def more_nodes(model):
    model.graph.node.append(helper.make_node("Identity", ["dets"], ["unused"]))


def other_producer(model):
    model.producer_version = "2"


def other_metadata(model):
    model.doc_string = "made on a Tuesday"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (other_weight, ", 'bias' and 'bias'"),
        (other_node, "node 5, Sigmoid '' and Sigmoid 'renamed'"),
        (more_nodes, "entries of node"),
        (other_producer, "producer_version '' and '2'"),
        (other_metadata, "in metadata outside"),
    ],
)
def test_two_exports_that_differ(tmp_path, change, where):
    model = detector()
    change(model)
    other = save(model, tmp_path / "other.onnx")
    text = failure(detector(), tmp_path, again=other)
    assert "determinism: two exports differ: " in text
    assert where in text


def test_the_same_file_twice_proves_nothing(tmp_path):
    artifact = save(detector(), tmp_path / "model.onnx")
    assert "nothing was compared" in failure(detector(), tmp_path, again=artifact)


def test_an_unreadable_file(tmp_path):
    artifact = save(detector(), tmp_path / "model.onnx")
    artifact.path.write_bytes(b"\x80not a graph")
    with pytest.raises(CheckFailed, match="cannot be read"):
        check_export(artifact)


def test_a_graph_that_the_checker_refuses(tmp_path):
    model = detector()
    model.graph.node[0].input[1] = "nowhere"
    assert "onnx.checker: " in failure(model, tmp_path)


def test_a_type_that_shape_inference_refuses(tmp_path):
    model = detector()
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    text = failure(model, tmp_path)
    assert "onnx.checker: " in text
    assert "output labels: type FLOAT instead of INT64" in text


def rename_input(model):
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name == "image_shape":
                node.input[at] = "sizes"
    model.graph.input[1].name = "sizes"


def swap_outputs(model):
    dets, labels = model.graph.output
    pair = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in (labels, dets)]
    del model.graph.output[:]
    model.graph.output.extend(pair)


def flatten_dets(model):
    del model.graph.output[0].type.tensor_type.shape.dim[0]


def bake(name, axis, size):
    def change(model):
        values = {v.name: v for v in (*model.graph.input, *model.graph.output)}
        values[name].type.tensor_type.shape.dim[axis].dim_value = size

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_input, "inputs: input, sizes instead of input, image_shape"),
        (swap_outputs, "outputs: labels, dets instead of dets, labels"),
        (flatten_dets, "output dets: shape (K, 5) instead of (N, K, 5)"),
        (bake("input", 0, 1), "input input, axis 0 (N): baked to 1"),
        (bake("input", 2, 64), "input input, axis 2 (H): baked to 64"),
        (bake("input", 1, 1), "input input, axis 1: 1 instead of 3"),
        (bake("image_shape", 0, 1), "input image_shape, axis 0 (N): baked to 1"),
        (bake("dets", 1, 24), "output dets, axis 1 (K): baked to 24"),
        (bake("dets", 2, 6), "output dets, axis 2: 6 instead of 5"),
    ],
)
def test_the_contract(tmp_path, change, message):
    model = detector()
    change(model)
    assert message in failure(model, tmp_path)


def test_a_static_graph_must_be_static_at_the_recorded_size(tmp_path):
    assert "input input, axis 0: N instead of 2" in failure(detector(), tmp_path, **STATIC)
    text = failure(fixed(detector(), batch=1), tmp_path, **STATIC)
    assert "input input, axis 0: 1 instead of 2" in text
    assert "output labels, axis 0: 1 instead of 2" in text


def test_what_was_recorded_must_be_there(tmp_path):
    assert "recorded 16" in failure(detector(), tmp_path, opset=16)
    assert "instead of dets, labels, masks" in failure(
        detector(), tmp_path, outputs=("dets", "labels", "masks")
    )


def test_a_padded_lowering_may_fix_its_count(tmp_path):
    model = detector()
    bake("dets", 1, 24)(model)
    bake("labels", 1, 24)(model)
    assert check_export(save(model, tmp_path / "model.onnx", lowering="somebody's"))


def foreign(model):
    """A custom operator inside a branch, where a look at the top level misses it."""
    node = helper.make_node("Gift", ["labels"], ["given"], domain="santa")
    value = helper.make_tensor_value_info("given", onnx.TensorProto.INT64, None)
    branch = helper.make_graph([node], "branch", [], [value])
    truth = onnx.numpy_helper.from_array(np.array(True), "truth")
    model.graph.initializer.append(truth)
    model.graph.node.append(
        helper.make_node("If", ["truth"], ["x"], then_branch=branch, else_branch=branch)
    )
    model.opset_import.append(helper.make_opsetid("santa", 1))


def function(model):
    body = [helper.make_node("Wrap", ["a"], ["b"], domain="paper")]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("paper", 1)]
    model.functions.append(helper.make_function("local", "Box", ["a"], ["b"], body, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node.append(helper.make_node("Box", ["labels"], ["x"], domain="local"))


def test_foreign_operators_in_branches_and_functions():
    model = detector()
    foreign(model)
    assert describe(model)["domains"] == ["ai.onnx", "santa"]
    function(model)
    assert describe(model)["domains"] == ["ai.onnx", "local", "paper", "santa"]
    assert sum(node.op_type == "Gift" for node in model_nodes(model)) == 2


def test_foreign_operators_are_counted_and_named(tmp_path):
    model = detector()
    foreign(model)
    text = failure(model, tmp_path)
    assert "operator santa::Gift is not of the default domain: 2 node(s), first of output" in text


def topk(k):
    """Adds a TopK of the scores; ``k``: a constant, or None for one that is computed."""

    def change(model):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([k or 3], np.int64), "k0")
        )
        if k is None:
            model.graph.node.append(helper.make_node("Identity", ["k0"], ["k"]))
        else:
            model.graph.initializer[-1].name = "k"
        node = helper.make_node("TopK", ["kept_score", "k"], ["v", "i"], name="pick", axis=0)
        model.graph.node.append(node)

    return change


@pytest.mark.parametrize(
    ("k", "text"),
    [
        (3840, None),
        (3841, "TopK pick: K is 3841, and TensorRT takes at most 3840"),
        (None, "TopK pick: its K is computed, and TensorRT takes a constant"),
    ],
)
def test_what_tensorrts_builder_does_not_take(tmp_path, k, text):
    model = detector()
    topk(k)(model)
    message = failure(model, tmp_path, lowering="tensorrt")
    assert "operator NonMaxSuppression: TensorRT does not build it" in message
    assert text is None or text in message
    assert (text is None) == ("TopK pick" not in message)
    assert check_export(save(model, tmp_path / "model.onnx", lowering="onnxruntime"))


def test_channels_are_those_that_the_exporter_recorded(tmp_path):
    grey = fixed(detector())
    grey.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    static = {"shape": "static", "static_shape": (2, 1, HEIGHT, WIDTH), "channels": 1}
    assert check_export(save(grey, tmp_path / "grey.onnx", **static))
    message = failure(fixed(detector()), tmp_path, **static)
    assert "input input, axis 1: 3 instead of 1" in message
