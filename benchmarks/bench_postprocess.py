"""How much of a graph's time goes into post-processing?

From ONNX Runtime's profile: the median time of every node over the runs, added up by part.

Which part a node belongs to follows from names. The exporter names a value after the module that
computed it: ``/backbone/layer1/…`` is the detector's own, ``/TopK_output_0`` is of the deploy
model's own code. What has a module is network. So is RoiAlign, and GridSample, which pools for
PointRend. So is what a network value is made from, such as CornerNet's corner pooling and DETR's
padding mask, but in two-stage models only up to the proposal network: choosing proposals, decoding,
suppression and the bookkeeping of regions count as post-processing though the RoI heads need them.
What ONNX Runtime puts in of its own (changes of memory layout) goes with the node that it comes
after. Time that the runtime spends between nodes is shared out evenly by nodes.

Prints the share for each mini. Bar: median at most 15 %, none over 30 %; above it, exit code 1.

Usage: python benchmarks/bench_postprocess.py [--model NAME ...] [--nodes N]
--nodes N lists the N slowest nodes of post-processing.
"""

from __future__ import annotations

import bisect
import json
import re
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import common
import onnx
import onnxruntime

MEDIAN, WORST = 0.15, 0.30
SAMPLERS = ("RoiAlign", "GridSample")
REGION_HEADS = ("bbox_head", "mask_head", "point_head", "roi_head")
WARM_UP = 5


def network(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that count as network, see the module's docstring."""
    maker = {name: node for node in graph.node for name in node.output if name}
    scopes: dict[str, str | None] = {}  # by node: its module, "" for none, None for the runtime's
    for node in graph.node:
        # Of fused nodes, one of the two is the exporter's. Operators start with a capital.
        names = (node.name, node.output[0])
        found = next((m for name in names if (m := re.match(r"/(?:([a-z][^/]*)/)?", name))), None)
        scopes[node.name] = (found.group(1) or "") if found else None
    for node in graph.node:  # in topological order
        if scopes[node.name] is None:
            before = [maker[name] for name in node.input if name in maker]
            scopes[node.name] = scopes[before[0].name] if before else ""
    two_stage = "rpn_head" in scopes.values()
    parts = {node.name for node in graph.node if scopes[node.name] or node.op_type in SAMPLERS}
    # What network values are made from.
    roots = [
        node
        for node in graph.node
        if scopes[node.name] and not (two_stage and scopes[node.name] in REGION_HEADS)
    ]
    while roots:
        node = roots.pop()
        for name in node.input:
            before = maker.get(name)
            if before is not None and before.name not in parts:
                parts.add(before.name)
                roots.append(before)
    return parts


def profile(path: Path, feeds: list[dict[str, Any]], threads: int, runs: int) -> dict[str, Any]:
    """Milliseconds of a run, in all and by part, from the profile of one session."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(runs + WARM_UP):
            for feed in feeds:
                session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(f"{folder}/optimized.onnx").graph
    parts = network(graph)
    whole = [event for event in events if event["name"] == "model_run"][WARM_UP * len(feeds) :]
    # Runs that something disturbed say nothing about the graph: the faster half counts.
    whole.sort(key=lambda event: event["dur"])
    whole = sorted(whole[: (len(whole) + 1) // 2], key=lambda event: event["ts"])
    starts = [event["ts"] for event in whole]
    times: dict[str, list[float]] = defaultdict(list)
    # Nodes within a Loop or an If are part of its time.
    outer = {node.name for node in graph.node}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event["cat"] == "Node" and name != event["name"] and name in outer:
            run = bisect.bisect(starts, event["ts"]) - 1
            if run >= 0 and event["ts"] <= starts[run] + whole[run]["dur"]:
                times[name].append(event["dur"] / 1e3)
    total = statistics.median(event["dur"] / 1e3 for event in whole)
    by_node = {name: statistics.median(found) for name, found in times.items()}
    between = max(0.0, total - sum(by_node.values())) / len(by_node)
    after = {name: time for name, time in by_node.items() if name not in parts}
    return {
        "total": total,
        "network": sum(by_node.values()) - sum(after.values()),
        "after": sum(after.values()),
        "nodes": (len(by_node) - len(after), len(after)),
        "share": (sum(after.values()) + between * len(after))
        / (sum(by_node.values()) + between * len(by_node)),
        "slowest": sorted(after.items(), key=lambda item: -item[1]),
    }


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--runs", type=int, default=40, help="over the batches; default: 40")
    parser.add_argument("--nodes", type=int, default=0, help="list so many of the slowest nodes")
    given = parser.parse_args()
    shares: dict[str, list[float]] = {}
    print(f"{given.threads} threads; milliseconds for a batch, under the profiler\n")
    form = "{:<18} {:<8} {:>5} {:>8} {:>8} {:>7} {:>12} {:>8}"
    print(form.format("model", "shape", "batch", "run", "network", "after", "nodes", "share"))
    with common.bench(given) as bench:
        for spec in common.specs(given):
            for case in common.cases(spec, given):
                artifact = bench.artifact(case)
                arrays = [
                    {"input": batch.images, "image_shape": batch.image_shape}
                    for batch in common.batches(bench, case)
                ]
                feeds = [{name: one[name] for name in artifact.inputs} for one in arrays]
                found = profile(artifact.path, feeds, given.threads, given.runs)
                shares.setdefault(spec.name, []).append(found["share"])
                times = (f"{found[key]:.2f}" for key in ("total", "network", "after"))
                nodes = "{} + {}".format(*found["nodes"])
                row = (spec.name, case.shape, case.batch, *times, nodes, f"{found['share']:.1%}")
                print(form.format(*row), flush=True)
                for name, time in found["slowest"][: given.nodes]:
                    print(f"    {time * 1e3:8.1f} us  {name}")
    middle = statistics.median(statistics.median(found) for found in shares.values())
    name, worst = max(((n, max(found)) for n, found in shares.items()), key=lambda pair: pair[1])
    for text, value, bar in (
        ("median of the models", middle, MEDIAN),
        (f"worst ({name})", worst, WORST),
    ):
        verdict = "held" if value <= bar else "NOT HELD"
        print(f"{text} {value:.1%}, bar {bar:.0%}: {verdict}")
    return int(middle > MEDIAN or worst > WORST)


if __name__ == "__main__":
    raise SystemExit(main())
