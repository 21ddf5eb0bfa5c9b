"""Which operators of a graph a runtime does not bring along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_onnxdet.graph.walk import model_nodes

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
    used = {n.domain for n in model_nodes(model) if (n.domain, n.op_type) not in own}
    return sorted(used - SHIPPED.get(backend, _ONNX))
