"""Check the structure of the documented full-size detectors, model by model, and print a table.

Usage: python tools/structure_table.py [--models NAME,...] [--cache DIR] [--out FILE]

Each model gets a pytest of its own, so that its time and its peak memory are its own: random,
calibrated weights, a dynamic graph, images of several sizes at batch 1 and 2, the checks export and
parity. Exits with 1 when a model fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytest_onnxdet.models.zoo import ZOO

CASES = 4  # two checks, two batch sizes
COLUMNS = ("model", "nodes", "graph, MB", "detections", "box, px", "score", "mask", "tied images")


def check(model: str, cache: Path | None) -> tuple[list[dict[str, object]], float, float]:
    """One model's cases, its time in seconds and its peak resident memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "--onnxdet", "-q", "-p", "no:cacheprovider"]
        command += ["--onnxdet-profile=full", "--onnxdet-checkpoints=none", "--onnxdet-batch=1,2"]
        command += ["--onnxdet-backend=onnxruntime", "--onnxdet-shape=dynamic"]
        command += [f"--onnxdet-model={model}", f"--onnxdet-report={folder}/report"]
        # A full-size model takes longer than a test of this project may.
        command += ["-m", "export or parity", "-o", "timeout=3600"]
        command += [f"--onnxdet-cache={cache or folder + '/cache'}"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=sys.stderr)
        _, _, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        report = Path(folder, "report", "report.json")
        cases = json.loads(report.read_text())["cases"] if report.is_file() else []
    unit = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss: bytes there, kB elsewhere
    return cases, seconds, usage.ru_maxrss / unit


def row(model: str, cases: list[dict[str, object]], seconds: float, memory: float) -> list[str]:
    """A model's cells: the worst over its cases, or the checks that did not pass."""
    wrong = [f"{case['id']} {case['check']} {case['outcome']}" for case in cases]
    wrong = [text for text, case in zip(wrong, cases, strict=True) if case["outcome"] != "passed"]
    if len(cases) != CASES:
        wrong.append(f"{len(cases)} of {CASES} checks ran")
    metrics = [case["metrics"] for case in cases]

    def largest(name: str, form: str = "{:.1e}") -> str:
        values = [m[name] for m in metrics if isinstance(m, dict) and m.get(name) is not None]
        return form.format(max(values)) if values else ""

    size = largest("bytes", "{}")
    return [
        model,
        largest("nodes", "{}"),
        f"{int(size) / 1e6:.0f}" if size else "",
        largest("detections", "{}"),
        largest("max_box_px"),
        largest("max_score"),
        largest("max_mask"),
        largest("tied_images", "{}"),
        f"{seconds:.0f}",
        f"{memory:.1f}",
        "; ".join(wrong) or "passed",
    ]


def main() -> None:
    """Check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", help="comma-separated; default: all twelve")
    parser.add_argument("--cache", type=Path, help="keep graphs here; default: nowhere")
    parser.add_argument("--out", type=Path, help="write the table here too")
    args = parser.parse_args()
    names = args.models.split(",") if args.models else list(ZOO)
    heads = [*COLUMNS, "time, s", "memory, GB", "outcome"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    print(*lines, sep="\n", flush=True)
    good = True
    for name in names:
        cells = row(name, *check(name, args.cache))
        good &= cells[-1] == "passed"
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
