"""What must hold of an exported graph's structure: its interface, its operators, its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import onnx.numpy_helper
from onnx import TensorProto

from pytest_onnxdet.core.limits import MAX_TOPK
from pytest_onnxdet.graph.walk import DEFAULT_DOMAINS, model_nodes, opset

# What builders refuse where there is no GPU (tensorrt_rtx 1.7); see docs/tensorrt.md.
NOT_BUILT = ("NonMaxSuppression", "NonZero", "RoiAlign")

_TYPES = {
    "input": TensorProto.FLOAT,
    "image_shape": TensorProto.INT64,
    "dets": TensorProto.FLOAT,
    "labels": TensorProto.INT64,
    "masks": TensorProto.FLOAT,
    "mask_scores": TensorProto.FLOAT,
}
#: Of images whose graph does not say how many they have.
CHANNELS = 3
# Axes by name: a letter is free in a dynamic graph, a number is fixed in every graph; C is fixed,
# to the channels of the detector's images.
_AXES: dict[str, tuple[str | int, ...]] = {
    "input": ("N", "C", "H", "W"),
    "image_shape": ("N", 2),
    "dets": ("N", "K", 5),
    "labels": ("N", "K"),
    "masks": ("N", "K", "h", "w"),
    "mask_scores": ("N", "K"),
}


def contract_faults(model: onnx.ModelProto, info: Mapping[str, Any]) -> list[str]:
    """Every way in which a graph departs from the contract, or from what its exporter recorded.

    Args:
        model: the graph.
        info: :attr:`Artifact.info`; ``opset``, ``inputs``, ``outputs``, ``static_shape``,
            ``channels`` and ``lowering`` are read where they are present.
    """
    faults = _operator_faults(model)
    if info.get("lowering") == "tensorrt":
        faults += _builder_faults(model)
    recorded = info.get("opset")
    if recorded is not None and opset(model) != recorded:
        faults.append(f"opset: the graph has {opset(model)}, the exporter recorded {recorded}")
    inputs = tuple(info.get("inputs") or ("input", "image_shape"))
    named = {value.name: value for value in model.graph.output}
    given = info.get("outputs", named)
    more = (name for name in ("masks", "mask_scores") if name in given)
    outputs = ("dets", "labels", *more)
    weights = {tensor.name for tensor in model.graph.initializer}
    fed = [value for value in model.graph.input if value.name not in weights]
    static = info.get("static_shape")
    channels = int(info.get("channels", static[1] if static else CHANNELS))
    # A runtime that needs fixed sizes inside pads its detections to a fixed count.
    fixed_count = info.get("lowering", "onnxruntime") != "onnxruntime"
    for side, wanted, values in (
        ("input", inputs, fed),
        ("output", outputs, list(model.graph.output)),
    ):
        names = tuple(value.name for value in values)
        if names != wanted:
            faults.append(f"{side}s: {', '.join(names)} instead of {', '.join(wanted)}")
        for value in values:
            if value.name in _AXES:
                faults += _value_faults(side, value, static, fixed_count, channels)
    return faults


def _operator_faults(model: onnx.ModelProto) -> list[str]:
    """One line for each foreign operator, with its count and the first node that uses it."""
    foreign: dict[str, list[str]] = {}
    for node in model_nodes(model):
        if node.domain not in DEFAULT_DOMAINS:
            name = node.name or f"of output {next(iter(node.output), '?')}"
            foreign.setdefault(f"{node.domain}::{node.op_type}", []).append(name)
    return [
        f"operator {kind} is not of the default domain: {len(names)} node(s), first {names[0]}"
        for kind, names in foreign.items()
    ]


def _builder_faults(model: onnx.ModelProto) -> list[str]:
    """What TensorRT's builder does not take: operators, and TopK with a K unknown or too large."""
    nodes = list(model_nodes(model))
    known = {tensor.name: tensor for tensor in model.graph.initializer} | {
        node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"
    }
    faults = []
    for node in nodes:
        if node.op_type in NOT_BUILT:
            faults.append(f"operator {node.op_type}: TensorRT does not build it, node {node.name}")
        if node.op_type != "TopK":
            continue
        count = known.get(node.input[1])
        if count is None:
            faults.append(f"TopK {node.name}: its K is computed, and TensorRT takes a constant")
        elif (k := int(onnx.numpy_helper.to_array(count).max())) > MAX_TOPK:
            faults.append(f"TopK {node.name}: K is {k}, and TensorRT takes at most {MAX_TOPK}")
    return faults


def _value_faults(
    side: str, value: onnx.ValueInfoProto, static: Any, fixed_count: bool, channels: int
) -> list[str]:
    """Faults of one input's or output's type, rank and axes."""
    name, kind = value.name, value.type.tensor_type
    axes, faults = _AXES[name], []
    if kind.elem_type != _TYPES[name]:
        got, wanted = (TensorProto.DataType.Name(t) for t in (kind.elem_type, _TYPES[name]))
        faults.append(f"{side} {name}: type {got} instead of {wanted}")
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
    if len(dims) != len(axes):
        return [*faults, f"{side} {name}: shape {_shape(dims)} instead of {_shape(axes)}"]
    baked = dict(zip("NHW", (static[0], *static[2:]), strict=True)) if static else {}
    baked["C"] = channels
    for at, (axis, dim) in enumerate(zip(axes, dims, strict=True)):
        where = f"{side} {name}, axis {at}"
        wanted_size = axis if isinstance(axis, int) else baked.get(axis)
        if wanted_size is not None:
            # An output's known axes may stay symbolic where shape inference cannot see them.
            if dim != wanted_size and not (side == "output" and isinstance(dim, str)):
                faults.append(f"{where}: {dim or '?'} instead of {wanted_size}")
        elif isinstance(dim, int) and not static and not (axis == "K" and fixed_count):
            if axis in ("N", "H", "W", "K"):
                faults.append(f"{where} ({axis}): baked to {dim}, must be free in a dynamic graph")
        elif side == "input" and not dim:
            faults.append(f"{where} ({axis}): has neither size nor name")
    return faults


def _shape(dims: Any) -> str:
    return "(" + ", ".join(str(d) if d != "" else "?" for d in dims) + ")"


def first_difference(a: onnx.ModelProto, b: onnx.ModelProto) -> str:
    """Where two models differ first: header, interface, nodes, then weights."""
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version"):
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            return f"{field} {ours!r} and {theirs!r}"
    for field in ("input", "output", "node", "initializer", "value_info"):
        ours, theirs = getattr(a.graph, field), getattr(b.graph, field)
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if _bytes(one) != _bytes(other):
                return f"{field} {index}, {_label(one)} and {_label(other)}"
        if len(ours) != len(theirs):
            return f"{len(ours)} and {len(theirs)} entries of {field}"
    if _bytes(a) == _bytes(b):
        return "in the file's encoding only, the models are equal"
    return "in metadata outside inputs, outputs, nodes and weights"


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _label(message: Any) -> str:
    kind = getattr(message, "op_type", "")
    return f"{kind} {message.name!r}".strip()
