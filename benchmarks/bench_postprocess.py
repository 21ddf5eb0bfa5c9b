"""How much of a graph's time goes into post-processing?

The graph that ONNX Runtime makes of ours is cut in two, the network and the rest. The network is
timed by itself, on the values that the rest gives it in a run of the whole, in turns with the whole
graph: what the whole takes longer is post-processing. Nothing is profiled while time is taken:
ONNX Runtime's profiler more than doubles the run of a mini, as its bookkeeping costs 5 us a node,
several times what a small operator takes.

Which part a node belongs to follows from names. The exporter names a value after the module that
computed it: ``/backbone/layer1/…`` is the detector's own, ``/TopK_output_0`` is of the deploy
model's own code. What has a module is network. So is RoiAlign, and GridSample, which pools for
PointRend. So is what a network value is made from, such as CornerNet's corner pooling and DETR's
padding mask, but in two-stage models only up to the proposal network: choosing proposals, decoding,
suppression and the bookkeeping of regions count as post-processing though the RoI heads need them.
Network again is what PointRend does between the coarse masks and its last points.
What ONNX Runtime puts in of its own (changes of memory layout) goes with the node that it comes
after.

Prints the share for each mini; ``rest`` is the time of post-processing by itself, which is less
than its part of the whole, as its values lie in the processor's cache then. Bar: median at most
15 %, none over 30 %; above it, exit code 1.

Usage: python benchmarks/bench_postprocess.py [--model NAME ...] [--nodes N]
--nodes N lists the N slowest nodes of post-processing, from a profile.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import GraphOptimizationLevel

MEDIAN, WORST = 0.15, 0.30
SAMPLERS = ("RoiAlign", "GridSample")
# Of two-stage models: up to the proposals; and up to the boxes.
PROPOSING = ("backbone", "neck", "rpn_head")
BOXES = (*PROPOSING, "bbox_head")
WARM_UP = 5
Arrays = dict[str, NDArray[Any]]


def _ancestors(
    nodes: Sequence[onnx.NodeProto], maker: Mapping[str, onnx.NodeProto], until: set[str]
) -> set[str]:
    """Names of the nodes that these are made from, without those of ``until`` and theirs."""
    names: set[str] = set()
    open_ = list(nodes)
    while open_:
        for name in read_by(open_.pop()):
            before = maker.get(name)
            if before is not None and before.name not in names | until:
                names.add(before.name)
                open_.append(before)
    return names


def network(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that count as network, see the module's docstring."""
    maker = {name: node for node in graph.node for name in node.output if name}
    scopes: dict[str, str | None] = {}  # by node: its module, "" for none, None for the runtime's
    for node in graph.node:
        # Of fused nodes, one of the two is the exporter's. Operators start with a capital.
        names = (node.name, node.output[0])
        match = next((m for name in names if (m := re.match(r"/(?:([a-z][^/]*)/)?", name))), None)
        scopes[node.name] = (match.group(1) or "") if match else None
    for node in graph.node:  # in topological order
        if scopes[node.name] is None:
            before = [maker[name] for name in node.input if name in maker]
            scopes[node.name] = scopes[before[0].name] if before else ""
    parts = {node.name for node in graph.node if scopes[node.name] or node.op_type in SAMPLERS}
    two_stage = "rpn_head" in scopes.values()
    roots = [
        node
        for node in graph.node
        if (scope := scopes[node.name]) and (not two_stage or scope in PROPOSING)
    ]
    parts |= _ancestors(roots, maker, parts)
    # PointRend's refinement: from the coarse masks or one step's points to the next step's.
    reached: set[str] = set()
    for node in graph.node:
        head = two_stage and scopes[node.name] and not scopes[node.name].startswith(BOXES)
        if head or any(name in maker and maker[name].name in reached for name in read_by(node)):
            reached.add(node.name)
    steps = [node for node in graph.node if (scopes[node.name] or "").startswith("point_head")]
    parts |= _ancestors(steps, maker, set()) & reached
    return parts


def open_session(
    model: bytes | str, threads: int, *, optimised: bool = False, **options: Any
) -> onnxruntime.InferenceSession:
    """A session on the CPU; ``optimised``: the graph is taken as it is."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.log_severity_level = 3
    # Else one session's threads take the cores from the next one's turn.
    made.add_session_config_entry("session.force_spinning_stop", "1")
    if optimised:
        made.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in options.items():
        setattr(made, name, value)
    return onnxruntime.InferenceSession(model, made, providers=["CPUExecutionProvider"])


def optimised_graph(path: Path, threads: int) -> onnx.ModelProto:
    """What ONNX Runtime makes of a graph."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/optimised.onnx"
        open_session(str(path), threads, optimized_model_filepath=place)
        return onnx.load(place)


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node takes, those of the graph around its bodies included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.HasField("g") else []
        for body in (*bodies, *attribute.graphs):
            own = {value.name for value in (*body.input, *body.initializer)}
            own.update(name for inner in body.node for name in inner.output)
            for inner in body.node:
                yield from (name for name in read_by(inner) if name not in own)
            yield from (value.name for value in body.output if value.name not in own)


class Part:
    """Some nodes of a graph, as a graph of their own.

    Args:
        model: the whole.
        names: of the nodes.

    Attributes:
        inputs, outputs: names of the values that it takes from the rest, and gives.
    """

    def __init__(self, model: onnx.ModelProto, names: set[str]) -> None:
        graph = model.graph
        self._model = model
        self._nodes = [node for node in graph.node if node.name in names]
        made = {name for node in self._nodes for name in node.output if name}
        read = {name for node in self._nodes for name in read_by(node)}
        self._weights = [weight for weight in graph.initializer if weight.name in read]
        elsewhere = {value.name for value in graph.output}
        for node in graph.node:
            if node.name not in names:
                elsewhere.update(read_by(node))
        self.inputs = sorted(read - made - {weight.name for weight in self._weights})
        self.outputs = sorted(made & elsewhere)

    def session(self, example: Arrays, threads: int) -> onnxruntime.InferenceSession:
        """Runs it; ``example``: a value of each input."""
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(example[name].dtype), None
            )
            for name in self.inputs
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.outputs]
        graph = onnx.helper.make_graph(
            self._nodes, "part", inputs, outputs, initializer=self._weights
        )
        made = onnx.helper.make_model(graph, opset_imports=self._model.opset_import)
        made.ir_version = self._model.ir_version
        return open_session(made.SerializeToString(), threads, optimised=True)


def values_of(
    model: onnx.ModelProto, names: set[str], feeds: list[Arrays], threads: int
) -> list[Arrays]:
    """Values of these names, and the inputs, in a run of the whole with each feed."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    wanted = names - {value.name for value in (*model.graph.input, *model.graph.output)}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    session = open_session(watched.SerializeToString(), threads, optimised=True)
    outputs = [value.name for value in session.get_outputs()]
    return [dict(zip(outputs, session.run(None, feed), strict=True)) | feed for feed in feeds]


def measure(path: Path, feeds: list[Arrays], threads: int, runs: int) -> dict[str, Any]:
    """Milliseconds of a run, of the whole graph and of its parts by themselves."""
    model = optimised_graph(path, threads)
    names = network(model.graph)
    after = {node.name for node in model.graph.node} - names
    parts = [Part(model, names), Part(model, after)]
    values = values_of(model, {name for part in parts for name in part.inputs}, feeds, threads)
    runners = [(open_session(str(path), threads), feeds)]
    for part in parts:
        inputs = [{name: one[name] for name in part.inputs} for one in values]
        runners.append((part.session(values[0], threads), inputs))
    times = np.zeros((len(runners), len(feeds), runs))
    for turn in range(-WARM_UP, runs):
        for row, (session, inputs) in enumerate(runners):
            for column, feed in enumerate(inputs):
                start = time.perf_counter()
                session.run(None, feed)
                times[row, column, max(turn, 0)] = 1e3 * (time.perf_counter() - start)
    # Turn by turn, as the machine's speed drifts.
    share = float(np.median(1 - times[1].sum(axis=0) / times[0].sum(axis=0)))
    total, alone, rest = np.median(times, axis=2).mean(axis=1).tolist()
    return {
        "total": total,
        "network": alone,
        "rest": rest,
        "nodes": (len(names), len(after)),
        "share": share,
        "after": after,
    }


def slowest(
    path: Path, feeds: list[Arrays], threads: int, runs: int, among: set[str]
) -> list[tuple[str, float]]:
    """Median milliseconds of these nodes under the profiler, slowest first."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(
            str(path), threads, enable_profiling=True, profile_file_prefix=f"{folder}/profile"
        )
        for _ in range(runs + WARM_UP):
            for feed in feeds:
                session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    whole = [event["ts"] for event in events if event["name"] == "model_run"]
    start = whole[WARM_UP * len(feeds)]
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event["cat"] == "Node" and name in among and event["ts"] >= start:
            times[name].append(event["dur"] / 1e3)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return sorted(medians.items(), key=lambda item: -item[1])


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--runs", type=int, default=60, help="over the batches; default: 60")
    parser.add_argument("--nodes", type=int, default=0, help="list so many of the slowest nodes")
    args = parser.parse_args()
    shares: dict[str, list[float]] = {}
    print(f"{args.threads} threads; milliseconds for a batch\n")
    form = "{:<18} {:<8} {:>5} {:>8} {:>8} {:>7} {:>12} {:>8}"
    print(form.format("model", "shape", "batch", "run", "network", "rest", "nodes", "share"))
    with common.bench(args) as bench:
        for spec in common.specs(args):
            for case in common.cases(spec, args):
                artifact = bench.artifact(case)
                arrays = [
                    {"input": batch.images, "image_shape": batch.image_shape}
                    for batch in common.batches(bench, case)
                ]
                feeds = [{name: one[name] for name in artifact.inputs} for one in arrays]
                figures = measure(artifact.path, feeds, args.threads, args.runs)
                shares.setdefault(spec.name, []).append(figures["share"])
                times = (f"{figures[key]:.2f}" for key in ("total", "network", "rest"))
                nodes = "{} + {}".format(*figures["nodes"])
                row = (spec.name, case.shape, case.batch, *times, nodes, f"{figures['share']:.1%}")
                print(form.format(*row), flush=True)
                if args.nodes:
                    listed = slowest(
                        artifact.path, feeds, args.threads, args.runs, figures["after"]
                    )
                    for name, time_ in listed[: args.nodes]:
                        print(f"    {time_ * 1e3:8.1f} us  {name}")
    middle = statistics.median(statistics.median(each) for each in shares.values())
    name, worst = max(((n, max(each)) for n, each in shares.items()), key=lambda pair: pair[1])
    for text, value, bar in (
        ("median of the models", middle, MEDIAN),
        (f"worst ({name})", worst, WORST),
    ):
        verdict = "held" if value <= bar else "NOT HELD"
        print(f"{text} {value:.1%}, bar {bar:.0%}: {verdict}")
    return int(middle > MEDIAN or worst > WORST)


if __name__ == "__main__":
    raise SystemExit(main())
