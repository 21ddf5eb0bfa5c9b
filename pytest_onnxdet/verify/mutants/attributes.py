"""Faults in attributes: what an upgrade's other default or a runtime's other reading computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from pytest_onnxdet.verify.mutants.editing import Editor, attribute, become, handle, set_attribute
from pytest_onnxdet.verify.mutants.operator import Operator

Change = Callable[[onnx.NodeProto], bool]


def _nodes(*kinds: str) -> Callable[[Editor], Sequence[str]]:
    return lambda editor: [handle(node) for node in editor.of_type(*kinds)]


def _on_node(change: Change, *kinds: str) -> Callable[[Editor, str], bool]:
    def apply(editor: Editor, place: str) -> bool:
        node = editor.node(place)
        return node is not None and node.op_type in kinds and change(node)

    return apply


def _fault(name: str, description: str, change: Change, *kinds: str) -> Operator:
    return Operator(
        name, "attributes", description, _on_node(change, *kinds), _nodes(*kinds), scoped=True
    )


def _shift_pads(stride: bool) -> Change:
    """All padding at the end; a stride then starts elsewhere."""

    def change(node: onnx.NodeProto) -> bool:
        pads = list(attribute(node, "pads", []))
        strided = any(step > 1 for step in attribute(node, "strides", [1]))
        half = len(pads) // 2
        if strided != stride or not any(pads[:half]) or pads[:half] != pads[half:]:
            return False
        kernel = attribute(node, "kernel_shape", [99] * half)
        if node.op_type == "MaxPool" and any(
            2 * p >= k for p, k in zip(pads, kernel, strict=False)
        ):
            return False
        set_attribute(node, "pads", [0] * half + [2 * pad for pad in pads[:half]])
        return True

    return change


def _dilate(node: onnx.NodeProto) -> bool:
    """A kernel of 3 with padding 1 spread to 5, so that the output keeps its size."""
    if attribute(node, "kernel_shape") != [3, 3] or attribute(node, "pads") != [1] * 4:
        return False
    if attribute(node, "dilations", [1, 1]) != [1, 1]:
        return False
    set_attribute(node, "dilations", [2, 2])
    set_attribute(node, "pads", [2] * 4)
    return True


def _average(node: onnx.NodeProto) -> bool:
    if len(node.output) > 1 or attribute(node, "dilations", [1, 1]) != [1, 1]:
        return False
    node.op_type = "AveragePool"
    for name in ("dilations", "storage_order"):
        set_attribute(node, name, None)
    return True


def _set(name: str, choose: Callable[[Any], Any], default: Any) -> Change:
    def change(node: onnx.NodeProto) -> bool:
        was = attribute(node, name, default)
        chosen = choose(was)
        if chosen is None or chosen == was:
            return False
        set_attribute(node, name, chosen)
        return True

    return change


def _linear(node: onnx.NodeProto) -> bool:
    nearest = attribute(node, "mode", "nearest") == "nearest"
    set_attribute(node, "mode", "linear" if nearest else "nearest")
    return True


def _other_coordinates(node: onnx.NodeProto) -> bool:
    """Of a nearest neighbour half a pixel may change nothing; aligned corners do."""
    was = attribute(node, "coordinate_transformation_mode", "half_pixel")
    other = "asymmetric" if was == "align_corners" else "align_corners"
    set_attribute(node, "coordinate_transformation_mode", other)
    return True


def _leaky(node: onnx.NodeProto) -> bool:
    become(node, "LeakyRelu", alpha=0.01)
    return True


def _hard_sigmoid(node: onnx.NodeProto) -> bool:
    become(node, "HardSigmoid")
    return True


def _identity(node: onnx.NodeProto) -> bool:
    become(node, "Identity")
    return True


def _softplus(node: onnx.NodeProto) -> bool:
    become(node, "Softplus")
    return True


def _relu_six(editor: Editor, place: str) -> bool:
    node = editor.node(place)
    if node is None or node.op_type != "Relu":
        return False
    become(node, "Clip")
    node.input.extend([editor.constant(0.0), editor.constant(1.0)])
    return True


_NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization")

OPERATORS = (
    _fault("conv_pads", "a convolution pads at the end alone", _shift_pads(False), "Conv"),
    _fault("conv_stride_phase", "a strided convolution starts later", _shift_pads(True), "Conv"),
    _fault("conv_dilation", "a convolution is dilated", _dilate, "Conv"),
    _fault("pool_pads", "a pooling starts later", _shift_pads(True), "MaxPool"),
    _fault("pool_average", "a pooling takes the mean", _average, "MaxPool"),
    _fault("resize_mode", "a resize interpolates otherwise", _linear, "Resize"),
    _fault("resize_coordinates", "a resize aligns corners", _other_coordinates, "Resize"),
    _fault(
        "resize_rounding",
        "a nearest neighbour is rounded up",
        _set(
            "nearest_mode", lambda was: "ceil" if was != "ceil" else "floor", "round_prefer_floor"
        ),
        "Resize",
    ),
    _fault(
        "roi_sampling_ratio",
        "RoiAlign samples once in a bin",
        _set("sampling_ratio", lambda was: 2 if was == 1 else 1, 0),
        "RoiAlign",
    ),
    _fault(
        "roi_spatial_scale",
        "RoiAlign's scale is 2% off",
        _set("spatial_scale", lambda was: was * 1.02, 1.0),
        "RoiAlign",
    ),
    _fault(
        "roi_coordinates",
        "RoiAlign is half a pixel off",
        _set(
            "coordinate_transformation_mode",
            lambda was: "half_pixel" if was == "output_half_pixel" else "output_half_pixel",
            "half_pixel",
        ),
        "RoiAlign",
    ),
    _fault(
        "roi_mode",
        "RoiAlign takes the greatest sample",
        _set("mode", lambda was: "max" if was == "avg" else "avg", "avg"),
        "RoiAlign",
    ),
    _fault(
        "softmax_axis",
        "a softmax goes over another axis",
        _set("axis", lambda was: 1 if was == 0 else 0, -1),
        "Softmax",
    ),
    _fault(
        "epsilon",
        "a normalisation's epsilon is 100 times as large",
        _set("epsilon", lambda was: was * 100, 1e-5),
        *_NORMS,
    ),
    _fault("relu_leaky", "a ReLU leaks", _leaky, "Relu"),
    Operator(
        "relu_clipped",
        "attributes",
        "a ReLU ends at 1",
        _relu_six,
        _nodes("Relu"),
        scoped=True,
    ),
    _fault(
        "leaky_slope",
        "a leaky ReLU leaks less",
        _set("alpha", lambda was: was / 2, 0.01),
        "LeakyRelu",
    ),
    _fault("sigmoid_approximated", "a sigmoid is a straight line", _hard_sigmoid, "Sigmoid"),
    _fault("sigmoid_missing", "a sigmoid is left out", _identity, "Sigmoid"),
    _fault("exp_softplus", "an exp is a softplus", _softplus, "Exp"),
)
