"""Simplifies a graph with onnxslim, and holds it to the interface that it had."""

from __future__ import annotations

from importlib.util import find_spec

import onnx

from pytest_onnxdet.graph.interface import interface
from pytest_onnxdet.graph.walk import all_nodes

#: The exporter's names for axes that a dynamic graph leaves to its caller, and for those that its
#: results decide, which may turn out to be fixed: DETR always gives as many.
FREE, DATA_DEPENDENT = ("batch", "height", "width"), ("num_dets", "num_proposals")


class SimplifyError(Exception):
    """A graph cannot be simplified; the message says why and what helps."""


def missing() -> str | None:
    """None where the simplifier is installed, else how to get it."""
    if find_spec("onnxslim") is None:
        return "onnxslim is not installed: pip install onnxslim"
    return None


def simplify(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A smaller graph that computes the same, with the same inputs, outputs and free axes.

    Args:
        graph: left as it is.

    Raises:
        SimplifyError: the simplifier is missing, fails, or changes the graph's interface.
    """
    why = missing()
    if why is not None:
        raise SimplifyError(why)
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    _drop_empty_axes(copy)
    try:
        slim = onnxslim.slim(copy)
    except Exception as error:
        raise SimplifyError(
            f"onnxslim fails on this graph ({type(error).__name__}: {error}): leave --simplify out"
        ) from error
    _restore(graph, slim)
    for side in ("input", "output"):
        before, after = (interface(model, side) for model in (graph, slim))
        if not _same_interface(before, after):
            raise SimplifyError(
                f"onnxslim changes the graph's {side}s from {before} to {after}: "
                "leave --simplify out"
            )
    # Shapes of inner values that it inferred: they are not needed, and may be of one input only.
    del slim.graph.value_info[:]
    # It leaves its own stamp; who made the graph has not changed.
    slim.producer_name, slim.producer_version = graph.producer_name, graph.producer_version
    return slim


def _drop_empty_axes(model: onnx.ModelProto) -> None:
    """An empty list of axes reduces over all of them, as no list does, but onnxslim fails on it."""
    for node in all_nodes(model.graph):
        attributes = [a for a in node.attribute if a.name != "axes" or a.ints]
        if node.op_type.startswith("Reduce") and len(attributes) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(attributes)


def _restore(graph: onnx.ModelProto, slim: onnx.ModelProto) -> None:
    """Gives back what the interface has beyond what is computed.

    An input that nothing reads (YOLOv3's ``image_shape``) is dropped by onnxslim, and callers feed
    it. An axis that it finds to be fixed loses its name, by which callers find it.
    """
    simplified = {value.name: value for value in slim.graph.input}
    inputs = [simplified.get(value.name, value) for value in graph.graph.input]
    inputs += [value for name, value in simplified.items() if name not in interface(graph, "input")]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del slim.graph.input[:]
    slim.graph.input.extend(copies)
    for before, after in zip(graph.graph.output, slim.graph.output, strict=False):
        axes = (value.type.tensor_type.shape.dim for value in (before, after))
        for old, new in zip(*axes, strict=False):
            if old.dim_param in DATA_DEPENDENT:
                new.dim_param = old.dim_param


def _same_interface(
    before: dict[str, tuple[int | str, ...]], after: dict[str, tuple[int | str, ...]]
) -> bool:
    """Whether the interface is the same, but for sizes that the exporter did not know."""
    if list(before) != list(after):
        return False
    for (kind, *axes), (new_kind, *new_axes) in zip(before.values(), after.values(), strict=True):
        if kind != new_kind or len(axes) != len(new_axes):
            return False
        for old, new in zip(axes, new_axes, strict=True):
            if not (isinstance(new, str) if old in FREE else old == new or isinstance(old, str)):
                return False
    return True
