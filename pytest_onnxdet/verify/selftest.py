"""What becomes of one known fault: whether the suite's checks saw it, by which, and how clearly.

The pure part: what ran, and through which checks, is :mod:`pytest_onnxdet.run.selftest`'s.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.mismatch import Mismatch
from pytest_onnxdet.verify.mutants import Operator
from pytest_onnxdet.verify.verdict import Verdict

#: A check refused it; its outputs are the good graph's to the bit, on all images; no check refused
#: it, and no detection is farther from the good graph's than the allowance; or farther, and nothing
#: saw it; or the graph has no place for it.
CAUGHT, EQUIVALENT, BELOW, SURVIVED, NOWHERE = (
    "caught",
    "equivalent",
    "below",
    "SURVIVED",
    "not applicable",
)
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MutantResult:
    """What became of one mutant.

    Attributes:
        operator: the kind of fault.
        place: where in the graph it is.
        outcome: :data:`CAUGHT`, :data:`EQUIVALENT`, :data:`BELOW`, :data:`SURVIVED` or
            :data:`NOWHERE`.
        check: what refused it: ``raw``, ``detections`` or ``singles`` of parity, ``contract``,
            ``accuracy``, ``export`` or ``runtime``; empty where nothing did.
        margin: how many times the allowance it is off by, where the check measures; None where it
            counts.
        reason: the first line of the check's message, or what else there is to say.
        effect: of what was not caught: ``box_px``, ``score``, ``mask``, ``missed``, ``extra`` and
            ``ap``, against the good graph.
    """

    operator: Operator
    place: str
    outcome: str
    check: str = ""
    margin: float | None = None
    reason: str = ""
    effect: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, Any]:
        """What a report keeps."""
        return {
            "operator": self.operator.name,
            "group": self.operator.group,
            "description": self.operator.description,
            "place": self.place,
            "mutant": self.outcome,
            "caught_by": self.check,
            "margin": self.margin,
            "why": self.reason,
            "effect": dict(self.effect),
        }

    def raise_for(self, case_id: str) -> None:
        """Raises where a fault that shows was not seen.

        Raises:
            CheckFailed: of stage ``selftest``.
        """
        if self.outcome != SURVIVED:
            return
        figures = ", ".join(f"{name} {value}" for name, value in self.effect.items())
        raise CheckFailed(
            f"{case_id}: the suite does not see that {self.operator.description} "
            f"({self.operator.name} at {self.place or 'the whole graph'}): {figures}",
            self.figures,
            "selftest",
        )


def choose_places(
    operator: Operator, model: onnx.ModelProto, salt: str, count: int = 1
) -> list[str]:
    """Places of a fault that a graph takes, the same ones every time.

    Args:
        operator: the fault.
        model: the good graph.
        salt: another one begins elsewhere: models then have their faults in different places.
        count: at most so many, spread evenly.
    """
    places = operator.places(model)
    if not places:
        return []
    start = zlib.crc32(f"{salt} {operator.name}".encode()) % len(places)
    turned = places[start:] + places[:start]
    step = max(1, len(turned) // count)
    ordered = [*turned[::step], *(p for at, p in enumerate(turned) if at % step)]
    applied: list[str] = []
    for place in ordered:
        if len(applied) == count:
            break
        if operator.apply(model, place) is not None:
            applied.append(place)
    return applied


def same_outputs(a: Arrays, b: Arrays) -> bool:
    """Whether two runs agree to the bit."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f")
        for k in a
    )


def caught(operator: Operator, place: str, verdict: Verdict) -> MutantResult:
    """The result of a verdict that is red: which part of it, and by how much."""
    if verdict.raw is not None and not verdict.raw.ok:
        share = verdict.raw.raw_share
        check, margin = "raw", share if share is not None and np.isfinite(share) else None
    else:
        detections = verdict.detections
        alone = detections is not None and detections.ok
        biased = any(fault.startswith("detections") for fault in verdict.faults)
        check = "singles" if alone and not biased else "detections"
        margin = None if detections is None else _margin(detections.faults)
    reason = verdict.faults[0].splitlines()[0]
    return MutantResult(operator, place, CAUGHT, check, margin, reason)


def refused(operator: Operator, place: str, error: Exception) -> MutantResult:
    """The result of a check that raises, or of a runtime that does not take the graph."""
    lines = str(error).splitlines() or [""]
    reason = " ".join(line.strip() for line in lines[:2])
    stage = str(getattr(error, "stage", "runtime"))
    return MutantResult(operator, place, CAUGHT, stage, None, reason)


def unseen(
    operator: Operator,
    place: str,
    same: bool,
    good: Sequence[Detections],
    candidate: Sequence[Detections],
    tolerance: Tolerance,
    ap: float | None = None,
) -> MutantResult:
    """The result of a mutant that no check refused.

    Args:
        operator, place: the fault.
        same: whether all outputs are the good graph's to the bit.
        good, candidate: the good graph's detections and the mutant's, one entry per image.
        tolerance: the allowances that the judge used.
        ap: how far AP moved, on the 0-1 scale; None: not computed.
    """
    if same:
        return MutantResult(operator, place, EQUIVALENT, reason="every output is the same")
    result = compare_detections(good, candidate, tolerance)
    figures = result.metrics
    effect = {
        "box_px": figures["max_box_px"],
        "score": figures["max_score"],
        "mask": figures["max_mask"],
        "missed": result.missed,
        "extra": result.extra,
        "ap": ap,
    }
    kinds = Counter(fault.kind for fault in result.faults)
    reason = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
    below = not result.faults
    return MutantResult(operator, place, BELOW if below else SURVIVED, reason=reason, effect=effect)


def _margin(faults: Sequence[Mismatch]) -> float | None:
    """How many times the allowance the worst of what is measured is; None: it is all counted."""
    shares = [
        (1 - fault.value) / (1 - fault.allowed)
        if fault.kind == "mask_iou"
        else fault.value / fault.allowed
        for fault in faults
        if fault.allowed and fault.allowed != 1
    ]
    finite = [share for share in shares if np.isfinite(share)]
    return float(max(finite)) if finite else None
