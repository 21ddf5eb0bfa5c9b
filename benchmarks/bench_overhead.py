"""Does measuring distort? The time we report against a bare loop.

For each mini, the time that the latency check would report for the graph, measured in turns with
PyTorch, over that of a loop around ``InferenceSession.run`` on the same inputs and as many threads.
Both are repeated in turns, so that a machine that gets slower slows both. Both sessions have ONNX
Runtime's defaults but for the threads; ours runs on bound inputs. Bar: 1.02, the median.

Usage: python benchmarks/bench_overhead.py [--model NAME ...]
"""

from __future__ import annotations

import statistics
import time

import common
import onnxruntime

from pytest_onnxdet.measure.latency import detection_subjects
from pytest_onnxdet.measure.turns import GRAPH, measure
from pytest_onnxdet.reference.threads import torch_threads

BAR = 1.02
TURNS = 5


def bare(session: onnxruntime.InferenceSession, feeds: list[dict], seconds: float) -> float:
    """Milliseconds for a batch, the median of passes over the inputs."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        times.append((time.perf_counter() - start) * 1e3 / len(feeds))
    return statistics.median(times)


def main() -> int:
    parser = common.parser(__doc__)
    parser.set_defaults(shape=["dynamic"])
    args = parser.parse_args()
    ratios = []
    print(f"{args.threads} threads; milliseconds for a batch, medians\n")
    print(f"{'model':<18} {'batch':>5} {'bare loop':>10} {'reported':>10} {'ratio':>7}")
    with common.bench(args) as bench, torch_threads(args.threads):
        for spec in common.specs(args):
            for case in common.cases(spec, args):
                batches = common.batches(bench, case)
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = args.threads
                options.log_severity_level = 3
                artifact = bench.artifact(case)
                session = onnxruntime.InferenceSession(
                    str(artifact.path), options, providers=["CPUExecutionProvider"]
                )
                arrays = [{"input": b.images, "image_shape": b.image_shape} for b in batches]
                feeds = [{name: a[name] for name in artifact.inputs} for a in arrays]
                detector = bench.reference(spec).bare_call(batches)
                subjects = detection_subjects(bench.session(case), detector, batches)
                loop, reported = [], []
                for _ in range(TURNS):
                    loop.append(bare(session, feeds, args.seconds / 4))
                    measured = measure(subjects, seconds=args.seconds, calls=len(batches))
                    reported.append(measured.timings[GRAPH].median)
                ratios.append(statistics.median(b / a for a, b in zip(loop, reported, strict=True)))
                a, b = statistics.median(loop), statistics.median(reported)
                print(
                    f"{spec.name:<18} {case.batch:>5} {a:>10.2f} {b:>10.2f} {ratios[-1]:>7.3f}",
                    flush=True,
                )
    middle = statistics.median(ratios)
    verdict = "held" if middle <= BAR else "NOT HELD"
    print(f"\nmedian {middle:.3f}, bar {BAR}: {verdict}; worst {max(ratios):.3f}")
    return int(middle > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
