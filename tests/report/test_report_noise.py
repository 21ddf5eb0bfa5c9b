"""From which slow-down on two latency records show one: chance may not, and a real one must."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics

import pytest

from pytest_onnxdet.report.regression.compare import compare
from pytest_onnxdet.report.regression.noise import ratio_noise, smallest_slowdown, student
from pytest_onnxdet.report.regression.rules import Tolerances


def test_a_slow_down_within_the_noise_is_not_a_regression(record, timing):
    noisy = record(check="latency", metrics=timing(10, 20, iqr=2, rounds=20))
    slower = record(check="latency", metrics=timing(11.5, 20, iqr=2, rounds=20))
    result = compare([slower], [noisy])
    (limit,) = result.detectable.values()
    assert limit > 0.15
    assert result.ok
    assert f"{limit:.1%} in the noisiest (retinanet-onnxruntime" in " ".join(result.table().remarks)
    much = record(check="latency", metrics=timing(20, 20, iqr=2, rounds=20))
    assert compare([much], [noisy]).moved[0].allowed.endswith("(noise)")


def test_noise_that_was_not_measured_is_said(record, timing):
    once = record(check="latency", metrics=timing(10, 20, iqr=0, rounds=1))
    assert smallest_slowdown(once, once) is None
    result = compare([once], [once])
    assert "1 latency checks have no recorded noise" in " ".join(result.table().remarks)


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


@pytest.mark.parametrize(("rounds", "limit"), [(5, 1.0), (12, 0.2), (60, 0.07)])
def test_a_slow_down_of_twice_the_stated_size_is_found(record, rounds, limit):
    rng = random.Random(6)
    before = [record(f"m{n}", "latency", metrics=drawn(rng, rounds)) for n in range(48)]
    same = [dataclasses.replace(one, metrics=drawn(rng, rounds)) for one in before]
    stated = sorted(compare(same, before).detectable.values())
    middle = stated[len(stated) // 2]
    assert 0.05 <= middle < limit
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
    from pytest_onnxdet.measure.turns import GRAPH, RESULTS, TORCH, Measured, Timing

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
    assert student(share, freedom) == pytest.approx(value, abs=0.0006)
