"""The result of a comparison of detections, and how it reads as one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FAULTS = (
    "missed",
    "extra",
    "duplicate",
    "label_flip",
    "box_shift",
    "score_drift",
    "mask_drift",
    "mask_iou",
    "order",
)
"""Kinds of mismatch that fail a comparison."""

ACCEPTED = ("order_only", "mask_tie")
"""Kinds that do not, because the numbers prove that nothing but a tie was decided differently."""

_UNITS = {"box_shift": " px"}


@dataclass(frozen=True)
class Mismatch:
    """One way in which one detection differs.

    Attributes:
        kind: one of :data:`FAULTS` or :data:`ACCEPTED`.
        index: the image's position in the lists that were compared.
        image: its file name, or empty.
        label: the class, by name where names were given.
        value: the difference for box_shift (px), score_drift, mask_drift and order (score); the
            IoU for mask_iou and mask_tie; the detection's own score for the other kinds.
        allowed: the allowance for ``value``, None where there is none.
        reference, candidate: the detection's position in either list of the image.
        note: what the figures do not say.
    """

    kind: str
    index: int
    image: str
    label: str
    value: float
    allowed: float | None = None
    reference: int | None = None
    candidate: int | None = None
    note: str = ""

    @property
    def where(self) -> str:
        """The image, class and position, for a message."""
        name = f" ({self.image})" if self.image else ""
        at = [
            f"{side} #{place}"
            for side, place in (("reference", self.reference), ("candidate", self.candidate))
            if place is not None
        ]
        return f"image {self.index}{name}, {self.label}, {', '.join(at)}"

    def __str__(self) -> str:
        what = f"{self.value:.6g}{_UNITS.get(self.kind, '')}"
        if self.allowed is not None:
            bound = "at least" if self.kind in ("mask_iou", "mask_tie") else "up to"
            what += f" ({bound} {self.allowed:g}{_UNITS.get(self.kind, '')} allowed)"
        elif self.kind not in ("order", *ACCEPTED):
            what = f"score {what}"
        return f"{self.where}: {what}" + (f"; {self.note}" if self.note else "")


@dataclass
class ParityResult:
    """The result of a comparison.

    Attributes:
        images, detections: images compared, and the reference's detections in them.
        matched, missed, extra: one-to-one pairs; reference detections without a candidate;
            candidates without a reference (duplicates included). A label flip is one of each.
        order_only: accepted differences of order.
        worst: by quantity (``box_px``, ``score``, ``mask``, ``mask_iou``) the worst value over all
            pairs and where; a quantity that was never compared is missing.
        mismatches: every mismatch, accepted ones included, by image.
    """

    images: int = 0
    detections: int = 0
    matched: int = 0
    missed: int = 0
    extra: int = 0
    order_only: int = 0
    worst: dict[str, Mismatch] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def faults(self) -> list[Mismatch]:
        """The mismatches that fail the comparison."""
        return [m for m in self.mismatches if m.kind not in ACCEPTED]

    @property
    def vacuous(self) -> bool:
        """Whether no pair of detections was compared; such a comparison never passes."""
        return self.matched == 0

    @property
    def ok(self) -> bool:
        """Whether the candidate reproduces the reference, and there was something to reproduce."""
        return not self.vacuous and not self.faults

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures for the report; ``None`` for a quantity that was never compared."""
        worst = {name: entry.value for name, entry in self.worst.items()}
        return {
            "images": self.images,
            "detections": self.detections,
            "matched": self.matched,
            "missed": self.missed,
            "extra": self.extra,
            "order_only": self.order_only,
            "mask_ties": sum(m.kind == "mask_tie" for m in self.mismatches),
            "max_box_px": worst.get("box_px"),
            "max_score": worst.get("score"),
            "max_mask": worst.get("mask"),
            "min_mask_iou": worst.get("mask_iou"),
        }

    def format(self, limit: int = 5) -> str:
        """One message: counts, percentage, worst values, then the mismatches by kind.

        Args:
            limit: lines for each kind; the rest are counted.
        """
        faults = self.faults
        if self.detections == 0 and not faults:
            return f"compared no detection: the reference found none in {self.images} image(s)"
        hit = {(m.index, m.reference) for m in faults if m.reference is not None}
        lines = [
            f"{len(hit)} of {self.detections} reference detections differ "
            f"({100 * len(hit) / max(1, self.detections):.1f}%), {self.extra} extra, "
            f"in {len({m.index for m in faults})} of {self.images} images"
        ]
        if self.vacuous:
            lines.append("  not one detection was matched")
        names = {
            "box_px": "greatest box difference",
            "score": "greatest score difference",
            "mask": "greatest mask probability difference",
            "mask_iou": "least mask IoU",
        }
        lines += [f"  {names[key]}: {entry}" for key, entry in self.worst.items()]
        for kind in (*FAULTS, *ACCEPTED):
            entries = [m for m in self.mismatches if m.kind == kind]
            if not entries:
                continue
            ascending = kind in ("mask_iou", "mask_tie")
            entries.sort(key=lambda m: m.value if ascending else -m.value)
            accepted = " (accepted)" if kind in ACCEPTED else ""
            lines.append(f"  {kind}: {len(entries)}{accepted}")
            lines += [f"    {entry}" for entry in entries[:limit]]
            if len(entries) > limit:
                lines.append(f"    … and {len(entries) - limit} more")
        return "\n".join(lines)
