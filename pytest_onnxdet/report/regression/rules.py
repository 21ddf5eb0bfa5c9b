"""The rules by which one check's figures are compared with an earlier run's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pytest_onnxdet.report.figures import speedup
from pytest_onnxdet.report.layout import identified
from pytest_onnxdet.report.records import BAD, Record
from pytest_onnxdet.report.regression.noise import smallest_slowdown

_RANK = {"passed": 0, "xfailed": 1, "skipped": 2} | dict.fromkeys(BAD, 3)
#: A difference of exactly the tolerance is within it, whatever the last bit says.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tolerances:
    """How far a figure may be from the baseline's.

    Attributes:
        ap: of AP on the 0-1 scale; a larger drop is a regression.
        parity: of each parity figure; a larger growth is a regression.
        tied: of the images, the share by which ``tied_images`` may grow, and at least by
            ``min_tied`` images; ``tied_detections`` in proportion, see :func:`tied_slack`.
        mask_iou: of the smallest IoU of pasted masks; a larger drop is a regression.
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
    tied: float = 0.05
    min_tied: int = 2
    mask_iou: float = 0.001
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
        compared: False where only the baseline has measured it, and that is no regression.
    """

    case: str
    check: str
    figure: str
    before: str
    now: str
    allowed: str
    regressed: bool
    compared: bool = True

    @property
    def verdict(self) -> str:
        """The last cell of its row."""
        if not self.compared:
            return "not compared"
        return "FAIL" if self.regressed else "moved"


def outcome(now: Record, before: Record, excused: bool = False) -> list[Moved]:
    """The outcome, where it changed: a worse one is a regression.

    Args:
        now, before: the records.
        excused: a check that is skipped now says nothing, rather than that something is worse.
    """
    if now.outcome == before.outcome:
        return []
    if excused and now.outcome == "skipped":
        return [
            replace(_moved(now, "outcome", before.outcome, "skipped", "", False), compared=False)
        ]
    regressed = _RANK[now.outcome] > _RANK[before.outcome]
    return [_moved(now, "outcome", before.outcome, now.outcome, "", regressed)]


def device(now: Record, before: Record) -> list[Moved]:
    """A check that passed on another device: it cannot be compared, and gets a row that says so."""
    return [_moved(now, "device", before.device, now.device, "none", True)]


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
    for name, allowed in {**tolerances.parity, **tied_slack(now, tolerances)}.items():
        old, new = before.figure(name), now.figure(name)
        if old is None:
            continue
        if new is None:
            rows += _lost(now, name, f"{old:.3g}")
        elif abs(new - old) > allowed + _ROUNDING:
            rows.append(_moved(now, name, f"{old:.3g}", f"{new:.3g}", f"+{allowed:g}", new > old))
    old, new = before.figure("min_mask_iou"), now.figure("min_mask_iou")
    if old is not None and new is None:
        rows += _lost(now, "min_mask_iou", f"{old:.4f}")
    elif old is not None and new is not None and abs(new - old) > tolerances.mask_iou + _ROUNDING:
        shown = f"{old:.4f}", f"{new:.4f}"
        allowed_drop = f"-{tolerances.mask_iou:g}"
        rows.append(_moved(now, "min_mask_iou", *shown, allowed_drop, new < old))
    return rows


def tied_slack(now: Record, tolerances: Tolerances) -> dict[str, int]:
    """By how much ties may grow, by figure.

    Where floats tie, their last bits decide: they come from the order of sums, which follows the
    CPU's model and the number of threads. So a run with ``-n`` has other ties than a baseline
    without, though nothing is worse; all of them are proven to be ties.

    Of detections, an image may have as many as one holds on average, and never fewer than 2: one
    of PyTorch's and another one in its place.
    """
    images = now.figure("images") or 0
    slack = max(tolerances.min_tied, int(tolerances.tied * images))
    each = max(2.0, (now.figure("detections") or 0) / images) if images else 2.0
    return {"tied_images": slack, "tied_detections": math.ceil(slack * each)}


def latency(
    now: Record, before: Record, tolerances: Tolerances, comparisons: int = 1
) -> tuple[list[Moved], float | None]:
    """The speed-up over PyTorch, and the smallest slow-down that counts.

    The latter is None where a run did not record its noise: then the tolerance alone decides.
    """
    limit = smallest_slowdown(now, before, comparisons)
    allowed = max(tolerances.slowdown, limit or 0.0)
    smallest = None if limit is None else allowed
    old, new = speedup(before), speedup(now)
    if not old:
        return [], smallest
    if not new:
        return _lost(now, "speed-up", f"x{old:.3f}"), smallest
    slower = old / new - 1
    if -allowed / (1 + allowed) <= slower <= allowed:
        return [], smallest
    figure = f"speed-up ({abs(slower):.1%} {'slower' if slower > 0 else 'less time'})"
    source = "noise" if allowed > tolerances.slowdown else "limit"
    shown = f"x{old:.3f}", f"x{new:.3f}"
    return [_moved(now, figure, *shown, f"+{allowed:.1%} ({source})", slower > 0)], smallest


def _lost(now: Record, name: str, before: str) -> list[Moved]:
    if now.outcome in (*BAD, "skipped"):  # the outcome's own row says it
        return []
    return [_moved(now, name, before, "no figure", "", True)]


def _moved(now: Record, figure: str, before: str, after: str, allowed: str, bad: bool) -> Moved:
    return Moved(identified(now), now.check, figure, before, after, allowed, bad)
