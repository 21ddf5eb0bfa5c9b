"""Faults in weights: what a wrong conversion, a lossy precision or a mixed-up layout leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pytest_onnxdet.verify.mutants.editing import Editor, attribute, handle
from pytest_onnxdet.verify.mutants.operator import Operator

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Array = NDArray[Any]


def layers(editor: Editor) -> list[str]:
    """Nodes with a constant weight of two dimensions or more."""
    return [handle(node) for node in editor.of_type(*LAYERS) if _weight(editor, node) is not None]


def _weight(editor: Editor, node: onnx.NodeProto) -> Array | None:
    value = editor.floats(node, 1)
    return value if value is not None and value.ndim >= 2 else None


def out_axis(node: onnx.NodeProto) -> int:
    """The axis of a weight that counts the layer's outputs."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else -1 if node.op_type == "MatMul" else 1


def _change_weight(change: Callable[[Array, int], Array | None]) -> Callable[[Editor, str], bool]:
    """An operator's change from one of a weight and the axis of its outputs."""

    def apply(editor: Editor, place: str) -> bool:
        node = editor.node(place)
        value = None if node is None else _weight(editor, node)
        if node is None or value is None:
            return False
        changed = change(value, out_axis(node))
        if changed is None or np.array_equal(changed, value):
            return False
        editor.write(node.input[1], changed)
        return True

    return apply


def _scaled(factor: float) -> Callable[[Editor, str], bool]:
    return _change_weight(lambda value, _: value * np.asarray(factor, value.dtype))


def _half(value: Array, _: int) -> Array:
    return value.astype(np.float16).astype(value.dtype)


def _eight_bits(value: Array, _: int) -> Array:
    step = np.abs(value).max() / 127
    return np.round(value / step) * step if step else value


def _zero_channel(value: Array, axis: int) -> Array:
    """Without the output channel of the largest weights."""
    moved = np.moveaxis(value.copy(), axis, 0)
    moved[np.abs(moved).reshape(len(moved), -1).sum(1).argmax()] = 0
    return np.moveaxis(moved, 0, axis)


def _zero_input(value: Array, axis: int) -> Array | None:
    other = 1 if axis == 0 else 0
    if value.shape[other] < 2:
        return None
    moved = np.moveaxis(value.copy(), other, 0)
    moved[np.abs(moved).reshape(len(moved), -1).sum(1).argmax()] = 0
    return np.moveaxis(moved, 0, other)


def _transposed(value: Array, _: int) -> Array | None:
    square = value.ndim == 4 and value.shape[2] == value.shape[3] > 1
    return np.swapaxes(value, 2, 3) if square else None


def _mirrored(value: Array, _: int) -> Array | None:
    return value[..., ::-1, ::-1] if value.ndim == 4 and value.shape[3] > 1 else None


def _with_bias(
    order: Callable[[int], Sequence[int]],
) -> Callable[[Editor, str], bool]:
    """Outputs in another order, weights and biases alike."""

    def apply(editor: Editor, place: str) -> bool:
        node = editor.node(place)
        value = None if node is None else _weight(editor, node)
        if node is None or value is None or value.shape[out_axis(node)] < 2:
            return False
        axis = out_axis(node)
        if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
            return False
        chosen = list(order(value.shape[axis]))
        editor.write(node.input[1], np.take(value, chosen, axis))
        bias = editor.floats(node, 2)
        if bias is not None and bias.ndim == 1 and len(bias) == len(chosen):
            editor.write(node.input[2], bias[chosen])
        return True

    return apply


def _biased(editor: Editor) -> list[str]:
    nodes = editor.of_type("Conv", "ConvTranspose", "Gemm")
    return [handle(node) for node in nodes if editor.floats(node, 2) is not None]


def _change_bias(change: Callable[[Array], Array]) -> Callable[[Editor, str], bool]:
    def apply(editor: Editor, place: str) -> bool:
        node = editor.node(place)
        bias = None if node is None else editor.floats(node, 2)
        if node is None or bias is None or np.array_equal(change(bias), bias):
            return False
        editor.write(node.input[2], change(bias))
        return True

    return apply


def _swap_first_two(count: int) -> Sequence[int]:
    return [1, 0, *range(2, count)]


def _roll(count: int) -> Sequence[int]:
    return [*range(1, count), 0]


def _weights(name: str, description: str, change: Callable[[Editor, str], bool]) -> Operator:
    return Operator(name, "weights", description, change, layers, raw=True)


OPERATORS = (
    _weights("weight", "a layer's weight is 5% too large", _scaled(1.05)),
    _weights("scale_weight_0.9", "a layer's weight is a tenth too small", _scaled(0.9)),
    _weights("scale_weight_1.01", "a layer's weight is 1% too large", _scaled(1.01)),
    _weights("scale_weight_1.0004", "a layer's weight is 0.04% too large", _scaled(1.0004)),
    _weights("round_weight_fp16", "a layer's weight is rounded to fp16", _change_weight(_half)),
    _weights("round_weight_int8", "a layer's weight has 8 bits", _change_weight(_eight_bits)),
    _weights(
        "swap_channels", "a layer's first two outputs changed places", _with_bias(_swap_first_two)
    ),
    _weights("roll_channels", "each of a layer's outputs is the next one", _with_bias(_roll)),
    _weights(
        "zero_channel", "one of a layer's outputs is its bias alone", _change_weight(_zero_channel)
    ),
    _weights("zero_input", "one of a layer's inputs is not seen", _change_weight(_zero_input)),
    _weights("transpose_kernel", "a kernel's rows are its columns", _change_weight(_transposed)),
    _weights("mirror_kernel", "a kernel is turned by 180 degrees", _change_weight(_mirrored)),
    Operator(
        "shift_bias",
        "weights",
        "a layer's bias is 0.01 too large",
        _change_bias(lambda bias: bias + np.asarray(0.01, bias.dtype)),
        _biased,
        raw=True,
    ),
    Operator(
        "no_bias", "weights", "a layer has no bias", _change_bias(np.zeros_like), _biased, raw=True
    ),
)
