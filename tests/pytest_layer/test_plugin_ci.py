"""What CI reads of a run: JUnit, GitHub, GitLab, and two plugins that write reports beside ours."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from plugin_output import cases

TESTS = """
import pytest
from pytest_onnxdet.verify.checks import CheckFailed


@pytest.mark.parity
def test_parity(onnxdet_case, onnxdet_record):
    onnxdet_record(max_box_px=0.002, max_score=1e-6)
    if onnxdet_case.batch == 2:
        raise CheckFailed("a box moved", {"max_box_px": 4.5}, "export")


@pytest.mark.accuracy
def test_accuracy(onnxdet_case, onnxdet_record):
    if onnxdet_case.batch == 2:
        pytest.skip("no time")
    onnxdet_record(bbox_mAP=0.5, bbox_mAP_torch=0.5001, bbox_mAP_delta=-0.0001)


@pytest.mark.latency
def test_latency(onnxdet_case, onnxdet_record):
    onnxdet_record(ms=2.5, torch_ms=5.0, speedup=2.0)
"""
CHOSEN = ("--onnxdet", "-m", "toy and one_net and static", "test_graphs.py")


@pytest.fixture
def measured(toy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The toy project with figures and a failure; no CI's environment."""
    toy.makepyfile(test_graphs=TESTS)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return toy


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_junit_has_flat_properties(measured: pytest.Pytester, workers: tuple[str, ...]) -> None:
    measured.runpytest_subprocess(*CHOSEN, *workers, "--junitxml=junit.xml")

    tests = {
        test.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in test.iter("property")}
        for test in ET.parse(measured.path / "junit.xml").iter("testcase")
    }
    assert tests == {
        "test_parity[one_net-toy-static-b1]": {"onnxdet.box_px": "0.002", "onnxdet.score": "1e-06"},
        "test_parity[one_net-toy-static-b2]": {
            "onnxdet.box_px": "4.5",
            "onnxdet.score": "1e-06",
            "onnxdet.blame": "export",
        },
        "test_accuracy[one_net-toy-static-b1]": {"onnxdet.ap.delta": "-0.0001"},
        "test_accuracy[one_net-toy-static-b2]": {},
        "test_latency[one_net-toy-static-b1]": {"onnxdet.ms": "2.5", "onnxdet.speedup": "2"},
        "test_latency[one_net-toy-static-b2]": {"onnxdet.ms": "2.5", "onnxdet.speedup": "2"},
    }


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_other_reports_are_written_beside_ours(
    measured: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    result = measured.runpytest_subprocess(
        *CHOSEN, *workers, "--ctrf=ctrf.json", "--report-log=log.jsonl", "--onnxdet-report=out"
    )

    result.assert_outcomes(passed=4, failed=1, skipped=1)
    results = cases(measured.path / "out")
    assert len(results) == 6
    tests = json.loads((measured.path / "ctrf.json").read_text())["results"]["tests"]
    assert sorted(test["status"] for test in tests) == ["failed", *["passed"] * 4, "skipped"]
    (failed,) = (test for test in tests if test["status"] == "failed")
    assert "a box moved" in failed["message"] + failed["trace"]
    log = [json.loads(line) for line in (measured.path / "log.jsonl").read_text().splitlines()]
    (parity,) = (
        entry
        for entry in log
        if entry.get("nodeid", "").endswith("test_parity[one_net-toy-static-b2]")
        and entry.get("when") == "call"
    )
    # The device is known once every record is there.
    assert {**parity["onnxdet"], "device": "cpu"} in results
    assert ["onnxdet.blame", "export"] in parity["user_properties"]


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_github_has_a_summary_and_annotations(
    measured: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    path = measured.path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))

    result = measured.runpytest_subprocess(*CHOSEN, *workers, "--onnxdet-report=out")

    commands = [line for line in result.outlines if line.startswith("::")]
    assert commands == [
        "::error title=onnxdet one_net::1 check failed: parity 1%0A"
        "one_net-toy-static-b2 parity:%0Astage: export%0Aa box moved"
    ]
    assert path.read_text() == "before\n" + (measured.path / "out/report.md").read_text()


def test_a_summary_that_cannot_be_written_is_said(
    measured: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(measured.path / "no/such/folder"))

    result = measured.runpytest_subprocess(*CHOSEN)

    result.assert_outcomes(passed=4, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["GITHUB_STEP_SUMMARY: *no/such/folder: No such file*"])


def test_elsewhere_nothing_of_github_is_said(measured: pytest.Pytester) -> None:
    result = measured.runpytest_subprocess(*CHOSEN, "--onnxdet-report=out")

    assert not [line for line in result.outlines if line.startswith("::")]
    assert (
        'onnxdet_checks{outcome="failed"} 1' in Path(measured.path / "out/metrics.txt").read_text()
    )
