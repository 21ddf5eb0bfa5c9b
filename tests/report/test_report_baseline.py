"""Comparing with an earlier report: what counts as moved, as regressed, and as not compared."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics

import pytest

from pytest_onnxdet.report import ReportError, write_report
from pytest_onnxdet.report.baseline import compare, compare_with
from pytest_onnxdet.report.moves import Tolerances
from pytest_onnxdet.report.noise import ratio_noise, smallest_slowdown, student


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
    assert any("the smallest slow-down that counts is 5.0%" in line for line, _ in rest)


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


def drawn(rng, rounds, slower=1.0, recorded=True, drift=0.0):
    """A latency record as a run makes it: each round's times share a drift and have their noise."""
    drifts = [rng.lognormvariate(0, drift) for _ in range(rounds)]
    graph = [d * slower * rng.lognormvariate(2, 0.05) for d in drifts]
    results = [d * slower * rng.lognormvariate(1.4, 0.15) for d in drifts]
    eager = [d * rng.lognormvariate(3, 0.05) for d in drifts]
    ratios = [(a + b) / c for a, b, c in zip(graph, results, eager, strict=True)]
    metrics = {
        "ms": statistics.median(graph), "median": statistics.median(graph), "iqr": iqr(graph),
        "torch_ms": statistics.median(eager), "torch_iqr": iqr(eager), "rounds": rounds,
        "results_ms": statistics.median(results), "speedup": 1 / statistics.median(ratios),
    }  # fmt: skip
    return metrics | {"ratio_iqr": iqr(ratios)} if recorded else metrics


def iqr(values):
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


@pytest.mark.parametrize(("recorded", "drift"), [(True, 0.2), (True, 0.0), (False, 0.0)])
@pytest.mark.parametrize("rounds", [4, 5, 12, 30])
def test_unchanged_runs_seldom_fail(record, rounds, recorded, drift):
    """Of comparisons of 48 cases that did not change, fewer than one in 20 raises an alarm."""
    rng = random.Random(5)
    cases = [record(f"m{number}", "latency") for number in range(48)]
    alarms, times = 0, 120
    for _ in range(times):
        before, now = (
            [
                dataclasses.replace(case, metrics=drawn(rng, rounds, 1, recorded, drift))
                for case in cases
            ]
            for _ in range(2)
        )
        alarms += not compare(now, before, Tolerances(slowdown=0)).ok
    assert alarms < times / 20


@pytest.mark.parametrize(("rounds", "most"), [(5, 1.0), (12, 0.2), (60, 0.07)])
def test_a_slow_down_of_twice_the_stated_size_is_found(record, rounds, most):
    rng = random.Random(6)
    before = [record(f"m{n}", "latency", metrics=drawn(rng, rounds)) for n in range(48)]
    same = [dataclasses.replace(one, metrics=drawn(rng, rounds)) for one in before]
    stated = sorted(compare(same, before).detectable.values())
    middle = stated[len(stated) // 2]
    assert 0.05 <= middle < most
    now = [
        dataclasses.replace(one, metrics=drawn(rng, rounds, slower=(1 + middle) ** 2))
        for one in before
    ]
    assert len(compare(now, before).regressions) > 40


def test_the_ratios_own_noise_counts_where_it_was_recorded(record, timing):
    """A drift that both sides share makes the times scatter, and the ratios not."""
    shared = timing(10, 20, iqr=2, rounds=50) | {"torch_iqr": 4}
    without, with_ratio = (
        record(check="latency", metrics=metrics)
        for metrics in (shared, shared | {"ratio_iqr": 0.01})
    )
    assert ratio_noise(with_ratio) == pytest.approx(0.02)
    assert ratio_noise(without) == pytest.approx(math.hypot(0.2, 0.2))
    assert smallest_slowdown(with_ratio, with_ratio) < 0.1 * smallest_slowdown(without, without)


def test_noise_is_read_as_latency_records_it(record):
    from pytest_onnxdet.verify.latency import GRAPH, RESULTS, TORCH, Measured, Timing

    ratios = [0.48, 0.49, 0.5, 0.52, 0.53]
    eager = [10.0, 30.0, 20.0, 50.0, 40.0]  # a drift that the graph shares
    graph = [ratio * ms - 1 for ratio, ms in zip(ratios, eager, strict=True)]
    timings = {TORCH: eager, GRAPH: graph, RESULTS: [1.0] * 5}
    measured = Measured({name: Timing(tuple(ms)) for name, ms in timings.items()}, warm_up=3)
    assert ratio_noise(record(check="latency", metrics=measured.figures())) == pytest.approx(0.06)


def test_more_comparisons_and_fewer_rounds_ask_for_more(record, timing):
    def limit(rounds, comparisons):
        one = record(check="latency", metrics=timing(10, 20, iqr=0.5, rounds=rounds))
        return smallest_slowdown(one, one, comparisons)

    assert limit(50, 1) < limit(50, 48) < 2 * limit(50, 1)
    assert limit(5, 48) > 5 * limit(50, 48)
    assert limit(3, 1) is None


@pytest.mark.parametrize(
    ("share", "freedom", "value"),  # from a table of Student's t
    [(0.05, 4, 2.132), (0.001, 4, 7.173), (0.0005, 10, 4.587), (0.001, 60, 3.232)],
)
def test_students_t(share, freedom, value):
    assert 0.999 * value < student(share, freedom) < 1.04 * value


def test_absent_cases_are_listed_on_both_sides(record):
    found = compare([record(), record("new")], [record(), record("gone", profile="structure")])
    assert found.ok
    assert found.gone == ("gone-onnxruntime-dynamic-b1 (structure) parity",)
    assert found.new == ("new-onnxruntime-dynamic-b1 parity",)
    remarks = " ".join(found.table().remarks)
    assert "Not in this run (1): gone" in remarks and "Not in the baseline (1): new" in remarks


@pytest.mark.parametrize("check", ["parity", "accuracy", "latency"])
def test_a_case_that_ran_on_another_device_fails(record, check):
    other = record("other")
    now, before = record(check=check), record(check=check, device="cuda")
    found = compare([now, other], [before, other])
    assert figures(found) == [("device", "cuda", "cpu", True)]
    assert found.compared == 1
    assert not found.ok


@pytest.mark.parametrize("check", ["export", "build", "our_own"])
def test_what_opens_no_session_has_no_device(record, check):
    found = compare([record(check=check)], [record(check=check, device="cuda")])
    assert found.ok and found.compared == 1


def test_of_two_devices_the_same_one_is_compared(record):
    found = compare([record()], [record(device="cuda"), record()])
    assert found.ok and found.compared == 1 and len(found.gone) == 1


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
    found = compare([*now, record()], [*before, record()])
    assert [(m.check, m.before, m.now) for m in found.regressions] == [
        ("parity", "passed", "skipped"),
        ("latency", "passed", "skipped"),
    ]
    assert not found.gone and not found.new
    assert compare([*before, record()], [*now, record()]).ok, "it may come back"


def test_latency_that_was_only_not_measured_is_said_and_passes(record, timing):
    before = [record(), record(check="latency", metrics=timing(10, 20))]
    skipped = record(check="latency", outcome="skipped", reason="under pytest-xdist")
    found = compare([before[0], skipped], before)
    assert found.ok
    assert found.verdict == (
        "Baseline: 1 checks compared, 0 figures regressed, 0 moved otherwise, 1 not compared."
    )
    (row,) = found.table().rows
    assert [cell.text for cell in row[1:]] == [
        *("latency", "outcome", "passed -> skipped", "", "not compared")
    ]
    assert not compare([skipped, record("other")], [before[1], record("other")]).ok, "asked for"


def test_ties_may_not_grow_and_masks_not_shrink(record):
    old = record(metrics={"tied_images": 1, "tied_detections": 2, "min_mask_iou": 1.0})
    assert compare([old], [old]).ok
    assert compare([replaced(old, tied_images=0, min_mask_iou=0.9995)], [old]).ok
    worse = replaced(old, tied_images=2, tied_detections=5, min_mask_iou=0.95)
    assert figures(compare([worse], [old])) == [
        ("tied_images", "1", "2", True),
        ("tied_detections", "2", "5", True),
        ("min_mask_iou", "1.0000", "0.9500", True),
    ]
    assert compare([old], [worse]).ok
    assert not compare([replaced(old, min_mask_iou=None)], [old]).ok
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
    found = compare_with(path, [record()], now)
    assert found.ok
    assert found.environment == ("Changed since: torch 2.12 -> 2.13.",)
    path.write_text("{")
    with pytest.raises(ReportError, match="cut short"):
        compare_with(path, [record()], now)
