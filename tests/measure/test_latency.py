"""Measuring in turns, with a clock that only the subjects move."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_onnxdet.backends.base import Arrays, BackendError, Bound, Session
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.measure.latency import bind_all, detection_subjects, require_same
from pytest_onnxdet.measure.turns import (
    GRAPH,
    MAX_WARM_UP,
    RESULTS,
    RUN,
    TORCH,
    Measured,
    Timing,
    measure,
)
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.threads import torch_threads


class Clock:
    """Time passes when a subject runs, and not otherwise."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def subject(self, name: str, seconds: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += next(seconds)

        return run


def measured(subjects: Any, **options: Any) -> Measured:
    """Without waiting between turns."""
    return measure(subjects, **{"sleep": lambda seconds: None, **options})


def test_drift_cancels_in_the_ratio() -> None:
    clock = Clock()

    def drifting(seconds: float) -> Iterator[float]:
        # The machine gets slower by a tenth with every call of either.
        while True:
            yield seconds * 1.1 ** len(clock.calls)

    result = measured(
        {"a": clock.subject("a", drifting(1.0)), "b": clock.subject("b", drifting(2.0))},
        seconds=0,
        min_rounds=9,
        clock=clock,
    )
    # A pair is measured within one call's drift, in both orders, however far the times run away.
    assert result.timings["a"].times[-1] > 4 * result.timings["a"].times[0]
    assert result.ratio(["a"], "b") == pytest.approx(0.5, rel=0.11)


def test_turns_alternate_and_times_are_milliseconds_for_a_unit() -> None:
    clock = Clock()
    subjects = {
        "a": clock.subject("a", repeat(0.4)),
        "b": clock.subject("b", repeat(0.8)),
    }
    result = measured(subjects, seconds=0, min_rounds=4, calls=2, clock=clock)
    assert "".join(clock.calls[-8:]) == "abbaabba"
    assert result.timings["a"].times == pytest.approx((200.0,) * 4)
    assert result.timings["b"].median == pytest.approx(400.0)
    assert result.ratio(["a", "b"], "b") == pytest.approx(1.5)


def test_a_short_subject_leads_into_its_turn() -> None:
    """Its first run after another's turn, with cold caches, does not count."""
    clock = Clock()

    def short() -> None:
        cold = not clock.calls or clock.calls[-1] != "short"
        clock.calls.append("short")
        clock.now += 0.003 if cold else 0.002

    subjects = {"short": short, "long": clock.subject("long", repeat(0.5))}
    result = measured(subjects, seconds=0, min_rounds=4, clock=clock)
    assert result.timings["short"].times == pytest.approx((2.0,) * 4)
    assert clock.calls[-6:] == ["short", "short", "long", "long", "short", "short"]


def test_between_turns_nothing_runs_for_a_moment() -> None:
    """In which threads that spin go to sleep; it is no part of the time that is to be spent."""
    clock = Clock()
    subjects = {name: clock.subject(name, repeat(0.5)) for name in "ab"}

    def sleep(seconds: float) -> None:
        clock.calls.append(f"{seconds}")
        clock.now += 0.5

    result = measured(subjects, seconds=3.0, min_rounds=3, clock=clock, sleep=sleep)
    assert clock.calls[-12:] == [
        *("0.05", "a", "0.05", "b"),
        *("0.05", "b", "0.05", "a"),
        *("0.05", "a", "0.05", "b"),
    ]
    assert result.timings["a"].times == pytest.approx((500.0,) * 3)


def test_pauses_do_not_make_it_endless() -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.now += 10.0

    result = measured(
        {"a": clock.subject("a", repeat(0.5))}, seconds=10.0, min_rounds=1, clock=clock, sleep=sleep
    )
    assert result.timings["a"].rounds == 3  # of 20 that the subject alone would take


def test_warm_up_ends_when_times_no_longer_fall() -> None:
    clock = Clock()
    falling = chain([9.0, 7.0, 5.0, 3.0, 1.0], repeat(1.0))
    result = measured({"a": clock.subject("a", falling)}, seconds=0, min_rounds=5, clock=clock)
    assert result.timings["a"].times == (1000.0,) * 5
    assert 5 < result.warm_up < MAX_WARM_UP


def test_warm_up_gives_up_on_what_never_settles() -> None:
    clock = Clock()
    falling = (0.5**n for n in range(1000))
    result = measured(
        {"a": clock.subject("a", falling)}, seconds=0, min_rounds=2, max_rounds=2, clock=clock
    )
    assert result.warm_up == MAX_WARM_UP


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (8.0, 8), (400.0, 20)])
def test_rounds_go_on_for_the_time_within_their_bounds(seconds: float, rounds: int) -> None:
    clock = Clock()
    subjects = {name: clock.subject(name, repeat(0.5)) for name in "ab"}
    result = measured(subjects, seconds=seconds, min_rounds=3, max_rounds=20, clock=clock)
    assert {timing.rounds for timing in result.timings.values()} == {rounds}


def test_a_device_is_waited_for_before_and_after() -> None:
    clock = Clock()
    pending = [0.0]

    def launch() -> None:
        pending[0] += 3.0

    def synchronize() -> None:
        clock.now += pending[0]
        pending[0] = 0.0

    result = measured({"a": launch}, seconds=0, min_rounds=5, synchronize=synchronize, clock=clock)
    assert result.timings["a"].times == (3000.0,) * 5


def test_one_disturbed_round_moves_neither_median_nor_ratio() -> None:
    times = [10.0, 10.1, 9.9, 10.0, 90.0]
    result = Measured({"a": Timing(tuple(times)), "b": Timing((20.0,) * 5)}, warm_up=4)
    assert result.timings["a"].median == 10.0
    assert result.timings["a"].iqr == pytest.approx(0.1)
    assert result.timings["a"].min == 9.9
    assert result.ratio(["a"], "b") == 0.5


def test_figures_count_results_on_both_sides() -> None:
    timings = {
        TORCH: Timing((40.0, 42.0, 44.0)),
        GRAPH: Timing((18.0, 19.0, 20.0)),
        RESULTS: Timing((2.0, 2.0, 2.0)),
    }
    figures = Measured(timings, warm_up=4).figures()
    assert figures["ms"] == figures["median"] == 19.0
    assert figures["torch_ms"] == 42.0
    assert figures["results_ms"] == 2.0
    assert figures["speedup"] == pytest.approx(2.0)
    assert figures["rounds"] == 3 and figures["warm_up"] == 4
    assert figures["torch_iqr"] == pytest.approx(2.0)
    assert figures["ratio_iqr"] == 0  # both scatter, and always alike


def test_copies_are_apart_and_count_in_the_speed_up() -> None:
    timings = {
        TORCH: Timing((40.0, 42.0, 44.0)),
        GRAPH: Timing((5.0, 6.0, 5.0)),
        RUN: Timing((8.0, 19.0, 9.0)),
        RESULTS: Timing((2.0, 2.0, 2.0)),
    }
    figures = Measured(timings, warm_up=4).figures()
    assert figures["ms"] == 5.0
    assert figures["copy_ms"] == 4.0
    assert figures["ratio_iqr"] == pytest.approx(0.125)  # of 10 / 40, 21 / 42, 11 / 44
    assert figures["speedup"] == pytest.approx(4.0)


def test_what_a_device_tells_is_taken_in_place_of_the_clock() -> None:
    clock = Clock()

    def launch() -> float:
        clock.now += 5.0
        return 2.5

    result = measured({"a": launch}, seconds=0, min_rounds=5, calls=5, clock=clock)
    assert result.timings["a"].times == (0.5,) * 5


class Toy(Session):
    """Counts its runs; bound, it tells the time itself or does not."""

    def __init__(self, device_s: float | None, separate: bool) -> None:
        info = {"inputs": ["input", "image_shape"]}
        super().__init__(Artifact(Path("toy.onnx"), "key", False, info))
        self.device_s, self.separate, self.runs = device_s, separate, 0

    def _run(self, feeds: Arrays) -> Arrays:
        self.runs += 1
        return {"dets": np.zeros((1, 1, 5), np.float32), "labels": np.zeros((1, 1), np.int64)}

    def _bind(self, feeds: Arrays) -> Bound:
        session = self

        class ToyBound(Bound):
            excludes_copies = session.separate

            def _run(self) -> float | None:
                return session.device_s

        return ToyBound(self, feeds)


class Net(nn.Linear):
    """A detector of which nothing but the call that mmdet's test tool makes is asked."""

    def forward(self, **options: Any) -> list[Any]:  # type: ignore[override]
        assert not torch.is_grad_enabled()
        assert options["return_loss"] is False and options["rescale"] is True
        options["img_metas"][0][0]["written"] = True
        self.seen = options
        return [object()]  # Detections cannot be made of it


def subjects_of(session: Session) -> tuple[dict[str, Any], Net, Batch]:
    batch = Batch(
        np.ones((1, 3, 8, 8), np.float32),
        np.int64([[8, 8]]),
        [{"scale_factor": np.ones(4, np.float32)}],
    )
    net = Net(1, 1)
    detector = Reference(net).bare_call([batch, batch])
    return dict(detection_subjects(session, detector, [batch, batch])), net, batch


def test_pytorch_is_the_bare_call_of_the_detector() -> None:
    subjects, net, batch = subjects_of(Toy(None, separate=False))
    assert list(subjects) == [TORCH, GRAPH, RESULTS]
    subjects[TORCH]()
    assert net.seen["img"][0].shape == batch.images.shape
    assert "written" not in batch.metas[0]
    assert Reference(net).device == "cpu"


@pytest.mark.parametrize(("device_s", "total"), [(1.5, 3.0), (None, None)])
def test_the_graph_is_run_bound_and_whole_runs_are_a_subject_of_their_own(
    device_s: float | None, total: float | None
) -> None:
    session = Toy(device_s, separate=True)
    subjects, _, _ = subjects_of(session)
    assert list(subjects) == [TORCH, GRAPH, RUN, RESULTS]
    before = session.runs
    assert subjects[GRAPH]() == total
    assert session.runs == before
    subjects[RUN]()
    assert session.runs == before + 2
    subjects[RESULTS]()


def test_somebody_else_repeats_the_timed_subject() -> None:
    """As pytest-benchmark does: the others' turns are its set-up, in the order of the rounds."""
    clock = Clock()
    subjects = {name: clock.subject(name, repeat(0.5)) for name in "abc"}
    asked: list[int] = []

    def repeats(call: Callable[[], object], setup: Callable[[], None], count: int) -> None:
        asked.append(count)
        clock.calls.clear()
        for _ in range(count + 1):  # once more than asked for, as a profiler does
            setup()
            clock.calls.append("(")
            call()
            clock.calls.append(")")

    result = measured(subjects, seconds=0, min_rounds=3, clock=clock, timed="b", repeat=repeats)
    assert asked == [3]
    assert "".join(clock.calls) == "a(b)cc(b)aa(b)cc(b)a"
    assert {timing.times for timing in result.timings.values()} == {(500.0,) * 3}


def bound_session(bound: type[Bound]) -> tuple[Session, Batch]:
    """A session of fixed outputs that binds this way."""
    session = Toy(None, separate=False)
    outputs = {
        "dets": np.float32([[[1, 2, 30, 40, 0.9]]]),
        "labels": np.zeros((1, 1), np.int64),
    }
    session._run = lambda feeds: outputs  # type: ignore[method-assign]
    session._bind = lambda feeds: bound(session, feeds)  # type: ignore[method-assign]
    metas = [{"scale_factor": np.ones(4, np.float32)}]
    return session, Batch(np.ones((1, 3, 8, 8), np.float32), np.int64([[8, 8]]), metas)


class Lazy(Bound):
    """Does nothing, at any speed."""

    def _run(self) -> float | None:
        return 1e-6


class Wrong(Bound):
    def fetch(self) -> Arrays:
        result = super().fetch()
        return {**result, "dets": result["dets"] + np.float32(0.5)}


class Fewer(Bound):
    def fetch(self) -> Arrays:
        return {"dets": super().fetch()["dets"]}


class Rounded(Bound):
    """Differs within the allowance, as two kernels of a GPU may."""

    def fetch(self) -> Arrays:
        result = super().fetch()
        return {**result, "dets": result["dets"] + np.float32(1e-5)}


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (Fewer, "outputs dets in place of dets, labels"),
        (Lazy, "toy.onnx: nothing ran, nothing to fetch"),
        (Wrong, "batch 0 left other outputs"),
    ],
)
def test_what_is_timed_is_what_is_compared(bound: type[Bound], words: str) -> None:
    session, batch = bound_session(bound)
    graphs = bind_all(session, [batch])
    subjects = detection_subjects(session, lambda: None, [batch], graphs)
    subjects[GRAPH]()
    with pytest.raises(BackendError, match=words):
        require_same(session, graphs, [batch], Tolerance())


@pytest.mark.parametrize("bound", [Bound, Rounded])
def test_bound_runs_that_give_the_same_pass(bound: type[Bound]) -> None:
    session, batch = bound_session(bound)
    graphs = bind_all(session, [batch])
    graphs[0].run()
    require_same(session, graphs, [batch], Tolerance())


@pytest.mark.parametrize(
    "options", [{"min_rounds": 0}, {"min_rounds": 5, "max_rounds": 4}, {"calls": 0}]
)
def test_nothing_to_measure_is_an_error(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one round"):
        measured({"a": lambda: None}, **options)
    with pytest.raises(ValueError, match="0 subjects"):
        measured({})


def test_the_collector_rests_and_comes_back_even_after_an_error() -> None:
    def fail() -> None:
        assert not gc.isenabled()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measured({"a": fail})
    assert gc.isenabled()


def test_threads_are_pinned_for_the_block_only() -> None:
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
