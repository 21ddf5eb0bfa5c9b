"""Faults in masks."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from pytest_onnxdet.verify.mutants.editing import Editor, become
from pytest_onnxdet.verify.mutants.operator import Operator
from pytest_onnxdet.verify.mutants.slots import reverse

Change = Callable[[Editor, str], bool]


def _on_masks(change: Callable[[Editor, str], str]) -> Change:
    def apply(editor: Editor, _: str) -> bool:
        if "masks" not in editor.outputs:
            return False
        good = editor.take_over("masks")
        editor.add("Identity", [change(editor, good)], "masks")
        return True

    return apply


def _moved(editor: Editor, good: str) -> str:
    """A column to the right; the first is 0."""
    cut = editor.add("Slice", [good, editor.ints(0), editor.ints(-1), editor.ints(3)])
    pads = editor.ints(0, 0, 0, 1, 0, 0, 0, 0)
    return editor.add("Pad", [cut, pads, editor.constant(0.0)])


def _half_precision(editor: Editor, good: str) -> str:
    short = editor.add("Cast", [good], to=onnx.TensorProto.FLOAT16)
    return editor.add("Cast", [short], to=onnx.TensorProto.FLOAT)


def _binary(editor: Editor, good: str) -> str:
    full = editor.add("GreaterOrEqual", [good, editor.constant(0.5)])
    return editor.add("Cast", [full], to=onnx.TensorProto.FLOAT)


def _maker(editor: Editor) -> onnx.NodeProto | None:
    return next((node for node in editor.nodes if "masks" in node.output), None)


def _no_sigmoid(editor: Editor, _: str) -> bool:
    node = _maker(editor)
    if node is None or node.op_type != "Sigmoid":
        return False
    become(node, "Identity")
    return True


def _wrong_class(editor: Editor, _: str) -> bool:
    """Masks of another class: of the first one, where a class's own is picked by the label."""
    if not {"masks", "labels"} <= set(editor.outputs):
        return False
    readers = [pair for pair in editor.readers("labels") if pair[0].op_type != "Identity"]
    if not readers:
        return False
    first = editor.add("Sub", ["labels", "labels"])
    for node, at in readers:
        node.input[at] = first
    return True


def _fault(name: str, description: str, change: Change) -> Operator:
    return Operator(name, "masks", description, change)


OPERATORS = (
    _fault(
        "mask_shift",
        "mask probabilities are 0.01 too high",
        _on_masks(lambda e, good: e.add("Add", [good, e.constant([0.01])])),
    ),
    _fault(
        "mask_scale",
        "mask probabilities are 0.5% too low",
        _on_masks(lambda e, good: e.add("Mul", [good, e.constant([0.995])])),
    ),
    _fault("mask_order", "masks belong to other detections", reverse(1, "masks")),
    _fault("mask_flipped", "masks are mirrored", reverse(3, "masks")),
    _fault(
        "mask_transposed",
        "a mask's rows are its columns",
        _on_masks(lambda e, good: e.add("Transpose", [good], perm=[0, 1, 3, 2])),
    ),
    _fault("mask_moved", "masks are a cell further right", _on_masks(_moved)),
    _fault("mask_fp16", "mask probabilities are rounded to fp16", _on_masks(_half_precision)),
    _fault("mask_binary", "masks are cut at 0.5 before they are enlarged", _on_masks(_binary)),
    _fault("mask_no_sigmoid", "masks are not probabilities", _no_sigmoid),
    _fault("mask_class", "masks are of the first class", _wrong_class),
)
