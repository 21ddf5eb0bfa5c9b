"""Comparing with an earlier report: what counts as moved, as regressed, and as not compared."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics

import pytest

from pytest_onnxdet.report import ReportError, write_report
from pytest_onnxdet.report.baseline import compare, compare_with
from pytest_onnxdet.report.moves import Tolerances, smallest_slowdown


def replaced(record, **metrics):
    return dataclasses.replace(record, metrics={**record.metrics, **metrics})


def figures(comparison):
    return [(m.figure, m.before, m.now, m.regressed) for m in comparison.moved]


def test_the_same_run_is_ok_and_counts_what_was_compared(record, ap, timing):
    records = [
        record(check="accuracy", metrics=ap(0.6)),
        record(check="latency", metrics=timing(10, 20)),
    ]
    found = compare(records, records)
    assert found.ok and not found.moved and found.compared == 2
    (first, markup), *rest = found.lines(80)
    assert first == "Baseline: 2 checks compared, 0 figures regressed, 0 moved otherwise."
    assert markup == {"bold": True, "green": True}
    assert any("smallest slow-down that could be seen" in line for line, _ in rest)


@pytest.mark.parametrize("before", ["empty", "skipped", "another"])
def test_comparing_nothing_is_not_ok(record, before):
    now = [record(outcome="skipped", reason="r") if before == "skipped" else record()]
    old = {"skipped": now, "another": [record("other")]}.get(before, [])
    found = compare(now, old)
    assert found.compared == 0
    assert not found.ok
    assert "nothing was compared" in found.lines()[0][0]


@pytest.mark.parametrize(
    ("change", "moved", "ok"),
    [
        (-0.0004, False, True),
        (-0.0005, False, True),
        (-0.0006, True, False),
        (0.01, True, True),
    ],
)
def test_ap_moves_by_tolerance_and_only_a_drop_fails(record, ap, change, moved, ok):
    old = record(check="accuracy", metrics=ap(0.6))
    found = compare([replaced(old, bbox_mAP=0.6 + change)], [old])
    assert bool(found.moved) is moved
    assert found.ok is ok


def test_pytorchs_own_ap_is_compared_too(record, ap):
    old = record(check="accuracy", metrics=ap(0.6))
    found = compare([replaced(old, bbox_mAP_torch=0.55, images=3)], [old])
    assert figures(found) == [("bbox_mAP_torch x 100", "60.00", "55.00", True)]


def test_parity_may_not_grow(record):
    metrics = {"images": 64, "detections": 500, "missed": 0, "max_box_px": 0.001, "max_score": 0.0}
    old = record(metrics=metrics)
    assert compare([replaced(old, max_box_px=0.01, max_score=9e-5)], [old]).ok
    assert figures(compare([replaced(old, missed=1, max_box_px=0.02)], [old])) == [
        ("missed", "0", "1", True),
        ("max_box_px", "0.001", "0.02", True),
    ]
    fewer = compare([replaced(old, images=8, detections=60)], [old])
    assert figures(fewer) == [("images", "64", "8", True), ("detections", "500", "60", False)]
    assert compare([old], [replaced(old, missed=3)]).ok


def test_a_figure_that_is_gone_is_a_regression(record, ap):
    old = record(check="accuracy", metrics=ap(0.6))
    found = compare([replaced(old, bbox_mAP=None)], [old])
    assert figures(found) == [("bbox_mAP", "60.00", "no figure", True)]
    assert not found.ok


@pytest.mark.parametrize(
    ("before", "now", "ok"),
    [
        ("passed", "failed", False),
        ("passed", "error", False),
        ("passed", "xfailed", False),
        ("passed", "skipped", False),
        ("skipped", "failed", False),
        ("xfailed", "passed", True),
        ("failed", "passed", True),
    ],
)
def test_outcomes(record, before, now, ok):
    other = record("other")
    found = compare([record(outcome=now), other], [record(outcome=before), other])
    assert figures(found) == [("outcome", before, now, not ok)]
    assert found.ok is ok


def test_latency_is_compared_by_the_ratio_to_pytorch(record, timing):
    old = record(check="latency", metrics=timing(10, 20))
    slower_machine = record(check="latency", metrics=timing(30, 60))
    assert compare([slower_machine], [old]).ok
    slower = record(check="latency", metrics=timing(11, 20))
    found = compare([slower], [old])
    assert figures(found) == [("speed-up (10.0% slower)", "x2.000", "x1.818", True)]
    assert found.moved[0].allowed == "+5.0% (limit)"
    assert not found.ok
    assert compare([old], [slower]).ok


def test_a_slow_down_within_the_noise_is_not_a_regression(record, timing):
    noisy = record(check="latency", metrics=timing(10, 20, iqr=2, rounds=20))
    slower = record(check="latency", metrics=timing(11.5, 20, iqr=2, rounds=20))
    found = compare([slower], [noisy])
    (limit,) = found.detectable.values()
    assert limit > 0.15
    assert found.ok
    assert f"{limit:.1%} in the noisiest (retinanet-onnxruntime" in " ".join(found.table().remarks)
    much = record(check="latency", metrics=timing(20, 20, iqr=2, rounds=20))
    assert compare([much], [noisy]).moved[0].allowed.endswith("(noise)")


def test_noise_that_was_not_measured_is_said(record, timing):
    once = record(check="latency", metrics=timing(10, 20, iqr=0, rounds=1))
    assert smallest_slowdown(once, once) is None
    found = compare([once], [once])
    assert "1 latency checks have no recorded noise" in " ".join(found.table().remarks)


def test_the_stated_limit_is_what_such_noise_rarely_exceeds(record):
    """Draws pairs of runs without any change: beyond the limit about one in 700 by its design."""
    rng = random.Random(5)

    def run():
        ours = [rng.gauss(10, 0.5) for _ in range(50)]
        eager = [rng.gauss(20, 1.0) for _ in range(50)]
        low, median, high = statistics.quantiles(ours, n=4)
        low_t, median_t, high_t = statistics.quantiles(eager, n=4)
        metrics = {
            "ms": median, "median": median, "iqr": high - low, "rounds": 50,
            "torch_ms": median_t, "torch_iqr": high_t - low_t, "speedup": median_t / median,
        }  # fmt: skip
        return record(check="latency", metrics=metrics)

    pairs = [(run(), run()) for _ in range(400)]
    limits = [smallest_slowdown(*pair) for pair in pairs]
    slower = [b.metrics["speedup"] / a.metrics["speedup"] - 1 for a, b in pairs]
    assert sum(s > limit for s, limit in zip(slower, limits, strict=True)) <= 4
    spread = statistics.stdev(math.log1p(s) for s in slower)
    assert 2 < statistics.median(limits) / spread < 4.5


def test_absent_cases_are_listed_on_both_sides(record):
    found = compare([record(), record("new")], [record(), record("gone", profile="structure")])
    assert found.ok
    assert found.gone == ("gone-onnxruntime-dynamic-b1 (structure) parity",)
    assert found.new == ("new-onnxruntime-dynamic-b1 parity",)
    remarks = " ".join(found.table().remarks)
    assert "Not in this run (1): gone" in remarks and "Not in the baseline (1): new" in remarks


def test_a_case_on_another_device_is_another_case(record):
    found = compare([record(device="cuda")], [record(device="cpu")])
    assert found.compared == 0 and found.gone and found.new


def test_several_records_of_one_check_are_compared_as_one(record):
    old = [record(metrics={"missed": 0}), record(metrics={"max_box_px": 0.0})]
    now = [old[0], dataclasses.replace(old[1], outcome="failed", reason="x")]
    assert figures(compare(now, old)) == [("outcome", "passed", "failed", True)]
    assert compare(old, old).compared == 1


def test_the_table_puts_regressions_first_and_fits(record, ap):
    old = [record(m, "accuracy", metrics=ap(0.6)) for m in ("a", "m" * 70)]
    now = [replaced(old[0], bbox_mAP=0.7), replaced(old[1], bbox_mAP=0.5)]
    lines = compare(now, old).lines(80)
    assert all(len(line) <= 80 for line, _ in lines)
    rows = compare(now, old).table().rows
    assert [row[-1].text for row in rows] == ["FAIL", "moved"]
    assert "60.00 -> 50.00" in rows[0][3].text


def test_tolerances_can_be_set(record, timing):
    old = record(check="latency", metrics=timing(10, 20, iqr=0.01))
    slower = record(check="latency", metrics=timing(11, 20, iqr=0.01))
    assert compare([slower], [old], Tolerances(slowdown=0.2)).ok


def test_a_baseline_file_and_what_changed_since(tmp_path, record):
    before = {"versions": {"torch": "2.12", "numpy": "1"}, "cpu": {"model": "A", "count": 2}}
    now = {"versions": {"torch": "2.13", "numpy": "1"}, "cpu": {"model": "A", "count": 2}}
    path = write_report([record()], before, tmp_path)[0]
    found = compare_with(path, [record()], now)
    assert found.ok
    assert found.environment == ("Changed since: torch 2.12 -> 2.13.",)
    path.write_text("{")
    with pytest.raises(ReportError, match="cut short"):
        compare_with(path, [record()], now)
