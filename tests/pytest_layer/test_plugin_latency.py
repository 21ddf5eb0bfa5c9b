"""The shipped latency check on the toy project: what it records, saves, and when it leaves off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy_project
from plugin_output import cases

# What the check imports while it runs, see conftest.py.
cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
pytest.importorskip("pytest_benchmark")
import pytest_onnxdet.core.cpu  # noqa: E402
import pytest_onnxdet.data.detections  # noqa: E402
import pytest_onnxdet.measure.latency  # noqa: E402
import pytest_onnxdet.reference.detector  # noqa: E402

CONFTEST = (
    toy_project.CONFTEST
    + """
from torch import nn

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.reference.detector import Reference


class Net(nn.Linear):
    def forward(self, img, img_metas, return_loss, rescale):
        assert not return_loss and rescale and len(img) == len(img_metas) == 1
        img_metas[0][0]["written"] = True  # as mmdet does
        return [None] * len(img[0])


def toy_run(session, feeds):
    n = len(feeds["input"])
    return {"dets": np.ones((n, 1, 5), np.float32), "labels": np.zeros((n, 1), np.int64)}


def toy_batches(bench, case):
    images = np.zeros((case.batch, 3, 32, 32), np.float32)
    metas = [{"scale_factor": np.ones(4, np.float32)} for _ in images]
    return [Batch(images, np.full((case.batch, 2), 32), metas)] * 4


def toy_prepare(backend, artifact, threads=None):
    with open(os.environ["TOY_LOG"], "a") as log:
        log.write(f"load {threads}\\n")
    return ToySession(artifact)


ToySession._run = toy_run
Toy.prepare = toy_prepare
ToyBench.batches = toy_batches
ToyBench.reference = lambda bench, spec: Reference(Net(1, 1))
"""
)
MARKS = "latency and toy and one_net and static"
ONE = ("--onnxdet", "-p", "no:cacheprovider", "-m", MARKS)
QUICK = ("--benchmark-max-time=0.01", "--benchmark-min-rounds=5")


@pytest.fixture
def timed(toy: pytest.Pytester) -> pytest.Pytester:
    """The toy project with a detector in PyTorch and batches to measure on."""
    toy.makeconftest(CONFTEST)
    return toy


def loads(project: pytest.Pytester) -> list[str]:
    log = (project.path / "exports.log").read_text().splitlines()
    return [line for line in log if line.startswith("load")]


def saved(project: pytest.Pytester) -> tuple[str, list[dict[str, Any]]]:
    (path,) = Path(project.path).glob(".benchmarks/*/*.json")
    text = path.read_text()
    return text, json.loads(text)["benchmarks"]


def test_a_record_has_the_figures_threads_and_devices(timed: pytest.Pytester) -> None:
    result = timed.runpytest(*ONE, *QUICK, "--onnxdet-report=out")

    result.assert_outcomes(passed=2)
    results = cases(timed.path / "out")
    assert [case["id"] for case in results] == ["one_net-toy-static-b1", "one_net-toy-static-b2"]
    for case in results:
        metrics = case["metrics"]
        wanted = {"ms", "torch_ms", "speedup", "min", "median", "iqr", "rounds", "threads"}
        assert wanted <= set(metrics)
        assert metrics["threads"] == pytest_onnxdet.core.cpu.cores()
        assert (case["device"], metrics["torch_device"]) == ("toy-chip", "cpu")
        assert metrics["rounds"] >= 5
        # Nothing is bound here, so there are no copies to tell apart.
        assert "copy_ms" not in metrics
    # One load a graph, with the threads that the record names.
    assert loads(timed) == [f"load {metrics['threads']}"] * 2
    # A group for each model and batch, in which backends and shape modes stand side by side.
    result.stdout.fnmatch_lines_random(
        ["*benchmark 'one_net batch 1': 1 tests*", "*benchmark 'one_net batch 2': 1 tests*"]
    )
    result.stdout.fnmatch_lines_random(["*one_net-toy-static-b1*", "*one_net-toy-static-b2*"])


def test_under_xdist_it_is_skipped_and_says_so(timed: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = timed.runpytest_subprocess(*ONE, *QUICK, "-n1", "-rs", "--onnxdet-report=out")

    result.assert_outcomes(skipped=2)
    words = "latency is not measured under pytest-xdist, whose workers slow each other down"
    assert all(case["reason"].startswith(words) for case in cases(timed.path / "out"))
    assert "pytest --onnxdet -m latency without -n" in result.stdout.str()
    # Skipped before anything is made for nothing.
    assert not (timed.path / "exports.log").exists()


@pytest.mark.parametrize("option", ["--benchmark-disable", "--benchmark-skip"])
def test_pytest_benchmarks_own_switches_skip_it(timed: pytest.Pytester, option: str) -> None:
    result = timed.runpytest(*ONE, option, "-rs")

    result.assert_outcomes(skipped=2)
    assert not (timed.path / "exports.log").exists()
    if option == "--benchmark-disable":
        result.stdout.fnmatch_lines(["*latency is switched off by pytest-benchmark's options*"])


def test_saved_times_are_plain_json_and_can_be_compared(timed: pytest.Pytester) -> None:
    timed.runpytest(*ONE, *QUICK, "--benchmark-save=before").assert_outcomes(passed=2)

    text, rows = saved(timed)
    assert "UNSERIALIZABLE" not in text
    assert len({row["fullname"] for row in rows}) == 2
    first = min(rows, key=lambda row: row["name"])
    assert first["name"] == "one_net-toy-static-b1"
    assert first["param"] == "one_net-toy-static-b1"
    assert first["params"] == {"onnxdet_case": "one_net-toy-static-b1"}
    # pytest-benchmark timed the graph itself, a round of several batches; PyTorch is beside it.
    more = first["extra_info"]
    assert {"ms", "torch_ms", "speedup", "threads"} <= set(more)
    assert first["stats"]["rounds"] == more["rounds"]
    whole = first["stats"]["median"] * 1e3
    assert whole == pytest.approx(more["ms"] * more["batches_in_a_round"], rel=0.5)

    result = timed.runpytest(*ONE, *QUICK, "--benchmark-compare")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(
        ["one_net-toy-static-b1 (NOW)*", "one_net-toy-static-b1 (0001_before)*"]
    )


def test_more_rounds_than_usual_may_be_asked_for(
    timed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_onnxdet.measure.turns.PAUSE", 0.0)
    result = timed.runpytest(
        *ONE[:-1], f"{MARKS} and batch1",
        "--benchmark-max-time=0.01", "--benchmark-min-rounds=1100", "-v",
    )  # fmt: skip

    result.assert_outcomes(passed=1)


def test_without_pytest_benchmark_it_says_what_is_missing(timed: pytest.Pytester) -> None:
    result = timed.runpytest_subprocess(*ONE, "-p", "no:benchmark", "-rs")

    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*pip install pytest-benchmark*"])


def test_a_bound_run_that_does_nothing_fails(timed: pytest.Pytester) -> None:
    """It is infinitely fast, and leaves nothing that could be compared."""
    timed.makeconftest(
        CONFTEST
        + """
from pytest_onnxdet.backends.base import Bound


class Idle(Bound):
    def _run(self):
        return 0.001


ToySession._bind = lambda session, feeds: Idle(session, feeds)
"""
    )
    result = timed.runpytest(*ONE, *QUICK, "--onnxdet-report=out")
    result.assert_outcomes(failed=2)
    words = "stage: runtime\nmodel.onnx: nothing ran, nothing to fetch"
    assert all(case["reason"].startswith(words) for case in cases(timed.path / "out"))
