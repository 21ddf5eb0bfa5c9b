"""Try every shipped detector at every opset, and print which are exact and which are refused.

Usage: python tools/opset_table.py [--models NAME,...] [--opsets N,...] [--images N] [--out FILE]

Dynamic graphs of the ``onnxruntime`` lowering, at batch 2, held to the suite's parity check. Exits
with 1 when a graph that was not refused gives other detections than PyTorch.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from pytest_onnxdet.backends import builtin_backends
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.export.options import ExportError, ExportOptions
from pytest_onnxdet.models.mini import mini_specs
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.parity import tie_proofs
from pytest_onnxdet.verify.judge import Sides, judge

OPSETS = tuple(range(11, 21))


class AtOpset(Workbench):
    """A workbench whose graphs are of the opset that is set last."""

    opset = 17

    def export_options(self, case: Case, postprocess: bool = True) -> ExportOptions:
        """The suite's graph, at another opset."""
        return replace(super().export_options(case, postprocess), opset=self.opset)


def attempt(bench: AtOpset, case: Case) -> str:
    """What becomes of the case at the bench's opset, for a cell."""
    tolerance = case.spec.tolerance(case.backend.name)
    try:
        candidate = bench.candidates(case)
    except ExportError as error:
        minimum = re.search(r"the least opset that works is (\d+)", str(error))
        return f"from {minimum[1]}" if minimum else f"ERROR: {error}"
    verdict = judge(
        Sides(
            bench.results(case),
            candidate,
            classes=case.spec.classes,
            max_per_img=bench.max_per_img(case.spec),
        ),
        tolerance,
        tie_proofs(bench, case, tolerance),
    )
    if not verdict.ok:
        return f"DIFFERS: {verdict.message}"
    return "exact"


def main() -> None:
    """Try, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", help="comma-separated; default: every mini")
    parser.add_argument("--opsets", default=",".join(map(str, OPSETS)))
    parser.add_argument("--images", type=int, default=12, help="of the data set; default: 12")
    parser.add_argument("--out", type=Path, help="write the table here too")
    args = parser.parse_args()
    opsets = [int(text) for text in args.opsets.split(",")]
    wanted = args.models.split(",") if args.models else [spec.name for spec in mini_specs()]
    backend = builtin_backends()["onnxruntime"]
    lines = [f"| model | {' | '.join(map(str, opsets))} |", "|---" * (len(opsets) + 1) + "|"]
    problems = []
    for spec in tqdm([s for s in mini_specs() if s.name in wanted], "models"):
        cells = []
        for opset in opsets:
            # A folder and a bench each: nothing of another opset can be taken for this one's.
            with (
                tempfile.TemporaryDirectory() as folder,
                AtOpset(
                    Settings(cache=Path(folder), limit=args.images), builtin_datasets()
                ) as bench,
            ):
                bench.opset = opset
                said = attempt(bench, Case(spec, backend, "dynamic", 2))
            if ":" in said:
                problems.append(f"{spec.name}, opset {opset}: {said}")
            cells.append(said.split(":")[0])
        lines.append(f"| {spec.name} | {' | '.join(cells)} |")
    print("\n".join([*lines, *problems]))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
