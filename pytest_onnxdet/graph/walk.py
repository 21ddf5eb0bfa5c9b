"""Every node of a graph, and its opset."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

DEFAULT_DOMAINS = ("", "ai.onnx")


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph, those of nested graphs (If, Loop, Scan) after their owner."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)


def model_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model: graph, nested graphs, and the model's own functions."""
    yield from all_nodes(model.graph)
    for function in model.functions:
        # A function has nodes like a graph, and nothing else that matters here.
        yield from all_nodes(onnx.GraphProto(node=function.node))


def external_files(model: onnx.ModelProto) -> set[str]:
    """Names of the files beside a model's own that hold its weights; most models have none."""
    tensors = [*model.graph.initializer]
    for node in model_nodes(model):
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors, *attribute.g.initializer]
    return {
        entry.value
        for tensor in tensors
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def opset(model: onnx.ModelProto) -> int | None:
    """The default domain's opset."""
    return next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), None)
