"""How large a slow-down has to be before two latency records show it.

Noise is measured within a run: how far the rounds' ratios to PyTorch scatter. What differs between
two runs as a whole, such as another machine or another layout of memory, is not in it.
"""

from __future__ import annotations

import math

from pytest_onnxdet.report.figures import noise, speedup
from pytest_onnxdet.report.records import Record

#: Of so many comparisons of unchanged runs, all their cases together, one may show a slow-down.
FALSE_ALARM = 0.02
#: A record of fewer rounds has no noise to compare by: its quartiles are next to its extremes.
READABLE_ROUNDS = 4
#: A median's standard error is so many sigma / sqrt(n) for normal noise, and an interquartile
#: range so many sigma.
_MEDIAN_ERROR, _QUARTILES = 1.2533, 1.3490
#: Of n values the range is narrower, by about this / n. Drawn from normal noise at 4 to 400 values.
_NARROWER = 0.8


def smallest_slowdown(now: Record, before: Record, comparisons: int = 1) -> float | None:
    """The slow-down relative to PyTorch from which on two latency records show one.

    The ratios' medians are compared, whose errors are known from few rounds only: hence Student's
    t, with a round less than there are as its degrees of freedom. Among many comparisons chance
    finds a large difference somewhere, so its share of false alarms is divided by their number.

    Args:
        now, before: the records.
        comparisons: how many there are of the two runs.

    Returns:
        0.02 for 2 %, or None where a record has no noise or too few ``rounds``.
    """
    total, fewest = 0.0, math.inf
    for record in (now, before):
        scatter, rounds = ratio_noise(record), record.figure("rounds")
        if scatter is None or rounds is None or rounds < READABLE_ROUNDS:
            return None
        sigma = scatter / (_QUARTILES * (1 - _NARROWER / rounds))
        total += (_MEDIAN_ERROR * sigma) ** 2 / rounds
        fewest = min(fewest, rounds)
    errors = student(FALSE_ALARM / comparisons, fewest - 1)
    return math.expm1(errors * math.sqrt(total))


def ratio_noise(record: Record) -> float | None:
    """The interquartile range of the rounds' ratios to PyTorch, over their median.

    As recorded (``ratio_iqr``). In a report without it, as if the two times scattered
    independently, and what is done with the graph's outputs scattered as the graph does.
    """
    recorded, ratio = record.figure("ratio_iqr"), speedup(record)
    if recorded is not None and ratio:
        return recorded * ratio
    relative = noise(record)
    if relative is None:
        return None
    iqr, eager = record.figure("torch_iqr"), record.figure("torch_ms")
    eager_noise = iqr / eager if iqr is not None and eager else relative
    return math.hypot(relative, eager_noise)


def student(share: float, freedom: float) -> float:
    """What Student's t of so many degrees of freedom exceeds in this share of cases.

    By the inverse that ``scipy.stats.t`` calls: scipy.special loads in a third of the time.
    """
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, share))
