"""The benchmark of post-processing cuts a graph in two whose parts give what the whole gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
X = np.float32([[1, -2, 3]])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench_postprocess

    yield bench_postprocess
    for name in ("bench_postprocess", "common"):
        sys.modules.pop(name, None)


@pytest.fixture
def model() -> onnx.ModelProto:
    """Backbone, then a choice in post-processing that reads the backbone's value from outside.

    /backbone/Relu: r = relu(x); /Add: s = r + one; /If: o = s > 0 ? r * s : s.
    """
    return onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[1, 3] x) => (float[a, b] o)
        <float one = {1}, float zero = {0}>
        {
            ["/backbone/Relu"] r = Relu(x)
            ["/Add"] s = Add(r, one)
            ["/ReduceMax"] m = ReduceMax <keepdims: int = 0> (s)
            ["/Greater"] c = Greater(m, zero)
            ["/If"] o = If (c) <
                then_branch = yes () => (float[a, b] p) { p = Mul(r, s) },
                else_branch = no () => (float[a, b] q) { q = Identity(s) }
            >
        }
        """
    )


def made(nodes: str) -> onnx.ModelProto:
    """A graph of these nodes from x to o."""
    head = '<ir_version: 9, opset_import: ["" : 17]> net (float[1, 3] x) => (float[1, 3] o)'
    return onnx.parser.parse_model(f"{head} {{ {nodes} }}")


def test_names_say_what_is_network(bench: Any, model: onnx.ModelProto) -> None:
    assert bench.network(model.graph) == {"/backbone/Relu"}


def test_of_two_stages_the_choice_of_regions_is_post_processing(bench: Any) -> None:
    """Also where heads have numbers, as a cascade's; what the proposal network needs is network."""
    model = made(
        """
        ["/Neg"] n = Neg(x)
        ["/rpn_head/Relu"] r = Relu(n)
        ["/Abs"] a = Abs(r)
        ["/bbox_head.0/Relu"] h = Relu(a)
        ["/Exp"] o = Exp(h)
        """
    )
    assert bench.network(model.graph) == {"/Neg", "/rpn_head/Relu", "/bbox_head.0/Relu"}


def test_refinement_of_masks_is_network(bench: Any) -> None:
    """From coarse masks to the points of the last step; not where the boxes come from."""
    model = made(
        """
        ["/rpn_head/Relu"] r = Relu(x)
        ["/Abs"] a = Abs(r)
        ["/bbox_head/Relu"] b = Relu(a)
        ["/Neg"] d = Neg(b)
        ["/fc_logits/Relu"] c = Relu(d)
        ["/Exp"] e = Exp(c)
        ["/Add"] p = Add(e, d)
        ["/point_head_1/Relu"] q = Relu(p)
        ["/Mul"] o = Mul(q, e)
        """
    )
    modules = {"/rpn_head/Relu", "/bbox_head/Relu", "/fc_logits/Relu", "/point_head_1/Relu"}
    assert bench.network(model.graph) == modules | {"/Exp", "/Add"}


def test_the_parts_give_what_the_whole_gives(bench: Any, model: onnx.ModelProto) -> None:
    names = bench.network(model.graph)
    network = bench.Part(model, names)
    rest = bench.Part(model, {node.name for node in model.graph.node} - names)

    assert (network.inputs, network.outputs) == (["x"], ["r"])
    assert (rest.inputs, rest.outputs) == (["r"], ["o"])  # one is a weight, not an input
    (values,) = bench.values_of(model, {"r"}, [{"x": X}], 1)
    np.testing.assert_array_equal(values["r"], np.maximum(X, 0))
    for part, output in ((network, "r"), (rest, "o")):
        (result,) = part.session(values, 1).run(None, {name: values[name] for name in part.inputs})
        np.testing.assert_array_equal(result, values[output])


def test_the_share_is_what_the_whole_takes_longer(
    bench: Any, model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 ms, the network alone takes 6: the share is 0.4 whatever the rest takes alone."""
    onnx.save(model, tmp_path / "net.onnx")
    spans = iter([0.010, 0.006, 0.002] * 20)
    now = [0.0]

    def clock() -> float:
        clock.calls += 1  # type: ignore[attr-defined]
        if clock.calls % 2 == 0:  # type: ignore[attr-defined]
            now[0] += next(spans)
        return now[0]

    clock.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(bench.time, "perf_counter", clock)
    monkeypatch.setattr(bench, "network", lambda graph: {graph.node[0].name})
    result = bench.measure(tmp_path / "net.onnx", [{"x": X}], 1, runs=3)

    assert result["share"] == pytest.approx(0.4)
    assert [result[name] for name in ("total", "network", "rest")] == pytest.approx([10, 6, 2])
