"""Which node of a graph is the first to compute something else.

Two graphs that share their tensors' names, or one graph and two runtimes, are run on the same
images with their inner tensors as outputs, and compared in the order of computation.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from pytest_onnxdet.graph.cut import up_to, with_outputs
from pytest_onnxdet.verify.raw import RawDifference, compare_raw

Runner = Callable[[onnx.ModelProto, Sequence[str]], Mapping[str, NDArray[Any]]]
"""Runs a model on images of its own and returns the outputs of these names."""


def ort_runner(feeds: Mapping[str, NDArray[Any]], optimised: bool) -> Runner:
    """Runs models on ONNX Runtime's CPU, on these inputs, with all optimisations or none."""

    def run(model: onnx.ModelProto, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
        )
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))

    return run


@dataclass(frozen=True)
class NodeBlame:
    """The first node, in the order of computation, whose output differs.

    Attributes:
        index: its place in the graph.
        name, op_type: of the node.
        scope: the torch module that it came from, as far as the node tells.
        tensor: the output that differs.
        difference: by how much, None for a fault that vanishes when the tensor is observed.
        note: what the figures do not say.
    """

    index: int
    name: str
    op_type: str
    scope: str
    tensor: str
    difference: RawDifference | None = None
    note: str = ""

    def __str__(self) -> str:
        place = f" in {self.scope}" if self.scope else ""
        text = "; ".join(str(part) for part in (self.difference, self.note) if part)
        return f"node {self.index}, {self.op_type} {self.name!r}{place}: {text}"


def first_differing_node(
    good: onnx.ModelProto,
    bad: onnx.ModelProto,
    run_good: Runner,
    run_bad: Runner,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    window: int = 128,
) -> NodeBlame | None:
    """Names the first node whose output differs between two ways to compute a graph.

    Two graphs that share tensor names, or one graph and two runtimes. Tensors are observed in
    windows, in the order of computation, so that memory stays bounded, and the first window that
    shows a difference ends the search. To observe a tensor keeps a runtime from fusing across it:
    a difference that vanishes then is traced to the node whose observation ends it.

    Args:
        good: the graph to trust.
        bad: the graph in doubt; may be the same.
        run_good: runs ``good``.
        run_bad: runs ``bad``, on the same images.
        rtol: relative allowance; integers and booleans must agree exactly as far as it lets them.
        atol: absolute allowance.
        window: tensors observed at a time.

    Returns:
        None when neither a tensor nor an output differs.
    """
    shared = set(tensors(good))
    names = [name for name in tensors(bad) if name in shared]

    def scan(some: Sequence[str]) -> NodeBlame | None:
        wanted = run_good(up_to(good, some), some)
        try:
            got = run_bad(up_to(bad, some), some)
        except Exception as error:  # a difference may end in an exception nodes later
            if len(some) == 1:
                return blame_of(bad, some[0], None, f"{type(error).__name__}: {error}")
            half = len(some) // 2
            return scan(some[:half]) or scan(some[half:])
        for name in some:
            result = compare_raw({name: wanted[name]}, {name: got[name]}, rtol, atol)
            if not all(one.ok for one in result.differences):
                return blame_of(bad, name, result.differences[0])
        return None

    for start in range(0, len(names), window):
        blame = scan(names[start : start + window])
        if blame is not None:
            return blame
    return _unobserved(good, bad, run_good, run_bad, names, rtol, atol)


def _unobserved(
    good: onnx.ModelProto,
    bad: onnx.ModelProto,
    run_good: Runner,
    run_bad: Runner,
    names: Sequence[str],
    rtol: float,
    atol: float,
) -> NodeBlame | None:
    """Finds the node whose observation makes a difference of the outputs vanish."""
    outputs = [value.name for value in good.graph.output]
    wanted = run_good(good, outputs)

    def differs(observed: int) -> bool:
        got = run_bad(with_outputs(bad, names[:observed]), outputs)
        return any(not one.ok for one in compare_raw(wanted, got, rtol, atol).differences)

    if not names or not differs(0):
        return None
    low, high = 0, len(names)  # differs at low, agrees at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if differs(middle) else (low, middle)
    note = "the difference vanishes when this tensor is observed: look at an optimisation here"
    return blame_of(bad, names[high - 1], None, note)


def tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the main graph's computed tensors, in the order of computation."""
    return [
        name
        for node in model.graph.node
        if "Sequence" not in node.op_type and "Optional" not in node.op_type
        for name in node.output
        if name
    ]


def blame_of(
    model: onnx.ModelProto, tensor: str, difference: RawDifference | None = None, note: str = ""
) -> NodeBlame:
    """The node of a graph that computes a tensor, as the one to blame."""
    index, node = next(
        (i, node) for i, node in enumerate(model.graph.node) if tensor in node.output
    )
    return NodeBlame(index, node.name, node.op_type, scope(node), tensor, difference, note)


def scope(node: onnx.NodeProto) -> str:
    """The torch module that a node came from: ``detector.backbone.layer1``, or empty.

    The tracing exporter writes the path into the name (``/detector/backbone/conv1/Conv``), the
    newer one into the node's metadata.
    """
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            # One path for each enclosing module, outermost first, then the node's own name.
            modules = ast.literal_eval(entry.value)[:-1]
            return str(modules[-1]) if modules else ""
    return ".".join(node.name.strip("/").split("/")[:-1])
