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

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.cpu import without_collection

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.reference.detector import Reference

Subject = Callable[[], object]

#: Names of the subjects of :func:`detection_subjects`.
TORCH, GRAPH, RUN, RESULTS = "PyTorch", "graph", "run", "results"

#: Rounds of a warm-up that count together: stable means that the best of these is no better.
WINDOW = 3
#: Warm-up goes on while the best time still falls by more than this part.
SETTLED = 0.05
MOST_WARM_UP = 20
#: Measured at least, however long it takes: one more than a report needs to tell noise from change.
DEFAULT_ROUNDS = 5
MOST_ROUNDS = 1000
#: Seconds of a call from which on the start of a turn does not show. On 2 cores, after PyTorch's
#: turn, three runs of a graph took up to 1 ms longer where they take 4 ms, 3 ms where they take 96.
LEAD_IN = 0.25
#: Seconds between turns. ONNX Runtime's threads go on spinning for some 35 ms after a run, so that
#: the next one finds them awake, on cores that PyTorch needs when it is its turn.
PAUSE = 0.05
#: With the pauses, measuring ends after so many times the seconds that it was given.
AT_MOST = 3


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
    """What :func:`measure` found.

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
        ours = zip(*(self.timings[name].times for name in names), strict=True)
        pairs = zip(ours, self.timings[to].times, strict=True)
        return [sum(times) / reference for times, reference in pairs]

    def figures(self) -> dict[str, Any]:
        """A latency record's figures, from the subjects of :func:`detection_subjects`.

        ``ms`` is the graph's time on inputs that are bound, ``copy_ms`` what copying to and from
        the device adds where there is one, ``results_ms`` what comes on top for boxes and masks at
        the original images' sizes. PyTorch's time has all of it, and so has the ``speedup``, and
        the rounds' ratios to PyTorch, whose noise is ``ratio_iqr``.
        """
        ours, theirs = self.timings[GRAPH], self.timings[TORCH]
        whole = RUN if RUN in self.timings else GRAPH
        found = {
            "ms": ours.median,
            "torch_ms": theirs.median,
            "speedup": 1 / self.ratio((whole, RESULTS), TORCH),
            "min": ours.min,
            "median": ours.median,
            "iqr": ours.iqr,
            "torch_iqr": theirs.iqr,
            "ratio_iqr": _middle_half(self._ratios((whole, RESULTS), TORCH)),
            "rounds": ours.rounds,
            "warm_up": self.warm_up,
            "results_ms": self.timings[RESULTS].median,
        }
        if whole == RUN:
            pairs = zip(self.timings[RUN].times, ours.times, strict=True)
            found["copy_ms"] = max(0.0, statistics.median(run - graph for run, graph in pairs))
        return found


def _middle_half(values: Sequence[float]) -> float:
    """The interquartile range; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def detection_subjects(
    session: Session, reference: Reference, batches: Sequence[Batch]
) -> dict[str, Subject]:
    """What a latency check measures; each subject works through all batches.

    The detector in PyTorch ends with boxes and pasted masks at the original images' sizes. A graph
    ends before: scaling back and pasting is a subject of its own, on the graph's last outputs. So
    is a whole run, with its copies, where the bound graph's runs leave copies out.
    """
    from pytest_onnxdet.data.detections import from_outputs

    outputs = [session.run(batch) for batch in batches]
    bound = [session.bind({"input": b.images, "image_shape": b.image_shape}) for b in batches]

    def run_graph() -> float | None:
        times = [one.run() for one in bound]
        told = [time for time in times if time is not None]
        return sum(told) if len(told) == len(times) else None

    def run_whole() -> None:
        for batch in batches:
            session.run(batch)

    def run_results() -> None:
        for output, batch in zip(outputs, batches, strict=True):
            from_outputs(output, batch)

    subjects: dict[str, Subject] = {TORCH: _detector(reference, batches), GRAPH: run_graph}
    if any(one.apart for one in bound):
        subjects[RUN] = run_whole
    return {**subjects, RESULTS: run_results}


def _detector(reference: Reference, batches: Sequence[Batch]) -> Subject:
    """The bare call of mmdet's detector, on tensors that are there already.

    Not :meth:`Reference.run`, which also watches the mask head and keeps what it sees.
    """
    import numpy as np
    import torch

    detector, device = reference.detector, torch_device(reference)
    given = [
        (torch.from_numpy(np.ascontiguousarray(batch.images)).to(device), batch.metas)
        for batch in batches
    ]

    def run() -> None:
        with torch.no_grad():
            for images, metas in given:
                # mmdet writes into the metas.
                detector(
                    img=[images],
                    img_metas=[[dict(meta) for meta in metas]],
                    return_loss=False,
                    rescale=True,
                )

    return run


def torch_device(reference: Reference) -> str:
    """Where the detector in PyTorch computes, as reports name it: ``cpu``, ``cuda``."""
    weight: Any = next(reference.detector.parameters(), None)
    return "cpu" if weight is None else str(weight.device.type)


def measure(
    subjects: Mapping[str, Subject],
    *,
    seconds: float = 1.0,
    least: int = DEFAULT_ROUNDS,
    most: int = MOST_ROUNDS,
    calls: int = 1,
    synchronize: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Measured:
    """Measures subjects in turns.

    Args:
        subjects: what is called, by name. Each call does the same work every time. Of one that
            returns a float it is taken as the milliseconds, as a device's events tell them; of
            others the clock tells.
        seconds: rounds go on until they took so long, all subjects together and without the pauses
            between them, or `AT_MOST` times as long with the pauses, ...
        least, most: ... but there are at least and at most so many.
        calls: how many units of work a call does; times are for one of them.
        synchronize: waits until the device has done what was asked of it. It is called before a
            subject starts and again before its time is taken; None for what runs on the CPU.
        clock: the time, in seconds.
        sleep: waits for so many seconds.

    Raises:
        ValueError: there is nothing to measure, or no round is asked for.
    """
    if not subjects or least < 1 or most < least or calls < 1:
        raise ValueError(
            "measure needs a subject, at least one round and at least one call: got "
            f"{len(subjects)} subjects, {least} to {most} rounds, {calls} calls"
        )

    def once(subject: Subject) -> float:
        if synchronize is not None:
            synchronize()
        start = clock()
        told = subject()
        if synchronize is not None:
            synchronize()
        return told / 1e3 if isinstance(told, float) else clock() - start

    times: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    # What is garbage already goes first.
    gc.collect()
    with without_collection():
        warm, latest = _warm_up(list(subjects.values()), once)
        led = {name for name, last in zip(names, latest, strict=True) if last < LEAD_IN}
        spent, begin = 0.0, clock()
        for done in range(most):
            over = spent >= seconds or clock() - begin >= AT_MOST * seconds
            if done >= least and over:
                break
            for name in names if done % 2 == 0 else reversed(names):
                sleep(PAUSE)
                start = clock()
                if name in led:
                    once(subjects[name])
                times[name].append(once(subjects[name]) * 1e3 / calls)
                spent += clock() - start
    return Measured({name: Timing(tuple(found)) for name, found in times.items()}, warm)


def _warm_up(
    subjects: Sequence[Subject], once: Callable[[Subject], float]
) -> tuple[int, list[float]]:
    """Runs rounds until no subject gets faster any more: how many, and the last one's seconds."""
    history: list[list[float]] = []
    for done in range(1, MOST_WARM_UP + 1):
        history.append([once(subject) for subject in subjects])
        if done > WINDOW and all(
            min(times[-WINDOW:]) >= (1 - SETTLED) * min(times[:-WINDOW])
            for times in zip(*history, strict=True)
        ):
            return done, history[-1]
    return MOST_WARM_UP, history[-1]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch and OpenCV with so many threads, as long as the block lasts."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
