"""The one judge of parity: does a candidate find the reference's detections, and nothing else?

The suite and ``onnxdet export --verify`` hand their two sides over and get the same verdict on the
same numbers. Three things are compared: the heads' raw outputs, every detection of every image,
and a batch with its images one by one. A difference is accepted only with a proof that floats tie:
of mask pixels at the threshold the numbers themselves prove it
(:mod:`pytest_onnxdet.verify.compare`), of all else :class:`TieProofs` has to say what the reference
might have detected, too. A comparison of nothing fails.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.noise import Noise
from pytest_onnxdet.verify.bias import systematic
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.mismatch import Mismatch, ParityResult
from pytest_onnxdet.verify.noise import compare_to_exact, narrowed
from pytest_onnxdet.verify.raw import Arrays, RawResult, compare_raw
from pytest_onnxdet.verify.verdict import DIFFERENT, EMPTY, SAME, TIED, ImageVerdict, Verdict

#: In one run of so many chance alone may bring more proven images than a model's spec allows.
RARELY = 10_000


@dataclass(frozen=True)
class Sides:
    """What is compared.

    Attributes:
        reference: PyTorch's detections, one entry per image.
        candidate: the backend's, of the same images in the same order.
        classes: class names in label order.
        images: file names.
        max_per_img: where the reference is cut. Without proofs of ties it lets the numbers prove a
            tie at the cut.
        singles: the candidate's detections computed image by image, each padded to the size it has
            in its batch: a batch of k must equal k singles. None: not compared.
        raw_reference: the heads' outputs in PyTorch by name, for one batch or a list of them.
        raw: the exported heads' outputs. Both or neither.
        noise: of the reference on the batches of ``raw_reference``. With it raw outputs are judged
            by their distance from float64, and the allowances for detections are narrowed by it;
            without it the tolerance alone counts.
        every_image: whether the reference has to find something in each image, and not just in one.

    Raises:
        ValueError: only one of raw_reference and raw is given.
    """

    reference: Sequence[Detections]
    candidate: Sequence[Detections]
    classes: Sequence[str] = ()
    images: Sequence[str] = ()
    max_per_img: int | None = None
    singles: Sequence[Detections] | None = None
    raw_reference: Arrays | Sequence[Arrays] | None = None
    raw: Arrays | Sequence[Arrays] | None = None
    noise: Noise | None = None
    every_image: bool = False

    def __post_init__(self) -> None:
        if (self.raw_reference is None) != (self.raw is None):
            raise ValueError(
                "raw_reference and raw are compared with each other: give both or neither"
            )


class Alternatives(Protocol):
    """What else the reference might have detected, deciding float ties as the candidate did."""

    def __call__(self, index: int, candidate: Detections, singly: bool) -> Iterable[Detections]:
        """The reference's other results of one image; none where nothing ties.

        Args:
            index: the image's place among the sides' images.
            candidate: what the candidate finds in it.
            singly: whether the image is run alone, padded as in its batch.
        """
        ...


@dataclass(frozen=True)
class TieProofs:
    """Proofs that an image differs only where floats tie.

    Attributes:
        alternatives: asked for each image that differs. A candidate that equals one of them, within
            the allowances, is accepted and counted.
        max_share: the share of images that may be expected to be accepted so. More than chance
            makes of it, once in :data:`RARELY` runs, are refused.
        thorough: whether every image is asked about. Without it none is once the verdict is red:
            after an image that has no proof, or where the raw outputs differ. The verdict is the
            same, the figures of ties are not complete.
    """

    alternatives: Alternatives
    max_share: float = 1.0
    thorough: bool = True

    def allowed(self, images: int) -> int:
        """How many of so many images may be accepted by proof: a quantile of the binomial.

        A few images may hold more than their share: of 73 images of a model 19 tied, and of six
        others of it four.
        """
        if self.max_share >= 1:
            return images
        from scipy.special import bdtr

        fewer = bdtr(np.arange(images + 1), images, self.max_share)  # P(X <= k)
        return max(1, int(np.argmax(fewer >= 1 - 1 / RARELY))) if self.max_share else 0


def judge(sides: Sides, tolerance: Tolerance, proofs: TieProofs | None = None) -> Verdict:
    """Compares two sides, accepts proven ties, and says what does not hold.

    Args:
        sides: what is compared.
        tolerance: the allowances.
        proofs: asked for each image that differs. With them nothing else counts as a tie of whole
            boxes, at the cut neither.
    """
    allowed = tolerance if sides.noise is None else narrowed(tolerance, sides.noise)
    return _Trial(sides, allowed, proofs).verdict()


@dataclass
class _Trial:
    """One judgement; gathers faults and figures."""

    sides: Sides
    tolerance: Tolerance
    proofs: TieProofs | None
    metrics: dict[str, Any] = field(
        default_factory=lambda: {"raw_max_abs": None, "raw_max_rel": None}
    )
    faults: list[str] = field(default_factory=list)
    broken: dict[str, None] = field(default_factory=dict)  # what proofs raised, once each
    refuted: bool = False  # whether an image had no proof

    def __post_init__(self) -> None:
        self.prove = cache(self._prove)

    def verdict(self) -> Verdict:
        sides, raw, final = self.sides, None, None
        images: tuple[ImageVerdict, ...] = ()
        if sides.raw_reference is not None and sides.raw is not None:
            raw = self._raw(sides.raw_reference, sides.raw)
            self.metrics |= raw.metrics
            if not raw.ok:
                self.faults.append(f"raw outputs of the heads: {raw.format()}")
        try:
            first = self._compare(sides.reference, sides.candidate)
            final, images = self._detections(first)
            self.metrics = final.metrics | self.metrics
        except ValueError as error:
            self.faults.append(f"detections: {error}")
        if sides.singles is not None:
            self._singles(sides.singles)
        if self.faults:
            self.faults += self.broken
        return Verdict(self.metrics, tuple(self.faults), images, final, raw)

    def _raw(self, ours: Arrays | Sequence[Arrays], theirs: Arrays | Sequence[Arrays]) -> RawResult:
        noise, allow = self.sides.noise, self.tolerance
        if noise is None:
            return compare_raw(ours, theirs, allow.raw_rtol, allow.raw_atol)
        wanted, got = (
            [side] if isinstance(side, Mapping) else list(side) for side in (ours, theirs)
        )
        return compare_to_exact(noise, wanted, got)

    def _compare(self, ours: Sequence[Detections], theirs: Sequence[Detections]) -> ParityResult:
        return compare_detections(
            ours,
            theirs,
            self.tolerance,
            classes=self.sides.classes,
            images=self.sides.images,
            max_per_img=self.sides.max_per_img if self.proofs is None else None,
        )

    def _prove(self, index: int, singly: bool) -> Detections | None:
        """What the reference might have detected in an image, too, if the candidate has just it."""
        sides = self.sides
        if self.proofs is None:
            return None
        if not self.proofs.thorough and (self.faults or self.refuted):
            return None
        candidate = (sides.singles if singly and sides.singles else sides.candidate)[index]
        start = time.perf_counter()
        try:
            # One by one: a further alternative may take long to compute.
            alternative = next(
                (
                    one
                    for one in self.proofs.alternatives(index, candidate, singly)
                    if not self._compare([one], [candidate]).faults
                ),
                None,
            )
        except Exception as error:  # a search that fails must not hide the fault
            spent = time.perf_counter() - start
            why = (
                f"looking for a proof of ties failed after {spent:.1f} s: "
                f"{type(error).__name__}: {error}"
            )
            self.broken[why] = None  # each reason once
            self.refuted = True
            return None
        self.refuted = self.refuted or alternative is None
        return alternative

    def _detections(self, first: ParityResult) -> tuple[ParityResult, tuple[ImageVerdict, ...]]:
        """Judges the images, of which ``first`` is the comparison before any proof."""
        sides, final = self.sides, first
        by_image: dict[int, list[Mismatch]] = {}
        for mismatch in first.faults:
            by_image.setdefault(mismatch.index, []).append(mismatch)
        accepted: dict[int, Detections] = {}
        if not first.vacuous:  # what compared nothing is not saved by a proof
            proven = {index: self.prove(index, False) for index in sorted(by_image)}
            accepted = {index: one for index, one in proven.items() if one is not None}
        if accepted:
            ours = [accepted.get(index, one) for index, one in enumerate(sides.reference)]
            final = self._compare(ours, sides.candidate)
        ties = Counter(m.index for m in final.mismatches if m.kind == "mask_tie")
        if self.proofs is not None:
            self.metrics["tied_images"] = len(accepted)
            self.metrics["tied_detections"] = len(
                {(f.index, f.reference, f.candidate) for f in first.faults if f.index in accepted}
            )
            allowed = self.proofs.allowed(len(sides.reference))
            if len(accepted) > allowed:
                self.faults.append(
                    f"float ties explain {len(accepted)} of {len(sides.reference)} image(s): up to "
                    f"{allowed} are likely where the model's spec expects "
                    f"{self.proofs.max_share:.0%}: {first.format()}"
                )
        if not final.ok:
            self.faults.append(f"detections: {final.format()}")
        else:
            compared = [accepted.get(index, one) for index, one in enumerate(sides.reference)]
            self.faults += [
                f"detections: {line}"
                for line in systematic(compared, sides.candidate, self.tolerance)
            ]
        if sides.every_image:
            empty = [i for i, one in enumerate(sides.reference) if not len(one)]
            if empty:
                names = ", ".join(dict.fromkeys(self._name(i) or f"image {i}" for i in empty))
                self.faults.append(f"the reference finds nothing in {names}")
        images = [self._image(i, by_image, accepted, ties) for i in range(len(sides.reference))]
        return final, tuple(images)

    def _image(
        self,
        index: int,
        faults: Mapping[int, Sequence[Mismatch]],
        accepted: Mapping[int, Detections],
        ties: Mapping[int, int],
    ) -> ImageVerdict:
        name = self._name(index)
        kinds = Counter(mismatch.kind for mismatch in faults.get(index, ()))
        reasons = [f"{kind}: {count}" for kind, count in kinds.items()]
        if kinds and index not in accepted:
            return ImageVerdict(index, name, DIFFERENT, ", ".join(reasons))
        if kinds:
            reasons.append("the reference, deciding float ties alike, finds the same")
        if ties.get(index):
            reasons.append(f"{ties[index]} mask(s) differ only in pixels that tie at the threshold")
        plain = SAME if len(self.sides.reference[index]) else EMPTY
        return ImageVerdict(index, name, TIED if reasons else plain, ", ".join(reasons))

    def _name(self, index: int) -> str:
        names = self.sides.images
        return names[index] if index < len(names) else ""

    def _singles(self, singles: Sequence[Detections]) -> None:
        try:
            alone = self._compare(singles, self.sides.candidate)
        except ValueError as error:
            self.faults.append(f"a batch against its images one by one: {error}")
            return
        unproven = any(
            self.prove(index, False) is None or self.prove(index, True) is None
            for index in {fault.index for fault in alone.faults}
        )
        if unproven or alone.vacuous:
            self.faults.append(f"a batch against its images one by one: {alone.format()}")
