"""Comparing a network's raw outputs, tensor by tensor, as numbers.

The heads' outputs before any decoding are smooth functions of the image, so that a plain relative
and absolute allowance is a fair demand; thresholds, NMS and ties come after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class RawDifference:
    """The worst element of one output.

    Attributes:
        name: the output.
        at: the element's index, None where shapes differ or the output is missing.
        got, wanted: its values.
        allowed: ``atol + rtol * |wanted|``.
        count, size: elements beyond the allowance, and elements.
        note: why the output fails, where that is not a matter of one element.
    """

    name: str
    at: tuple[int, ...] | None = None
    got: float = np.nan
    wanted: float = np.nan
    allowed: float = np.nan
    count: int = 0
    size: int = 0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether every element is within the allowance."""
        return not self.note and self.count == 0

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.note}"
        return (
            f"{self.name}: {self.count} of {self.size} elements differ "
            f"({100 * self.count / max(1, self.size):.1f}%), worst at {list(self.at or ())}: "
            f"{self.got:.8g} instead of {self.wanted:.8g}, difference "
            f"{abs(self.got - self.wanted):.3g} (up to {self.allowed:.3g} allowed)"
        )


@dataclass
class RawResult:
    """The result of a comparison of raw outputs.

    Attributes:
        raw_max_abs: the largest absolute difference over all outputs.
        raw_max_rel: the largest ``|got - wanted| / max(|wanted|, atol / rtol)``; the floor keeps
            elements near zero, which the absolute allowance judges, from deciding it.
        raw_share: the largest share of an allowance by noise that is used, 1 for all of it; None
            where raw outputs were compared with PyTorch's and not with float64's.
        nearer: whether the backend is nearer to float64 than PyTorch in every output; or None.
        differences: one entry per output.
    """

    raw_max_abs: float = 0.0
    raw_max_rel: float = 0.0
    raw_share: float | None = None
    nearer: bool | None = None
    differences: list[RawDifference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all agree, and at least one element was compared."""
        return sum(d.size for d in self.differences) > 0 and all(d.ok for d in self.differences)

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures for the report."""
        figures = {"raw_max_abs": self.raw_max_abs, "raw_max_rel": self.raw_max_rel}
        if self.raw_share is None:
            return figures
        return figures | {"raw_share": self.raw_share, "raw_nearer": self.nearer}

    def format(self, limit: int = 5) -> str:
        """One message: how many outputs differ, then the worst element of each."""
        bad = [d for d in self.differences if not d.ok]
        if not bad:
            return "compared no raw output" if not self.ok else "raw outputs agree"
        lines = [f"{len(bad)} of {len(self.differences)} raw outputs differ"]
        lines += [f"  {d}" for d in bad[:limit]]
        if len(bad) > limit:
            lines.append(f"  … and {len(bad) - limit} more")
        return "\n".join(lines)


def compare_raw(
    reference: Arrays | Sequence[Arrays],
    got: Arrays | Sequence[Arrays],
    rtol: float,
    atol: float,
) -> RawResult:
    """Compares raw outputs by name: ``|got - wanted| <= atol + rtol * |wanted|``.

    Infinities agree where they are equal. A NaN on either side, or on both, is a difference:
    a network that yields one is broken, however faithfully the export repeats it.

    Args:
        reference: arrays by output name; or a list of those, one for each batch.
        got: likewise, the same names, shapes and batches.
        rtol: the relative allowance; may be 0.
        atol: the absolute allowance.
    """
    ours = [reference] if isinstance(reference, Mapping) else list(reference)
    theirs = [got] if isinstance(got, Mapping) else list(got)
    result = RawResult()
    if len(ours) != len(theirs):
        note = f"{len(theirs)} batch(es) instead of {len(ours)}"
        result.differences.append(RawDifference("all outputs", note=note))
    for index, (wanted, candidate) in enumerate(zip(ours, theirs, strict=False)):
        prefix = f"batch {index}, " if len(ours) > 1 else ""
        for name in [*wanted, *(extra for extra in candidate if extra not in wanted)]:
            if name not in candidate or name not in wanted:
                side = "missing" if name not in candidate else "not in the reference"
                result.differences.append(RawDifference(prefix + name, note=side))
                continue
            result.differences.append(
                _compare(prefix + name, wanted[name], candidate[name], rtol, atol, result)
            )
    return result


def _compare(
    name: str, wanted: NDArray[Any], got: NDArray[Any], rtol: float, atol: float, result: RawResult
) -> RawDifference:
    """Compares one output, and raises the result's largest differences."""
    if wanted.shape != got.shape:
        return RawDifference(name, note=f"shape {got.shape} instead of {wanted.shape}")
    if not wanted.size:
        return RawDifference(name)
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(b - a))  # inf - inf would be NaN
        allowed = atol + rtol * np.abs(a)
        floor = np.maximum(np.abs(a), atol / rtol if rtol else np.inf)
        relative = np.where(gap == 0.0, 0.0, gap / floor)
    gap, relative = (np.where(np.isnan(v), np.inf, v) for v in (gap, relative))
    bad = ~(gap <= allowed) | (np.isinf(a) & (gap > 0))
    result.raw_max_abs = max(result.raw_max_abs, float(gap.max()))
    result.raw_max_rel = max(result.raw_max_rel, float(relative.max()))
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.where(bad, np.nan_to_num(gap - allowed, nan=np.inf), -np.inf)
    worst = int((excess if bad.any() else gap).argmax())
    return RawDifference(
        name,
        at=tuple(int(i) for i in np.unravel_index(worst, a.shape)),
        got=float(b.flat[worst]),
        wanted=float(a.flat[worst]),
        allowed=float(allowed.flat[worst]),
        count=int(bad.sum()),
        size=int(a.size),
    )
