"""How far float32 itself is from float64 in the raw outputs of the full-size detectors.

Usage: python tools/rounding_table.py [--models NAME,...]

The detectors are those of the structure check: documented configs, random weights calibrated on two
images. Their heads' raw outputs on these images are computed by PyTorch in float32 and in float64,
and by ONNX Runtime in float32. Told is how far off the logits of scores are, which decides what
counts as a tie (``data/rounding.py``), and what goes beyond the relative allowance in all outputs:
the absolute one in ``models/structure.py`` has to cover just that, about twice, as two runtimes may
be as far apart as both are from float64.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytest_onnxdet.backends import builtin_backends
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.structure import LIMIT, structure_spec
from pytest_onnxdet.models.zoo import ZOO
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings

SCORES = ("cls_score", "centerness", "pred_map")


def exact(detector: Any, batch: Any) -> dict[str, Any]:
    """The heads' outputs in float64."""
    double = Reference(copy.deepcopy(detector).double())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # positional encodings and grids follow it
    try:
        return double.raw(replace(batch, images=batch.images.astype(np.float64)))
    finally:
        torch.set_default_dtype(before)


def distances(spec: ModelSpec, bench: Workbench) -> list[float]:
    """How far two float32 results are from float64 at most.

    Returns:
        Of PyTorch and of ONNX Runtime: in the logits of scores; and in all outputs, what goes
        beyond the relative allowance.
    """
    case = Case(spec, builtin_backends()["onnxruntime"], "dynamic", 1)
    relative = spec.tolerance("onnxruntime").raw_rtol
    found = np.zeros(4)
    session = bench.session(case, postprocess=False)
    for batch in bench.batches(case):
        right = exact(bench.detector(spec), batch)
        both = bench.reference(spec).raw(batch), session.run(batch)
        for name, value in right.items():
            for at, single in enumerate(both):
                off = np.abs(single[name] - value)
                if name.startswith(SCORES) or "_heat" in name:
                    found[at] = max(found[at], off.max())
                found[2 + at] = max(found[2 + at], (off - relative * np.abs(value)).max())
    return [float(one) for one in found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", help="comma-separated; default: all twelve")
    given = parser.parse_args().models
    names = given.split(",") if given else list(ZOO)
    heads = ["model", "logits: PyTorch", "ONNX Runtime", "beyond relative: PyTorch"]
    heads += ["ONNX Runtime", "allowed"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    registry = builtin_registry()
    for name in names:
        spec = structure_spec(registry.get(name, "full"))
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(cache=Path(folder), limit=LIMIT)
            with Workbench(settings, builtin_datasets()) as bench:
                found = distances(spec, bench)
        allowed = spec.tolerance("onnxruntime").raw_atol
        cells = [name, *(f"{one:.1e}" for one in (*found, allowed))]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
