"""Is an exported graph on ONNX Runtime faster than the detector in PyTorch?

Both take turns on the same batches with the same threads. Prints for each mini, shape mode and
batch size the times and the ratio ONNX Runtime / PyTorch eager, the median of the rounds' ratios;
scaling back and pasting masks, which the detector does and a graph leaves to the session, counts on
both sides, and so does what a device copies. At the end, the minis' median and the worst: expected
are at most 0.80 and 1.00, and the exit code is 1 where they are more.

Usage: python benchmarks/bench_latency.py [--model NAME ...] [--full]
With --full: the documented full-size models with random weights, 800x1216 where the config resizes
to 1333x800, one image.
"""

from __future__ import annotations

import statistics

import common

from pytest_onnxdet.measure.latency import detection_subjects
from pytest_onnxdet.measure.turns import GRAPH, RESULTS, TORCH, measure
from pytest_onnxdet.reference.threads import torch_threads

MEDIAN, WORST = 0.8, 1.0


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--full", action="store_true", help="full-size models, random weights")
    args = parser.parse_args()
    if args.full:
        args.images, args.batch, args.shape = 2, [1], ["dynamic"]
    by_model: dict[str, list[float]] = {}
    print(f"{args.threads} threads; milliseconds for a batch, medians\n")
    header = ("model", "shape", "batch", "input", "PyTorch", "graph", "results", "ratio", "rounds")
    form = "{:<18} {:<8} {:>5} {:>15} {:>9} {:>9} {:>8} {:>6} {:>6}"
    print(form.format(*header))
    with common.bench(args) as bench, torch_threads(args.threads):
        for spec in common.specs(args):
            for case in common.cases(spec, args):
                batches = common.batches(bench, case, limit=1 if args.full else 3)
                detector = bench.reference(spec).bare_call(batches)
                measured = measure(
                    detection_subjects(bench.session(case), detector, batches),
                    seconds=args.seconds,
                    calls=len(batches),
                )
                # Of all that PyTorch's time has: on a device also the copies, which no column has.
                ratio = 1 / measured.figures()["speedup"]
                by_model.setdefault(spec.name, []).append(ratio)
                times = (f"{measured.timings[n].median:.2f}" for n in (TORCH, GRAPH, RESULTS))
                size = "x".join(map(str, batches[0].images.shape))
                rounds = measured.timings[GRAPH].rounds
                row = (spec.name, case.shape, case.batch, size, *times, f"{ratio:.3f}", rounds)
                print(form.format(*row), flush=True)
    middle = statistics.median(statistics.median(ratios) for ratios in by_model.values())
    name, worst = max(((n, max(r)) for n, r in by_model.items()), key=lambda pair: pair[1])
    held = middle <= MEDIAN and worst <= WORST
    for text, value, bar in ((" ", middle, MEDIAN), (f" ({name}) ", worst, WORST)):
        what = "median of the models" if text == " " else "worst"
        verdict = "held" if value <= bar else "NOT HELD"
        print(f"\n{what}{text}{value:.3f}, expected at most {bar:.2f}: {verdict}", end="")
    print()
    return int(not held)


if __name__ == "__main__":
    raise SystemExit(main())
