"""Measures how long things take, side by side.

A machine's speed drifts: clocks rise and fall, other processes come and go. What is compared is
therefore measured in turns, one call of each subject a round, and compared round by round: drift
slower than a round cancels in each round's ratio. The order turns around every round, so that none
always runs with the caches that the same other one left. A short subject runs once more at the
start of its turn, which does not count: else its time would be that of a processor's empty caches
and of threads that wake up. Between turns nothing runs for a moment, until the threads of the last
one sleep. Times start to count when warm-up has stopped making them shorter.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_onnxdet.core.cpu import without_collection

Subject = Callable[[], object]
#: Calls a subject so many times, each time after a set-up; as pytest-benchmark's ``pedantic`` does.
Repeat = Callable[[Subject, Callable[[], None], int], object]

#: Names of the subjects of :func:`pytest_onnxdet.measure.latency.detection_subjects`.
TORCH, GRAPH, RUN, RESULTS = "PyTorch", "graph", "run", "results"

#: Rounds of a warm-up that count together: stable means that the best of these is no better.
WINDOW = 3
#: Warm-up ends when a window's best time is less than this fraction below the best before it.
STABLE_WITHIN = 0.05
MAX_WARM_UP = 20
#: Measured at least, however long it takes: a report needs one fewer to separate noise from change.
DEFAULT_ROUNDS = 5
MAX_ROUNDS = 1000
#: Seconds of a call from which on the start of a turn does not show. On 2 cores, after PyTorch's
#: turn, three runs of a graph took up to 1 ms longer where they take 4 ms, 3 ms where they take 96.
LEAD_IN = 0.25
#: Seconds between turns. ONNX Runtime's threads go on spinning for some 35 ms after a run, so that
#: the next one finds them awake, on cores that PyTorch needs when it is its turn.
PAUSE = 0.05
#: With the pauses, measuring ends after so many times the seconds that were asked for.
MAX_TIMES = 3


@dataclass(frozen=True)
class Timing:
    """The times of one subject, in milliseconds and in the order of the rounds."""

    times: tuple[float, ...]

    @property
    def rounds(self) -> int:
        """How many there are."""
        return len(self.times)

    @property
    def min(self) -> float:
        """The shortest."""
        return min(self.times)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.times)

    @property
    def iqr(self) -> float:
        """Width of the middle half: the noise, without the rounds that something disturbed."""
        return _middle_half(self.times)


@dataclass(frozen=True)
class Measured:
    """The result of :func:`measure`.

    Attributes:
        timings: by subject.
        warm_up: rounds before the ones that count.
    """

    timings: Mapping[str, Timing]
    warm_up: int

    def ratio(self, names: Sequence[str], to: str) -> float:
        """Time of ``names``, one after the other, over time of ``to``: the median of the rounds."""
        return statistics.median(self._ratios(names, to))

    def _ratios(self, names: Sequence[str], to: str) -> list[float]:
        rounds = zip(*(self.timings[name].times for name in names), strict=True)
        pairs = zip(rounds, self.timings[to].times, strict=True)
        return [sum(times) / reference for times, reference in pairs]

    def figures(self) -> dict[str, Any]:
        """A latency record's figures, of these subjects.

        ``ms`` is the graph's time on inputs that are bound, ``copy_ms`` what copying to and from
        the device adds where there is one, ``results_ms`` what comes on top for boxes and masks at
        the original images' sizes. PyTorch's time has all of it, and so has the ``speedup``, and
        the rounds' ratios to PyTorch, whose noise is ``ratio_iqr``.
        """
        graph, eager = self.timings[GRAPH], self.timings[TORCH]
        whole = RUN if RUN in self.timings else GRAPH
        figures = {
            "ms": graph.median,
            "torch_ms": eager.median,
            "speedup": 1 / self.ratio((whole, RESULTS), TORCH),
            "min": graph.min,
            "median": graph.median,
            "iqr": graph.iqr,
            "torch_iqr": eager.iqr,
            "ratio_iqr": _middle_half(self._ratios((whole, RESULTS), TORCH)),
            "rounds": graph.rounds,
            "warm_up": self.warm_up,
            "results_ms": self.timings[RESULTS].median,
        }
        if whole == RUN:
            pairs = zip(self.timings[RUN].times, graph.times, strict=True)
            figures["copy_ms"] = max(0.0, statistics.median(run - alone for run, alone in pairs))
        return figures


def _middle_half(values: Sequence[float]) -> float:
    """The interquartile range; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def measure(
    subjects: Mapping[str, Subject],
    *,
    seconds: float = 1.0,
    min_rounds: int = DEFAULT_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
    calls: int = 1,
    timed: str | None = None,
    repeat: Repeat | None = None,
    synchronize: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Measured:
    """Measures subjects in turns.

    Args:
        subjects: what is called, by name. Each call does the same work every time. Of one that
            returns a float it is taken as the milliseconds, as a device's events measure them;
            else the clock is taken.
        seconds: there are as many rounds as take so long, all subjects together and without the
            pauses between them, or `MAX_TIMES` times as long with the pauses, by one round after
            the warm-up which does not count, ...
        min_rounds, max_rounds: ... but there are at least and at most so many.
        calls: how many units of work a call does; times are for one of them.
        timed: the subject that ``repeat`` calls; None: the first.
        repeat: calls it once a round, after the other subjects' turns; None: a loop.
        synchronize: waits until the device has done what was asked of it. It is called before a
            subject starts and again before its time is taken; None for what runs on the CPU.
        clock: the time, in seconds.
        sleep: waits for so many seconds.

    Raises:
        ValueError: there is nothing to measure, or no round is asked for.
    """
    if not subjects or min_rounds < 1 or max_rounds < min_rounds or calls < 1:
        raise ValueError(
            "measure needs a subject, at least one round and at least one call: got "
            f"{len(subjects)} subjects, {min_rounds} to {max_rounds} rounds, {calls} calls"
        )

    def once(subject: Subject) -> float:
        if synchronize is not None:
            synchronize()
        start = clock()
        took = subject()
        if synchronize is not None:
            synchronize()
        return took / 1e3 if isinstance(took, float) else clock() - start

    # What is garbage already goes first.
    gc.collect()
    with without_collection():
        warm, latest = _warm_up(list(subjects.values()), once)
        led = {name for name, last in zip(subjects, latest, strict=True) if last < LEAD_IN}
        turns = _Turns(subjects, led, timed or next(iter(subjects)), once, sleep)
        begin, paused = clock(), 0.0
        for name in subjects:
            start = clock()
            sleep(PAUSE)
            paused += clock() - start
            turns.take(name)
        whole = max(clock() - begin, 1e-9)
        rounds = min(
            seconds / max(whole - paused, 1e-9),
            MAX_TIMES * seconds / whole,
        )
        count = min(max(math.ceil(rounds - 1e-6), min_rounds), max_rounds)
        turns.repeat(repeat or in_a_loop, count)
    return Measured(
        {
            name: Timing(tuple(time * 1e3 / calls for time in times[:count]))
            for name, times in turns.times.items()
        },
        warm,
    )


def in_a_loop(call: Subject, setup: Callable[[], None], count: int) -> None:
    """Calls a subject so many times, each time after the set-up."""
    for _ in range(count):
        setup()
        call()


class _Turns:
    """Rounds in which each subject has one turn, forwards in one round and backwards in the next.

    Args:
        subjects: by name.
        led: which run once more at the start of their turn.
        timed: the one whose turn somebody else takes, see :meth:`repeat`.
        once: calls a subject and gives its seconds.
        sleep: waits for so many seconds.

    Attributes:
        times: seconds by subject, in the order of the rounds.
    """

    def __init__(
        self,
        subjects: Mapping[str, Subject],
        led: Iterable[str],
        timed: str,
        once: Callable[[Subject], float],
        sleep: Callable[[float], object],
    ) -> None:
        self._subjects, self._led, self._timed = subjects, set(led), timed
        self._once, self._sleep = once, sleep
        self.times: dict[str, list[float]] = {}

    def take(self, name: str) -> float:
        """A subject's turn, without the pause before it: its seconds, of the run that counts."""
        self._lead_in(name)
        return self._once(self._subjects[name])

    def _lead_in(self, name: str) -> None:
        if name in self._led:
            self._once(self._subjects[name])

    def repeat(self, repeat: Repeat, count: int) -> None:
        """So many rounds, of which ``repeat`` calls the timed subject and the rest is its set-up.

        The turns behind the timed one are taken before the next round begins, or at the end.
        """
        self.times = {name: [] for name in self._subjects}
        order = list(self._subjects)
        rounds = itertools.cycle((order, order[::-1]))
        behind: list[str] = []

        def others(names: Sequence[str]) -> None:
            for name in names:
                self._sleep(PAUSE)
                self.times[name].append(self.take(name))

        def setup() -> None:
            names = next(rounds)
            at = names.index(self._timed)
            others([*behind, *names[:at]])
            behind[:] = names[at + 1 :]
            self._sleep(PAUSE)
            self._lead_in(self._timed)

        def call() -> None:
            self.times[self._timed].append(self._once(self._subjects[self._timed]))

        repeat(call, setup, count)
        others(behind)


def _warm_up(
    subjects: Sequence[Subject], once: Callable[[Subject], float]
) -> tuple[int, list[float]]:
    """Runs rounds until no subject gets faster any more: how many, and the last one's seconds."""
    history: list[list[float]] = []
    for done in range(1, MAX_WARM_UP + 1):
        history.append([once(subject) for subject in subjects])
        if done > WINDOW and all(
            min(times[-WINDOW:]) >= (1 - STABLE_WITHIN) * min(times[:-WINDOW])
            for times in zip(*history, strict=True)
        ):
            return done, history[-1]
    return MAX_WARM_UP, history[-1]
