"""Known faults, put into a graph on purpose: a suite that misses one is not to be trusted.

Each :class:`Mutation` is a mistake that an exporter, a runtime or an upgrade could make. Applied to
a good graph it yields a bad one, which the check that it names must refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pytest_onnxdet.graph.walk import all_nodes

_MARK = "onnxdet_fault"  # begins every name that a mutation adds
_PER_SLOT = ("dets", "labels", "masks")


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        name: as ``--onnxdet-selftest`` reports it.
        description: what the graph does wrong.
        caught_by: the check that must fail: ``parity`` or ``export``.
        change: alters a model in place; False when the fault has no place in it.
        min_batch: the fault shows only at this batch size and above.
    """

    name: str
    description: str
    caught_by: str
    change: Callable[[onnx.ModelProto], bool]
    min_batch: int = 1

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto | None:
        """A copy with the fault, or None when it does not apply to this graph."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy if self.change(copy) else None


def mutations() -> tuple[Mutation, ...]:
    """Every known fault."""
    return _MUTATIONS


def same_outputs(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> bool:
    """Whether two runs agree to the bit: such a fault had no effect on these images.

    A fault without effect is neither caught nor missed; the images do not exercise it.
    """
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def _outputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


def _constant(model: onnx.ModelProto, value: Any, dtype: type) -> str:
    name = f"{_MARK}_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name


def _ints(model: onnx.ModelProto, *values: int) -> str:
    return _constant(model, values, np.int64)


def _append(
    model: onnx.ModelProto, kind: str, inputs: Sequence[str], output: str, **attrs: Any
) -> str:
    model.graph.node.append(
        helper.make_node(kind, list(inputs), [output], name=f"{_MARK}_{output}", **attrs)
    )
    return output


def _take_over(model: onnx.ModelProto, output: str) -> str:
    """Frees the name of a graph output for a new node; returns the name of the good tensor."""
    good = f"{_MARK}_good_{output}"
    for node in all_nodes(model.graph):
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == output:
                    names[at] = good
    return good


def _scale_weight(model: onnx.ModelProto) -> bool:
    """The first convolution: all that follows sees it, and no normalisation undoes it there."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            tensor = weights[node.input[1]]
            value = numpy_helper.to_array(tensor)
            if value.ndim >= 2 and value.dtype.kind == "f":
                scaled = (value * 1.05).astype(value.dtype)
                tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
                return True
    return False


def _reached(model: onnx.ModelProto, start: str) -> set[str]:
    """Tensors whose values depend on those of ``start``; its mere shape does not count."""
    found = {start}
    for node in model.graph.node:
        inner = [name for part in _nested(node) for name in part.input]
        if node.op_type not in ("Shape", "Size") and found.intersection([*node.input, *inner]):
            found.update(node.output)
    return found


def _nested(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from all_nodes(graph)


def _clips(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int, int]]:
    """Nodes that limit something seen in the image by the image's size: (node, what, limit)."""
    seen, size = _reached(model, "input"), _reached(model, "image_shape")
    found = []
    for node in model.graph.node:
        if node.op_type in ("Min", "Max") and len(node.input) == 2:
            for what, limit in ((0, 1), (1, 0)):
                a, b = node.input[what], node.input[limit]
                if a in seen and b in size and b not in seen:
                    found.append((node, what, limit))
    return found


def _remove_clip(model: onnx.ModelProto) -> bool:
    clips = _clips(model)
    for node, what, _ in clips:
        kept = node.input[what]
        node.op_type = "Identity"
        del node.input[:]
        node.input.append(kept)
    return bool(clips)


def _halve_clip(model: onnx.ModelProto) -> bool:
    clips = _clips(model)
    half = _constant(model, 0.5, np.float32) if clips else ""
    for number, (node, _, limit) in enumerate(clips):
        tight = f"{_MARK}_limit_{number}"
        at = next(i for i, other in enumerate(model.graph.node) if other is node or other == node)
        halved = helper.make_node("Mul", [node.input[limit], half], [tight], name=tight)
        node.input[limit] = tight
        model.graph.node.insert(at, halved)
    return bool(clips)


def _change_nms(model: onnx.ModelProto) -> bool:
    """Suppression almost off; almost total where it was off already."""
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = False
    for node in list(all_nodes(model.graph)):
        if node.op_type == "NonMaxSuppression" and len(node.input) > 3 and node.input[3]:
            tensor = known.get(node.input[3])
            was = float(numpy_helper.to_array(tensor).reshape(-1)[0]) if tensor else 0.0
            node.input[3] = _constant(model, [0.05 if was > 0.9 else 0.95], np.float32)
            changed = True
    return changed


def _add_to(output: str, amount: Sequence[float]) -> Callable[[onnx.ModelProto], bool]:
    """Adds a constant, broadcast over the last axis, to a float output."""

    def change(model: onnx.ModelProto) -> bool:
        if output not in _outputs(model):
            return False
        good = _take_over(model, output)
        _append(model, "Add", [good, _constant(model, amount, np.float32)], output)
        return True

    return change


def _drop_first(model: onnx.ModelProto) -> bool:
    """Moves every slot one up; the last becomes empty."""
    for output in _PER_SLOT:
        if output not in _outputs(model):
            continue
        good = _take_over(model, output)
        rank, fill = {"dets": (3, 0.0), "labels": (2, -1), "masks": (4, 0.0)}[output]
        one, end = _ints(model, 1), _ints(model, np.iinfo(np.int64).max)
        rest = _append(model, "Slice", [good, one, end, one], f"{_MARK}_rest_{output}")
        pads = [0] * rank + [0, 1] + [0] * (rank - 2)
        value = _constant(model, fill, np.int64 if output == "labels" else np.float32)
        _append(model, "Pad", [rest, _ints(model, *pads), value], output)
    return "labels" in _outputs(model)


def _shift_labels(model: onnx.ModelProto) -> bool:
    """The next class; empty slots stay empty."""
    if "labels" not in _outputs(model):
        return False
    good = _take_over(model, "labels")
    one, minus = _ints(model, 1), _ints(model, -1)
    following = _append(model, "Add", [good, one], f"{_MARK}_following")
    blank = _append(model, "Equal", [good, minus], f"{_MARK}_blank")
    _append(model, "Where", [blank, good, following], "labels")
    return True


def _reverse(axis: int, outputs: Sequence[str]) -> Callable[[onnx.ModelProto], bool]:
    def change(model: onnx.ModelProto) -> bool:
        there = [name for name in outputs if name in _outputs(model)]
        for output in there:
            good = _take_over(model, output)
            start, end = _ints(model, -1), _ints(model, np.iinfo(np.int64).min)
            _append(model, "Slice", [good, start, end, _ints(model, axis), start], output)
        return bool(there)

    return change


def _ignore_image_shape(model: onnx.ModelProto) -> bool:
    """Takes the padded size for each image's own, as the stock export does."""
    users = [node for node in all_nodes(model.graph) if "image_shape" in node.input]
    if not users:
        return False
    padded, whole, count = (f"{_MARK}_{name}" for name in ("padded", "whole", "count"))
    for node in users:
        for at, name in enumerate(node.input):
            if name == "image_shape":
                node.input[at] = padded
    two, four = _ints(model, 2), _ints(model, 4)
    for node in (
        helper.make_node("Expand", [f"{_MARK}_size", count], [padded]),
        helper.make_node("Shape", ["image_shape"], [count]),
        helper.make_node("Slice", [whole, two, four], [f"{_MARK}_size"]),
        helper.make_node("Shape", ["input"], [whole]),
    ):
        node.name = f"{_MARK}_{node.output[0]}"
        model.graph.node.insert(0, node)
    return True


def _foreign_operator(model: onnx.ModelProto) -> bool:
    if "dets" not in _outputs(model):
        return False
    good = _take_over(model, "dets")
    _append(model, "Identity", [good], "dets", domain="example.custom")
    model.opset_import.append(helper.make_opsetid("example.custom", 1))
    return True


def _rename_output(model: onnx.ModelProto) -> bool:
    for value in model.graph.output:
        if value.name == "dets":
            _append(model, "Identity", ["dets"], "boxes")
            value.name = "boxes"
            return True
    return False


def _narrow_labels(model: onnx.ModelProto) -> bool:
    for value in model.graph.output:
        if value.name == "labels":
            good = _take_over(model, "labels")
            _append(model, "Cast", [good], "labels", to=onnx.TensorProto.INT32)
            value.type.tensor_type.elem_type = onnx.TensorProto.INT32
            return True
    return False


def _bake_batch(model: onnx.ModelProto) -> bool:
    """Fixes a free batch axis to 1, as a trace does."""
    changed = False
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value, changed = 1, True
    return changed


_MUTATIONS = (
    Mutation("weight", "the first convolution's weight is 5% too large", "parity", _scale_weight),
    Mutation("no_clip", "boxes are not clipped to the image", "parity", _remove_clip),
    Mutation("half_clip", "boxes are clipped to half the image", "parity", _halve_clip),
    Mutation("nms_threshold", "another IoU threshold of suppression", "parity", _change_nms),
    Mutation(
        "score_shift", "scores are 0.001 too high", "parity", _add_to("dets", [0, 0, 0, 0, 1e-3])
    ),
    Mutation(
        "box_shift",
        "boxes are half a pixel off, the legacy corner convention",
        "parity",
        _add_to("dets", [0.5, 0.5, 0.5, 0.5, 0]),
    ),
    Mutation(
        "mask_shift", "mask probabilities are 0.01 too high", "parity", _add_to("masks", [0.01])
    ),
    Mutation("dropped", "each image's best detection is lost", "parity", _drop_first),
    Mutation("label_shift", "labels are one too high", "parity", _shift_labels),
    Mutation(
        "ascending", "detections are sorted from worst to best", "parity", _reverse(1, _PER_SLOT)
    ),
    Mutation("mask_order", "masks belong to other detections", "parity", _reverse(1, ("masks",))),
    Mutation(
        "batch_order",
        "images of a batch get each other's detections",
        "parity",
        _reverse(0, _PER_SLOT),
        min_batch=2,
    ),
    Mutation("padded_shape", "image_shape is ignored", "parity", _ignore_image_shape),
    Mutation("custom_operator", "an operator of another domain", "export", _foreign_operator),
    Mutation("output_name", "dets has another name", "export", _rename_output),
    Mutation("label_type", "labels are int32", "export", _narrow_labels),
    Mutation("baked_batch", "a dynamic graph's batch is fixed to 1", "export", _bake_batch),
)
