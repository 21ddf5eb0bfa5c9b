"""The latency benchmark's ratio, on times that are made up."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_onnxdet.measure.turns import GRAPH, RESULTS, RUN, TORCH, Measured, Timing

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("times", "ratio", "code"),
    [
        ({TORCH: 10.0, GRAPH: 4.0, RESULTS: 2.0}, "0.600", 0),
        # The bound graph leaves copies out, and PyTorch's time has them.
        ({TORCH: 10.0, GRAPH: 4.0, RUN: 7.0, RESULTS: 2.0}, "0.900", 1),
    ],
)
def test_the_ratio_has_the_copies_of_a_device(
    times: dict[str, float],
    ratio: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["bench_latency.py"])
    import bench_latency
    import common

    case = SimpleNamespace(shape="static", batch=1)
    batch = SimpleNamespace(images=SimpleNamespace(shape=(1, 3, 8, 8)))
    reference = SimpleNamespace(bare_call=lambda batches: None)
    bench = SimpleNamespace(session=lambda case: None, reference=lambda spec: reference)
    timings = {name: Timing((ms,) * 5) for name, ms in times.items()}
    for place, name, value in (
        (common, "bench", lambda arguments: contextlib.nullcontext(bench)),
        (common, "specs", lambda arguments: [SimpleNamespace(name="net")]),
        (common, "cases", lambda spec, arguments: [case]),
        (common, "batches", lambda bench, case, limit: [batch]),
        (bench_latency, "detection_subjects", lambda *arguments: {}),
        (bench_latency, "measure", lambda subjects, **arguments: Measured(timings, 3)),
    ):
        monkeypatch.setattr(place, name, value)

    assert bench_latency.main() == code
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("net "))
    assert row.split()[-2:] == [ratio, "5"]
