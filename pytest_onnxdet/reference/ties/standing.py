"""Which boxes are candidates of suppression in any case, and which only if rounding has it so.

Before mmdet suppresses it drops boxes by thresholds and takes the best of each level. A box whose
score or size is within rounding of such a limit is a candidate in one runtime and none in another.
Proofs widen the limits, so that mmdet computes these boxes, too, and note here where each stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """Boxes that tie for the last places among so many.

    Attributes:
        rows: int64 (T,), which they are.
        max_candidates: so many of them at most are candidates.
        max_absent: so many of them at most are none.
    """

    rows: NDArray[np.int64]
    max_candidates: int
    max_absent: int


@dataclass(frozen=True)
class Standing:
    """Where each of P boxes stands; one that is neither out nor open is a candidate.

    Attributes:
        out: bool (P,), surely none: the limits were widened too far for it.
        open: bool (P,), a candidate or none, each on its own.
        cuts: sets of which just so many are candidates.
    """

    out: Flags
    open: Flags
    cuts: tuple[Cut, ...] = ()

    def __len__(self) -> int:
        return len(self.out)

    @classmethod
    def of(cls, sure: Flags, possible: Flags) -> Standing:
        """Of boxes that surely, and that possibly, are candidates; bool (P,) each."""
        return cls(~possible, possible & ~sure)

    @classmethod
    def joined(cls, parts: Sequence[Standing]) -> Standing:
        """One after the other, as mmdet joins its levels."""
        cuts: list[Cut] = []
        start = 0
        for part in parts:
            cuts += [replace(cut, rows=cut.rows + start) for cut in part.cuts]
            start += len(part)
        none = np.zeros(0, dtype=bool)
        return cls(
            np.concatenate([none, *(part.out for part in parts)]),
            np.concatenate([none, *(part.open for part in parts)]),
            tuple(cuts),
        )

    def taken(self, rows: NDArray[Any]) -> Standing:
        """Of these rows alone, in their order; no row may come twice."""
        place = np.full(len(self), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        cuts = [replace(cut, rows=place[cut.rows]) for cut in self.cuts]
        return Standing(
            self.out[rows],
            self.open[rows],
            tuple(replace(cut, rows=cut.rows[cut.rows >= 0]) for cut in cuts),
        )

    def objection(self, keep: Flags, unexplained: Flags) -> NDArray[np.int64] | None:
        """Rows that may not be missing, or not all be kept; None where all may be so.

        Args:
            keep: bool (P,), what a backend kept.
            unexplained: bool (P,), what it did not keep though nothing suppresses it.
        """
        left = unexplained & ~self.open & ~self.out
        for cut in self.cuts:
            if keep[cut.rows].sum() > cut.max_candidates:
                return cut.rows[keep[cut.rows]]
            missing = left[cut.rows]
            if missing.sum() > cut.max_absent:
                return cut.rows[missing]
            left[cut.rows] = False
        rows = np.flatnonzero(left)
        return rows if rows.size else None
