"""A graph in a few figures, and in a few lines: interface, operators, weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from pytest_onnxdet.graph.walk import model_nodes, opset

_PER_LINE = 4


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Nodes (nested ones included), opset, and the domains of operators in use, sorted."""
    nodes = list(model_nodes(model))
    domains = sorted({n.domain or "ai.onnx" for n in nodes})
    return {"nodes": len(nodes), "opset": opset(model), "domains": domains}


def summarize(path: Path) -> str:
    """What ``--show`` prints of a graph.

    Returns:
        Several lines: opset and size, inputs and outputs with type and axes, how often each
        operator occurs, numbers in the weights.
    """
    model = onnx.load(str(path))
    nodes = list(model_nodes(model))
    numbers = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    lines = [
        f"graph {path.name}: opset {opset(model)}, {len(nodes)} nodes, "
        f"{numbers:,} numbers in weights, {path.stat().st_size / 1e6:.2f} MB"
    ]
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for side, values in (("input", inputs), ("output", list(model.graph.output))):
        lines += [f"  {side:6} {_value(value)}" for value in values]
    kinds = Counter(f"{node.domain}::{node.op_type}".lstrip(":") for node in nodes)
    entries = [f"{kind} {count}" for kind, count in kinds.most_common()]
    lines.append("  operators")
    lines += _columns(entries)
    return "\n".join(lines)


def _value(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    axes = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    return f"{value.name}: {name} ({', '.join(axis or '?' for axis in axes)})"


def _columns(entries: Sequence[str]) -> list[str]:
    width = max((len(entry) for entry in entries), default=0) + 2
    rows = [entries[at : at + _PER_LINE] for at in range(0, len(entries), _PER_LINE)]
    return ["    " + "".join(entry.ljust(width) for entry in row).rstrip() for row in rows]
