"""Faults in suppression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from pytest_onnxdet.verify.mutants.editing import Editor, attribute, set_attribute
from pytest_onnxdet.verify.mutants.operator import Operator

Change = Callable[[Editor, onnx.NodeProto], bool]


def _nodes(editor: Editor) -> list[str]:
    """By what they give: a node of suppression need not have a name."""
    return [node.output[0] for node in editor.nodes if node.op_type == "NonMaxSuppression"]


def _fault(name: str, description: str, change: Change) -> Operator:
    def apply(editor: Editor, place: str) -> bool:
        node = next((n for n in editor.nodes if place in n.output), None)
        return node is not None and change(editor, node)

    return Operator(name, "suppression", description, apply, _nodes)


def _overlap(editor: Editor, node: onnx.NodeProto) -> float:
    value = editor.value(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    return 0.0 if value is None else float(value.reshape(-1)[0])


def _set_overlap(choose: Callable[[float], float]) -> Change:
    def change(editor: Editor, node: onnx.NodeProto) -> bool:
        if len(node.input) < 4 or not node.input[3]:
            return False
        node.input[3] = editor.constant([choose(_overlap(editor, node))])
        return True

    return change


def _few(editor: Editor, node: onnx.NodeProto) -> bool:
    if len(node.input) < 3 or not node.input[2]:
        return False
    node.input[2] = editor.ints(2)
    return True


def _threshold(editor: Editor, node: onnx.NodeProto) -> bool:
    was = editor.value(node.input[4]) if len(node.input) > 4 and node.input[4] else None
    higher = 0.1 + (0.0 if was is None else float(was.reshape(-1)[0]))
    while len(node.input) < 5:
        node.input.append("")
    node.input[4] = editor.constant([higher])
    return True


def _centres(_: Editor, node: onnx.NodeProto) -> bool:
    set_attribute(node, "center_point_box", 1 - attribute(node, "center_point_box", 0))
    return True


def _agnostic(editor: Editor, node: onnx.NodeProto) -> bool:
    """Without what keeps classes, or levels, away from each other: the term added to boxes."""
    name = node.input[0]
    for _step in range(3):
        maker = next((n for n in editor.nodes if name in n.output), None)
        if maker is None:
            return False
        if maker.op_type == "Add":
            node.input[0] = editor.add("Mul", [maker.input[1], editor.constant(0.0)])
            node.input[0] = editor.add("Add", [maker.input[0], node.input[0]])
            return maker.output[0] == name and _step == 0
        name = maker.input[0]
    return False


def _one_class(editor: Editor, node: onnx.NodeProto) -> bool:
    """A candidate counts for its best class alone."""
    scores = node.input[1]
    best = editor.add("ReduceMax", [scores], axes=[1], keepdims=1)
    own = editor.add("Equal", [scores, best])
    node.input[1] = editor.add("Where", [own, scores, editor.constant(0.0)])
    return True


OPERATORS = (
    _fault(
        "nms_threshold",
        "suppression is almost off; almost total where it was off already",
        _set_overlap(lambda was: 0.05 if was > 0.9 else 0.95),
    ),
    _fault(
        "nms_overlap",
        "the IoU threshold is 0.1 lower",
        _set_overlap(lambda was: float(np.clip(was - 0.1, 0.01, 1.0))),
    ),
    _fault(
        "nms_overlap_slight",
        "the IoU threshold is 0.02 higher",
        _set_overlap(lambda was: float(np.clip(was + 0.02, 0.0, 1.0))),
    ),
    _fault("nms_few", "a class has two detections at most", _few),
    _fault("nms_score_threshold", "candidates below 0.1 are left out", _threshold),
    _fault("nms_centres", "corners are taken for centre and size", _centres),
    _fault("nms_agnostic", "classes or levels suppress each other", _agnostic),
    _fault("nms_one_class", "a candidate counts for its best class alone", _one_class),
)
