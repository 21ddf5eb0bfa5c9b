"""Faults in what a graph is given: the steps before it, done otherwise by a wrapper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from pytest_onnxdet.verify.mutants.editing import MARK, Editor
from pytest_onnxdet.verify.mutants.operator import Operator


def _before(change: Callable[[Editor], str]) -> Callable[[Editor, str], bool]:
    """Puts something in front of the network."""

    def apply(editor: Editor, _: str) -> bool:
        other = f"{MARK}_given"
        if "input" not in editor.inputs or not editor.read_instead("input", other):
            return False
        editor.add("Identity", [change(editor)], other)
        return True

    return apply


def _channels(editor: Editor) -> int:
    value = next(one for one in editor.model.graph.input if one.name == "input")
    return int(value.type.tensor_type.shape.dim[1].dim_value)


def _mean(editor: Editor) -> str:
    """The mean of the first channel is a fiftieth of a deviation off."""
    term = np.zeros((1, max(1, _channels(editor)), 1, 1), np.float32)
    term[0, 0] = 0.02
    return editor.add("Add", ["input", editor.constant(term)])


def _reversed_channels(editor: Editor) -> str:
    ends = editor.ints(-1), editor.ints(np.iinfo(np.int64).min)
    return editor.add("Slice", ["input", *ends, editor.ints(1), editor.ints(-1)])


def _shifted(axis: int) -> Callable[[Editor], str]:
    def change(editor: Editor) -> str:
        cut = editor.add("Slice", ["input", editor.ints(0), editor.ints(-1), editor.ints(axis)])
        pads = [0] * 8
        pads[axis] = 1
        return editor.add("Pad", [cut, editor.ints(*pads), editor.constant(0.0)])

    return change


def _blurred(editor: Editor) -> str:
    """The mean of neighbours: a resize that is half a pixel off."""
    total = editor.add("Add", ["input", _shifted(3)(editor)])
    return editor.add("Mul", [total, editor.constant(0.5)])


def _padding(editor: Editor) -> str:
    """What is exactly 0, as padding is, becomes 0.5."""
    zero = editor.add("Equal", ["input", editor.constant(0.0)])
    return editor.add("Where", [zero, editor.constant(0.5), "input"])


def _mirrored(editor: Editor) -> str:
    ends = editor.ints(-1), editor.ints(np.iinfo(np.int64).min)
    return editor.add("Slice", ["input", *ends, editor.ints(3), editor.ints(-1)])


def _half_precision(editor: Editor) -> str:
    short = editor.add("Cast", ["input"], to=onnx.TensorProto.FLOAT16)
    return editor.add("Cast", [short], to=onnx.TensorProto.FLOAT)


def _fault(name: str, description: str, change: Callable[[Editor], str]) -> Operator:
    return Operator(name, "inputs", description, _before(change), raw=True)


def _times(factor: float) -> Callable[[Editor], str]:
    return lambda editor: editor.add("Mul", ["input", editor.constant(factor)])


OPERATORS = (
    _fault("input_mean", "a channel's mean is 0.02 deviations off", _mean),
    _fault("input_std", "the deviation is 1% off", _times(1.01)),
    _fault("input_bgr", "red and blue are swapped", _reversed_channels),
    _fault("input_right", "the image is a pixel further right", _shifted(3)),
    _fault("input_down", "the image is a pixel further down", _shifted(2)),
    _fault("input_resize", "the resize is half a pixel off", _blurred),
    _fault("input_padding", "padding is not 0", _padding),
    _fault("input_mirrored", "the image is mirrored", _mirrored),
    _fault("input_fp16", "the image is rounded to fp16", _half_precision),
)
