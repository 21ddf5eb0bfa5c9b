"""Faults in the graph's interface, which its structure shows and perhaps no run."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import helper

from pytest_onnxdet.verify.mutants.editing import Editor
from pytest_onnxdet.verify.mutants.operator import Operator


def _foreign_operator(editor: Editor, _: str) -> bool:
    if "dets" not in editor.outputs:
        return False
    good = editor.take_over("dets")
    editor.add("Identity", [good], "dets", domain="example.custom")
    editor.model.opset_import.append(helper.make_opsetid("example.custom", 1))
    return True


def _rename_output(editor: Editor, _: str) -> bool:
    for value in editor.model.graph.output:
        if value.name == "dets":
            editor.add("Identity", ["dets"], "boxes")
            value.name = "boxes"
            return True
    return False


def _narrow_labels(editor: Editor, _: str) -> bool:
    for value in editor.model.graph.output:
        if value.name == "labels":
            good = editor.take_over("labels")
            editor.add("Cast", [good], "labels", to=onnx.TensorProto.INT32)
            value.type.tensor_type.elem_type = onnx.TensorProto.INT32
            return True
    return False


def _bake_batch(editor: Editor, _: str) -> bool:
    """Fixes a free batch axis to 1, as a trace does."""
    changed = False
    for value in editor.model.graph.input:
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value, changed = 1, True
    return changed


def _fault(name: str, description: str, change: Callable[[Editor, str], bool]) -> Operator:
    return Operator(name, "interface", description, change, caught_by="export")


OPERATORS = (
    _fault("custom_operator", "an operator of another domain", _foreign_operator),
    _fault("output_name", "dets has another name", _rename_output),
    _fault("label_type", "labels are int32", _narrow_labels),
    _fault("baked_batch", "a dynamic graph's batch is fixed to 1", _bake_batch),
)
