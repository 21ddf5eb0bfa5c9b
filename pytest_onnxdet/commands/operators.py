"""Which operators of a graph a runtime does not bring along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_ONNX = {"", "ai.onnx"}
#: Domains whose operators each runtime ships. TensorRT's parser knows ONNX's own alone.
SHIPPED = {
    "onnxruntime": _ONNX | {"ai.onnx.ml", "com.microsoft"},
    "tensorrt": _ONNX,
}


def foreign_domains(model: onnx.ModelProto, backend: str) -> list[str]:
    """Domains of operators that have to be compiled for the backend, sorted.

    Bodies of loops and branches count, too; calls of functions that the model itself defines are
    no operators.
    """
    own = {(function.domain, function.name) for function in model.functions}
    nodes = [*_nodes(model.graph.node)]
    for function in model.functions:
        nodes += _nodes(function.node)
    used = {node.domain for node in nodes if (node.domain, node.op_type) not in own}
    return sorted(used - SHIPPED.get(backend, _ONNX))


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, attribute.g):
                yield from _nodes(graph.node)
