"""The rules by which one check's figures are compared with an earlier run's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_onnxdet.report.figures import noise, speedup
from pytest_onnxdet.report.layout import identified
from pytest_onnxdet.report.records import Record

#: A median's standard error is 1.253 sigma / sqrt(n) for normal noise, whose sigma is IQR / 1.349.
_MEDIAN_ERROR = 1.2533 / 1.3490
#: A slow-down counts as seen from so many standard errors on.
_ERRORS = 3.0
#: With fewer rounds an interquartile range says nothing.
_LEAST_ROUNDS = 4
_RANK = {"passed": 0, "xfailed": 1, "skipped": 2, "failed": 3, "error": 3}
#: A difference of exactly the tolerance is within it, whatever the last bit says.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tolerances:
    """How far a figure may be from the baseline's.

    Attributes:
        ap: of AP on the 0-1 scale; a larger drop is a regression.
        parity: of each parity figure; a larger growth is a regression.
        slowdown: of the ratio to PyTorch; a slow-down beyond it and beyond the noise is one.
    """

    ap: float = 0.0005
    parity: Mapping[str, float] = field(
        default_factory=lambda: {
            "missed": 0,
            "extra": 0,
            "max_box_px": 0.01,
            "max_score": 1e-4,
            "max_mask": 1e-3,
        }
    )
    slowdown: float = 0.05


@dataclass(frozen=True)
class Moved:
    """One figure of one case that is not what it was.

    Attributes:
        case: the case's id.
        check: the check that measured it.
        figure: what moved.
        before, now: both values as shown.
        allowed: how far it might have moved.
        regressed: whether it moved for the worse, beyond what is allowed.
    """

    case: str
    check: str
    figure: str
    before: str
    now: str
    allowed: str
    regressed: bool


def outcome(now: Record, before: Record) -> list[Moved]:
    """The outcome, where it changed: a worse one is a regression."""
    if now.outcome == before.outcome:
        return []
    regressed = _RANK[now.outcome] > _RANK[before.outcome]
    return [_moved(now, "outcome", before.outcome, now.outcome, "", regressed)]


def accuracy(now: Record, before: Record, tolerances: Tolerances) -> list[Moved]:
    """AP of PyTorch and of the backend: a drop beyond the tolerance is a regression."""
    rows = []
    for name in before.metrics:
        old, new = before.figure(name), now.figure(name)
        # X and X_torch are AP; X_delta follows from them, and another figure has no tolerance here.
        if old is None or f"{name.removesuffix('_torch')}_torch" not in before.metrics:
            continue
        if new is None:
            rows += _lost(now, name, f"{old * 100:.2f}")
        elif abs(new - old) > tolerances.ap + _ROUNDING:
            shown = f"{old * 100:.2f}", f"{new * 100:.2f}"
            allowed = f"-{tolerances.ap * 100:.2f}"
            rows.append(_moved(now, f"{name} x 100", *shown, allowed, new < old))
    return rows


def parity(now: Record, before: Record, tolerances: Tolerances) -> list[Moved]:
    """Differences to PyTorch: growth beyond the tolerance is a regression."""
    rows = []
    for name in ("images", "detections"):
        old, new = before.figure(name), now.figure(name)
        if old is not None and new is not None and old != new:
            # Fewer images cannot show what the baseline showed; detections follow the weights.
            regressed = name == "images" and new < old
            rows.append(_moved(now, name, f"{old:.0f}", f"{new:.0f}", "", regressed))
    for name, allowed in tolerances.parity.items():
        old, new = before.figure(name), now.figure(name)
        if old is None:
            continue
        if new is None:
            rows += _lost(now, name, f"{old:.3g}")
        elif abs(new - old) > allowed + _ROUNDING:
            rows.append(_moved(now, name, f"{old:.3g}", f"{new:.3g}", f"+{allowed:g}", new > old))
    return rows


def latency(
    now: Record, before: Record, tolerances: Tolerances
) -> tuple[list[Moved], float | None]:
    """The speed-up over PyTorch, and the smallest slow-down that could be seen."""
    limit = smallest_slowdown(now, before)
    old, new = speedup(before), speedup(now)
    if not old:
        return [], limit
    if not new:
        return _lost(now, "speed-up", f"x{old:.3f}"), limit
    allowed = max(tolerances.slowdown, limit or 0.0)
    slower = old / new - 1
    if -allowed / (1 + allowed) <= slower <= allowed:
        return [], limit
    figure = f"speed-up ({abs(slower):.1%} {'slower' if slower > 0 else 'less time'})"
    source = "noise" if limit is not None and limit > tolerances.slowdown else "limit"
    shown = f"x{old:.3f}", f"x{new:.3f}"
    return [_moved(now, figure, *shown, f"+{allowed:.1%} ({source})", slower > 0)], limit


def _lost(now: Record, name: str, before: str) -> list[Moved]:
    if now.outcome in ("failed", "error", "skipped"):  # the outcome's own row says it
        return []
    return [_moved(now, name, before, "no figure", "", True)]


def _moved(now: Record, figure: str, before: str, after: str, allowed: str, bad: bool) -> Moved:
    return Moved(identified(now), now.check, figure, before, after, allowed, bad)


def smallest_slowdown(now: Record, before: Record) -> float | None:
    """The smallest slow-down relative to PyTorch that two latency records can show.

    Three standard errors of the ratio of ratios of medians. Where PyTorch's own noise
    (``torch_iqr``) was not recorded it is taken to be the backend's. What differs between two
    runs as a whole, such as another machine, is not in it.

    Returns:
        0.02 for 2 %, or None where a record has no ``iqr``, ``median`` or too few ``rounds``.
    """
    total = 0.0
    for record in (now, before):
        ours, rounds = noise(record), record.figure("rounds")
        if ours is None or rounds is None or rounds < _LEAST_ROUNDS:
            return None
        iqr, eager = record.figure("torch_iqr"), record.figure("torch_ms")
        theirs = iqr / eager if iqr is not None and eager else ours
        total += (ours**2 + theirs**2) * _MEDIAN_ERROR**2 / rounds
    return math.expm1(_ERRORS * math.sqrt(total))
