"""Comparing with an earlier report: what counts as moved, as regressed, and as not compared."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_onnxdet.report import ReportError, write_report
from pytest_onnxdet.report.regression.compare import compare, compare_with
from pytest_onnxdet.report.regression.rules import Tolerances


def replaced(record, **metrics):
    return dataclasses.replace(record, metrics={**record.metrics, **metrics})


def figures(comparison):
    return [(m.figure, m.before, m.now, m.regressed) for m in comparison.moved]


def test_the_same_run_is_ok_and_counts_what_was_compared(record, ap, timing):
    records = [
        record(check="accuracy", metrics=ap(0.6)),
        record(check="latency", metrics=timing(10, 20)),
    ]
    result = compare(records, records)
    assert result.ok and not result.moved and result.compared == 2
    (first, markup), *rest = result.lines(80)
    assert first == "Baseline: 2 checks compared, 0 figures regressed, 0 moved otherwise."
    assert markup == {"bold": True, "green": True}
    assert any("the smallest slow-down that counts is 5.0%" in line for line, _ in rest)


@pytest.mark.parametrize("before", ["empty", "skipped", "another"])
def test_comparing_nothing_is_not_ok(record, before):
    now = [record(outcome="skipped", reason="r") if before == "skipped" else record()]
    old = {"skipped": now, "another": [record("other")]}.get(before, [])
    result = compare(now, old)
    assert result.compared == 0
    assert not result.ok
    assert "nothing was compared" in result.lines()[0][0]


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
    result = compare([replaced(old, bbox_mAP=0.6 + change)], [old])
    assert bool(result.moved) is moved
    assert result.ok is ok


def test_pytorchs_own_ap_is_compared_too(record, ap):
    old = record(check="accuracy", metrics=ap(0.6))
    result = compare([replaced(old, bbox_mAP_torch=0.55, images=3)], [old])
    assert figures(result) == [("bbox_mAP_torch x 100", "60.00", "55.00", True)]


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
    result = compare([replaced(old, bbox_mAP=None)], [old])
    assert figures(result) == [("bbox_mAP", "60.00", "no figure", True)]
    assert not result.ok


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
    result = compare([record(outcome=now), other], [record(outcome=before), other])
    assert figures(result) == [("outcome", before, now, not ok)]
    assert result.ok is ok


def test_latency_is_compared_by_the_ratio_to_pytorch(record, timing):
    old = record(check="latency", metrics=timing(10, 20))
    slower_machine = record(check="latency", metrics=timing(30, 60))
    assert compare([slower_machine], [old]).ok
    slower = record(check="latency", metrics=timing(11, 20))
    result = compare([slower], [old])
    assert figures(result) == [("speed-up (10.0% slower)", "x2.000", "x1.818", True)]
    assert result.moved[0].allowed == "+5.0% (limit)"
    assert not result.ok
    assert compare([old], [slower]).ok


def test_absent_cases_are_listed_on_both_sides(record):
    result = compare([record(), record("new")], [record(), record("gone", profile="structure")])
    assert result.ok
    assert result.gone == ("gone-onnxruntime-dynamic-b1 (structure) parity",)
    assert result.new == ("new-onnxruntime-dynamic-b1 parity",)
    remarks = " ".join(result.table().remarks)
    assert "Not in this run (1): gone" in remarks and "Not in the baseline (1): new" in remarks


@pytest.mark.parametrize("check", ["parity", "accuracy", "latency"])
def test_a_case_that_ran_on_another_device_fails(record, check):
    other = record("other")
    now, before = record(check=check), record(check=check, device="cuda")
    result = compare([now, other], [before, other])
    assert figures(result) == [("device", "cuda", "cpu", True)]
    assert result.compared == 1
    assert not result.ok


@pytest.mark.parametrize("check", ["export", "build", "our_own"])
def test_what_opens_no_session_has_no_device(record, check):
    result = compare([record(check=check)], [record(check=check, device="cuda")])
    assert result.ok and result.compared == 1


def test_of_two_devices_the_same_one_is_compared(record):
    result = compare([record()], [record(device="cuda"), record()])
    assert result.ok and result.compared == 1 and len(result.gone) == 1


def test_a_gpu_baseline_does_not_pass_where_the_gpu_is_gone(record, timing):
    """What is skipped does not know the device that it would have run on."""

    def run(device, outcome, check, metrics=None):
        return record(
            check=check, backend="tensorrt", device=device, outcome=outcome, metrics=metrics
        )

    before = [run("cuda", "passed", check) for check in ("export", "build", "parity")]
    before.append(run("cuda", "passed", "latency", timing(10, 20)))
    now = [run("cpu", "passed", check) for check in ("export", "build")]
    now += [run("cpu", "skipped", check) for check in ("parity", "latency")]
    result = compare([*now, record()], [*before, record()])
    assert [(m.check, m.before, m.now) for m in result.regressions] == [
        ("parity", "passed", "skipped"),
        ("latency", "passed", "skipped"),
    ]
    assert not result.gone and not result.new
    assert compare([*before, record()], [*now, record()]).ok, "it may come back"


def test_latency_that_was_only_not_measured_is_said_and_passes(record, timing):
    before = [record(), record(check="latency", metrics=timing(10, 20))]
    skipped = record(check="latency", outcome="skipped", reason="under pytest-xdist")
    result = compare([before[0], skipped], before)
    assert result.ok
    assert result.verdict == (
        "Baseline: 1 checks compared, 0 figures regressed, 0 moved otherwise, 1 not compared."
    )
    (row,) = result.table().rows
    assert [cell.text for cell in row[1:]] == [
        *("latency", "outcome", "passed -> skipped", "", "not compared")
    ]
    assert not compare([skipped, record("other")], [before[1], record("other")]).ok, "asked for"


@pytest.mark.parametrize(
    ("images", "detections", "limit"),
    [
        (8, 24, (2, 6)),  # two images with what one holds on average
        (64, 512, (3, 24)),  # 5 % of the images
        (8, 8, (2, 4)),  # where there is one in each, another one in its place counts twice
        (None, None, (2, 4)),
    ],
)
def test_ties_may_grow_by_what_another_machine_explains(record, images, detections, limit):
    known = {"images": images, "detections": detections}
    old = record(metrics={**known, "tied_images": 1, "tied_detections": 2})
    by_images, by_detections = limit
    grown = replaced(old, tied_images=1 + by_images, tied_detections=2 + by_detections)
    assert compare([grown], [old]).ok
    worse = replaced(old, tied_images=2 + by_images, tied_detections=3 + by_detections)
    result = compare([worse], [old])
    assert figures(result) == [
        ("tied_images", "1", f"{2 + by_images}", True),
        ("tied_detections", "2", f"{3 + by_detections}", True),
    ]
    assert [m.allowed for m in result.moved] == [f"+{by_images}", f"+{by_detections}"]
    assert compare([old], [worse]).ok
    assert not compare([grown], [old], Tolerances(tied=0, min_tied=0)).ok


def test_masks_may_not_shrink(record):
    old = record(metrics={"tied_images": 1, "min_mask_iou": 1.0})
    assert compare([old], [old]).ok
    assert compare([replaced(old, min_mask_iou=0.9995)], [old]).ok
    worse = replaced(old, min_mask_iou=0.95)
    assert figures(compare([worse], [old])) == [("min_mask_iou", "1.0000", "0.9500", True)]
    assert compare([old], [worse]).ok
    assert not compare([replaced(old, min_mask_iou=None)], [old]).ok
    assert not compare([replaced(old, tied_images=None)], [old]).ok
    without = record(metrics={"tied_images": None, "min_mask_iou": None})
    assert compare([old], [without]).ok, "an older report has none"


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
    result = compare_with(path, [record()], now)
    assert result.ok
    assert result.environment == ("Changed since: torch 2.12 -> 2.13.",)
    path.write_text("{")
    with pytest.raises(ReportError, match="cut short"):
        compare_with(path, [record()], now)
