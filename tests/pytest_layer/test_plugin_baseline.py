"""``--onnxdet-baseline``: the run fails where it is worse than the baseline, and says so early."""

from __future__ import annotations

import json

import pytest

ARGS = ("test_graphs.py", "--onnxdet", "-p", "no:cacheprovider", "--onnxdet-backend=toy")


def baseline(toy: pytest.Pytester) -> None:
    toy.runpytest(*ARGS, "--onnxdet-report=report").assert_outcomes(passed=16)


def test_an_equal_run_passes(toy: pytest.Pytester) -> None:
    baseline(toy)
    result = toy.runpytest(*ARGS, "--onnxdet-baseline=report/report.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*onnxdet baseline*", "Baseline: 16 checks compared, 0 figures*"])


def test_a_worse_run_fails_with_a_table_although_its_checks_pass(toy: pytest.Pytester) -> None:
    baseline(toy)
    path = toy.path / "report" / "report.json"
    report = json.loads(path.read_text())
    for case in report["cases"]:
        if case["check"] == "parity" and case["model"] == "one_net":
            case["metrics"]["max_box_px"] = -1.0
    path.write_text(json.dumps(report))
    # The run's own report takes the baseline's place.
    result = toy.runpytest(*ARGS, f"--onnxdet-baseline={path}", "--onnxdet-report=report")
    result.assert_outcomes(passed=16)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*4 figures regressed*", "*one_net-toy-*max_box_px*FAIL*"])


def test_a_run_that_shares_nothing_with_the_baseline_fails(toy: pytest.Pytester) -> None:
    baseline(toy)
    args = ("--onnxdet-batch=3", "--onnxdet-baseline=report/report.json")
    result = toy.runpytest(*ARGS, *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Baseline: nothing was compared*"])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_leave_the_comparison_to_the_controller(toy: pytest.Pytester, workers: int) -> None:
    pytest.importorskip("xdist")
    baseline(toy)
    args = (f"-n{workers}", "--onnxdet-baseline=report/report.json")
    result = toy.runpytest(*ARGS, *args)
    assert result.ret == pytest.ExitCode.OK
    assert sum("Baseline:" in line for line in result.outlines) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "*--onnxdet-baseline: *there is no such file*"), ("{", "*--onnxdet-baseline: *")],
)
def test_a_file_that_is_no_report_ends_the_run_at_once(
    toy: pytest.Pytester, text: str | None, message: str
) -> None:
    if text is not None:
        (toy.path / "old.json").write_text(text)
    result = toy.runpytest(*ARGS, "--onnxdet-baseline=old.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
