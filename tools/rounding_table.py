"""How far float32 itself is from float64 in the raw outputs of the full-size detectors.

Usage: python tools/rounding_table.py [--models NAME,...]

The detectors are those of the structure check: documented configs, random weights calibrated on two
images. Printed is how far the logits of scores are off in PyTorch's float32 and in ONNX Runtime's,
which decides what counts as a tie (``reference/ties/rounding.py``), and how much of the allowance
for raw outputs (``reference/noise.py``) ONNX Runtime uses, 1 for all of it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from pytest_onnxdet.backends import builtin_backends
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.structure import LIMIT, structure_spec
from pytest_onnxdet.models.zoo import ZOO
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.verify.noise import compare_to_exact

SCORES = ("cls_score", "centerness", "pred_map")


def distances(spec: ModelSpec, bench: Workbench) -> list[float]:
    """The logits' worst distance from float64 of PyTorch and ONNX Runtime, and the share used."""
    case = Case(spec, builtin_backends()["onnxruntime"], "dynamic", 1)
    recording, raw = bench.recording(case), bench.raw(case)
    assert recording.noise is not None
    worst = np.zeros(2)
    for exact, *both in zip(recording.noise.exact, recording.raw, raw, strict=True):
        for name in exact:
            if name.startswith(SCORES) or "_heat" in name:
                off = [float(np.abs(one[name] - exact[name]).max()) for one in both]
                worst = np.maximum(worst, off)
    share = compare_to_exact(recording.noise, recording.raw, raw).raw_share
    return [*worst.tolist(), float(share or 0.0)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", help="comma-separated; default: all twelve")
    chosen = parser.parse_args().models
    names = chosen.split(",") if chosen else list(ZOO)
    heads = ["model", "logits: PyTorch", "ONNX Runtime", "share of the allowance"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    registry = builtin_registry()
    for name in names:
        spec = structure_spec(registry.get(name, "full"))
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(cache=Path(folder), limit=LIMIT)
            with Workbench(settings, builtin_datasets()) as bench:
                *logits, share = distances(spec, bench)
        cells = [name, *(f"{one:.1e}" for one in logits), f"{share:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
