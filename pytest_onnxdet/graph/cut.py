"""Parts of a graph, and graphs that show inner tensors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model that also outputs these tensors of its main graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    return copy


def up_to(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a model that ends where the last of these tensors is computed.

    Its outputs are those tensors; what follows them neither costs time nor fails.
    """
    copy = with_outputs(model, [])
    wanted = set(names)
    last = max(i for i, node in enumerate(copy.graph.node) if wanted.intersection(node.output))
    del copy.graph.node[last + 1 :]
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy
