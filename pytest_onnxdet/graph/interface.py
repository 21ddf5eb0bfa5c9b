"""A graph's interface: names, types and axes of what goes in and comes out."""

from __future__ import annotations

import onnx


def interface(model: onnx.ModelProto, side: str) -> dict[str, tuple[int | str, ...]]:
    """By name the type, then the axes: a number where fixed, else the axis's name."""
    ports: dict[str, tuple[int | str, ...]] = {}
    for value in getattr(model.graph, side):
        kind = value.type.tensor_type
        axes = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]
        ports[value.name] = (onnx.TensorProto.DataType.Name(kind.elem_type), *axes)
    return ports
