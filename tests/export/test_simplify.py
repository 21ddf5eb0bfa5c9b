"""Simplified graphs keep their interface, compute the same, or are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pytest_onnxdet.export import simplify as subject
from pytest_onnxdet.export.simplify import SimplifyError, simplify

FLOAT = TensorProto.FLOAT


def info(name: str, axes: list[Any], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, axes)


def model(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    made.producer_name, made.producer_version = "pytest-onnxdet", "1"
    onnx.checker.check_model(made, full_check=True)
    return made


def detector() -> onnx.ModelProto:
    """Free axes by the exporter's names, a size that it could not tell, and a node too many."""
    nodes = [
        helper.make_node("Identity", ["input"], ["a"]),
        helper.make_node("Relu", ["a"], ["dets"]),
    ]
    return model(
        nodes,
        [info("input", ["batch", 3, "height", "width"])],
        [info("dets", ["batch", "?", "height", "width"])],
    )


def test_nodes_go_and_the_interface_stays() -> None:
    original = detector()
    before = original.SerializeToString()
    slim = simplify(original)
    assert original.SerializeToString() == before
    assert [node.op_type for node in slim.graph.node] == ["Relu"]
    axes = [d.dim_param or d.dim_value for d in slim.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    assert (slim.producer_name, slim.producer_version) == ("pytest-onnxdet", "1")
    assert not slim.graph.value_info


def fix(side: str, axis: int, value: int | str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """A simplifier that sets one axis of the first input or output."""

    def slim(graph: onnx.ModelProto) -> onnx.ModelProto:
        dim = getattr(graph.graph, side)[0].type.tensor_type.shape.dim[axis]
        if isinstance(value, int):
            dim.dim_value = value
        else:
            dim.dim_param = value
        return graph

    return slim


def rename(graph: onnx.ModelProto) -> onnx.ModelProto:
    graph.graph.output[0].name = graph.graph.node[-1].output[0] = "boxes"
    return graph


def retype(graph: onnx.ModelProto) -> onnx.ModelProto:
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return graph


def flatten(graph: onnx.ModelProto) -> onnx.ModelProto:
    del graph.graph.output[0].type.tensor_type.shape.dim[2:]
    return graph


@pytest.mark.parametrize(
    ("slim", "side", "message"),
    [
        (fix("input", 0, 1), "input", "('FLOAT', 1, 3, 'height', 'width')"),
        (fix("input", 2, 800), "input", "('FLOAT', 'batch', 3, 800, 'width')"),
        (fix("input", 1, 4), "input", "('FLOAT', 'batch', 4, 'height', 'width')"),
        (fix("input", 1, "channels"), "input", "'channels'"),
        (fix("output", 0, 2), "output", "('FLOAT', 2, '?', 'height', 'width')"),
        (rename, "output", "'boxes'"),
        (retype, "input", "FLOAT16"),
        (flatten, "output", "('FLOAT', 'batch', '?')"),
    ],
)
def test_a_changed_interface_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    slim: Callable[[onnx.ModelProto], onnx.ModelProto],
    side: str,
    message: str,
) -> None:
    monkeypatch.setattr("onnxslim.slim", slim)
    with pytest.raises(SimplifyError, match="leave --simplify out") as caught:
        simplify(detector())
    assert f"onnxslim changes the graph's {side}s from" in str(caught.value)
    assert message in str(caught.value).split(" to ")[1]


def test_a_size_that_the_exporter_could_not_tell_may_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxslim.slim", fix("output", 1, 3))
    assert simplify(detector()).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3


def test_an_input_that_nothing_reads_stays() -> None:
    """YOLOv3 never clips, and its callers feed image_shape as they do everywhere."""
    original = detector()
    original.graph.input.append(info("image_shape", ["batch", 2], TensorProto.INT64))
    original.graph.input.insert(0, info("first", [1]))
    slim = simplify(original)
    assert list(slim.graph.input) == list(original.graph.input)
    onnx.checker.check_model(slim, full_check=True)


def test_an_axis_of_results_keeps_its_name() -> None:
    """DETR finds as many in every image; onnxslim sees that, and callers look for the name."""
    nodes = [
        helper.make_node("Identity", ["input"], ["a"]),
        helper.make_node("Relu", ["a"], ["dets"]),
    ]
    original = model(
        nodes, [info("input", ["batch", 12, 5])], [info("dets", ["batch", "num_dets", 5])]
    )
    slim = simplify(original)
    axes = [d.dim_param or d.dim_value for d in slim.graph.output[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "num_dets", 5] and len(slim.graph.node) == 1


def test_a_failing_simplifier_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def slim(_: onnx.ModelProto) -> onnx.ModelProto:
        raise KeyError("axes")

    monkeypatch.setattr("onnxslim.slim", slim)
    with pytest.raises(SimplifyError, match=r"onnxslim fails on this graph \(KeyError: 'axes'\)"):
        simplify(detector())


def test_a_missing_simplifier_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "find_spec", lambda _: None)
    with pytest.raises(SimplifyError, match="pip install onnxslim"):
        simplify(detector())


def reduction() -> onnx.ModelProto:
    """A sum over all axes, written as an empty list of them, as PyTorch's exporter does."""
    node = helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0)
    empty = onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS)
    node.attribute.append(empty)
    product = helper.make_node("Mul", ["input", "sum"], ["dets"])
    return model([node, product], [info("input", ["batch", 3])], [info("dets", ["batch", 3])])


def run(graph: onnx.ModelProto, array: np.ndarray) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return session.run(None, {"input": array})[0]


def test_an_empty_list_of_axes_is_simplified_too(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    original = reduction()
    np.testing.assert_array_equal(run(original, array), array * 15)
    np.testing.assert_array_equal(run(simplify(original), array), array * 15)
    assert [a.name for a in original.graph.node[0].attribute] == ["keepdims", "axes"]
    monkeypatch.setattr(subject, "_drop_empty_axes", lambda _: None)
    with pytest.raises(SimplifyError, match="onnxslim fails"):  # the reason for all this
        simplify(original)


def test_lists_of_axes_inside_of_branches_are_found() -> None:
    branch = reduction().graph
    named = helper.make_node("ReduceMax", ["input"], ["dets"], axes=[1])
    other = helper.make_graph([named], "other", [], [info("dets", ["batch", 3])])
    node = helper.make_node("If", ["c"], ["out"], then_branch=branch, else_branch=other)
    graph = onnx.ModelProto(graph=helper.make_graph([node], "g", [], []))
    subject._drop_empty_axes(graph)
    then, otherwise = graph.graph.node[0].attribute
    if then.name != "then_branch":
        then, otherwise = otherwise, then
    assert [a.name for a in then.g.node[0].attribute] == ["keepdims"]
    assert list(otherwise.g.node[0].attribute[0].ints) == [1]
