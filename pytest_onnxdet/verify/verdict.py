"""What the judge of parity says: per image and as a whole, with all that a report needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_onnxdet.verify.checks import LOOK, CheckFailed
from pytest_onnxdet.verify.mismatch import ParityResult
from pytest_onnxdet.verify.raw import RawResult

SAME, EMPTY, TIED, DIFFERENT = "same", "empty", "tied", "different"


#: How a blame begins that names no stage.
_UNNAMED = "naming the stage"


@dataclass(frozen=True)
class ImageVerdict:
    """What became of one image.

    Attributes:
        index: its place.
        name: its file name, or empty.
        outcome: :data:`SAME`, :data:`EMPTY` (neither side finds anything), :data:`TIED` (accepted
            by proof) or :data:`DIFFERENT`.
        reason: what differs, and of a tie what proves it; empty where nothing differs.
    """

    index: int
    name: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the judge says, with all that a report needs.

    Attributes:
        metrics: the figures of :attr:`ParityResult.metrics`; ``raw_max_abs`` and ``raw_max_rel``,
            None where raw outputs were not compared; and with proofs ``tied_images``, how many
            images were accepted by them, and ``tied_detections``, how many of their detections are
            not the reference's first answer.
        faults: a paragraph for each part that does not hold; empty: all holds.
        images: one entry per image; none where the sides have not as many.
        detections: the comparison that counts, after ties were accepted; None as before.
        raw: the comparison of raw outputs, None where there are none.
    """

    metrics: Mapping[str, Any]
    faults: tuple[str, ...] = ()
    images: tuple[ImageVerdict, ...] = ()
    detections: ParityResult | None = None
    raw: RawResult | None = None

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.faults

    @property
    def tied(self) -> tuple[ImageVerdict, ...]:
        """The images that were accepted by proof."""
        return tuple(image for image in self.images if image.outcome == TIED)

    @property
    def message(self) -> str:
        """Every fault, and where to look; empty where all holds."""
        return "\n".join([*self.faults, self._hint()]) if self.faults else ""

    def raise_for(self, case_id: str, locate: Callable[[], str] | None = None) -> None:
        """Raises where something does not hold.

        Args:
            case_id: begins the message.
            locate: asked then for a line that names the stage to blame.

        Raises:
            CheckFailed: with every fault, and the figures.
        """
        if self.ok:
            return
        lines = [f"{case_id}: " + "\n".join(self.faults)]
        blame = "" if locate is None else _guarded(locate)
        hints = [self._hint()]
        # Where a stage is named nobody has to look for it.
        if not blame or blame.startswith(_UNNAMED):
            hints.append(LOOK)
        lines += filter(None, (blame, "; ".join(filter(None, hints))))
        raise CheckFailed("\n".join(lines), self.metrics, "parity")

    def _hint(self) -> str:
        if self.raw is None:
            return ""
        if self.raw.ok:
            return "the heads' outputs agree, so decoding or post-processing is at fault"
        return "the heads' outputs differ already, so post-processing need not be at fault"


def _guarded(locate: Callable[[], str]) -> str:
    """A failed search for the fault must not hide the fault."""
    start = time.perf_counter()
    try:
        return locate()
    except Exception as error:
        spent = time.perf_counter() - start
        return f"{_UNNAMED} failed after {spent:.1f} s: {type(error).__name__}: {error}"
