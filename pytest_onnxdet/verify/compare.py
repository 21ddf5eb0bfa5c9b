"""Whether a candidate finds the reference's detections, and every way in which it does not.

Nothing is averaged and nothing stops at the first fault: one comparison collects every mismatch
of every image. Three differences are accepted, and only when the numbers prove them:

* detections whose reference scores tie within the score allowance may swap places;
* where the reference was cut at ``max_per_img``, a detection whose score is within rounding of the
  last one kept may be replaced by another of which that holds, one for one;
* a mask may differ in pixels whose probability in the reference is within rounding of the
  threshold, and in no other. One such pixel takes a mask of 100 to an IoU of 0.99.

And a reference that gives a ``mask_range`` accepts every mask within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.ties.rounding import score_slack
from pytest_onnxdet.verify.match import (
    OVERLAP,
    assign,
    box_allowance,
    box_distance,
    iou,
    match,
    score_bounds,
    score_distance,
)
from pytest_onnxdet.verify.mismatch import Mismatch, ParityResult
from pytest_onnxdet.verify.pixels import boxes_differ_as_masks, mask_iou, pixels_tie, probabilities

_SAME_BOX = 0.9  # IoU at which two boxes of different classes are the same box under two names


def compare_detections(
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    tolerance: Tolerance,
    *,
    classes: Sequence[str] = (),
    images: Sequence[str] = (),
    max_per_img: int | None = None,
) -> ParityResult:
    """Compares detections image by image, class by class, one to one.

    Args:
        reference: one entry per image.
        candidate: the same images in the same order.
        tolerance: the allowances.
        classes: class names in label order; labels outside it are printed as numbers.
        images: file names for the message.
        max_per_img: where the reference was cut. Only with it is a tie at the cut accepted.

    Raises:
        ValueError: the lists are not of equal length.
    """
    if len(reference) != len(candidate):
        raise ValueError(
            f"the candidate answered {len(candidate)} image(s) where the reference has "
            f"{len(reference)}"
        )
    counted = sum(int((~(one.scores < tolerance.min_score)).sum()) for one in reference)
    result = ParityResult(images=len(reference), detections=counted)
    for index, (ours, theirs) in enumerate(zip(reference, candidate, strict=True)):
        name = images[index] if index < len(images) else ""
        image = _Image(result, index, name, ours, theirs, tolerance, classes)
        image.compare(max_per_img)
    return result


def assert_detections_close(
    reference: Sequence[Detections] | Detections,
    candidate: Sequence[Detections] | Detections,
    tolerance: Tolerance | None = None,
) -> None:
    """Asserts that a candidate's detections are the reference's.

    Args:
        reference: one entry per image, or one image's detections.
        candidate: the same images in the same order.
        tolerance: the allowances; None: those of a CPU, ``Tolerance()``.

    Raises:
        AssertionError: they are not, or there was nothing to compare; the message lists every kind
            of mismatch with the worst of it.
    """
    ours = [reference] if isinstance(reference, Detections) else list(reference)
    theirs = [candidate] if isinstance(candidate, Detections) else list(candidate)
    if len(ours) != len(theirs):
        raise AssertionError(
            f"the candidate has {len(theirs)} image(s), and the reference has {len(ours)}"
        )
    result = compare_detections(ours, theirs, Tolerance() if tolerance is None else tolerance)
    if not result.ok:
        raise AssertionError(result.format())


@dataclass
class _Image:
    """The comparison of one image; writes what it finds into the result."""

    result: ParityResult
    index: int
    name: str
    ours: Detections
    theirs: Detections
    tolerance: Tolerance
    classes: Sequence[str]

    def compare(self, max_per_img: int | None) -> None:
        pairs = match(self.ours, self.theirs, self.tolerance)
        threshold = self.tolerance.min_score
        ours, theirs = (~(one.scores < threshold) for one in (self.ours, self.theirs))  # NaN counts
        counted = [(i, j) for i, j in pairs if ours[i] or theirs[j]]
        self.result.matched += len(counted)
        self._boxes_and_scores(counted)
        for i, j in counted:
            self._masks(i, j)
        self._order(counted)
        missed = sorted(set(np.flatnonzero(ours)) - {i for i, _ in pairs})
        extra = sorted(set(np.flatnonzero(theirs)) - {j for _, j in pairs})
        for i, j in self._flips(missed, extra):
            missed.remove(i)
            extra.remove(j)
            new = f"now {self._class(self.theirs, j)}, score {self.theirs.scores[j]:.6g}"
            self._add("label_flip", self.ours.scores[i], None, i, j, new)
            self.result.missed += 1
            self.result.extra += 1
        for i, j in list(self._cut(missed, extra, max_per_img)):
            missed.remove(i)
            extra.remove(j)
            gap = abs(float(self.ours.scores[i]) - float(self.theirs.scores[j]))
            note = f"both tie with the last of {max_per_img} kept"
            self._add("order_only", gap, None, i, j, note)
        for i in missed:
            self._add("missed", self.ours.scores[i], None, i, None)
        matched = np.array([i for i, _ in pairs], dtype=int)
        for j in extra:
            rivals = matched[self.ours.labels[matched] == self.theirs.labels[j]]
            overlap = iou(self.ours.boxes[rivals], self.theirs.boxes[j : j + 1])[:, 0]
            if overlap.size and overlap.max() >= OVERLAP:
                note = f"IoU {overlap.max():.3f} with reference #{rivals[overlap.argmax()]}"
                self._add("duplicate", self.theirs.scores[j], None, None, j, note)
            else:
                self._add("extra", self.theirs.scores[j], None, None, j)
        self.result.missed += len(missed)
        self.result.extra += len(extra)

    def _boxes_and_scores(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Judges matched pairs' boxes and scores."""
        if not pairs:
            return
        i, j = np.array(pairs).T
        ours, theirs, allow = self.ours, self.theirs, self.tolerance
        with np.errstate(invalid="ignore"):
            boxes = np.abs(ours.boxes[i].astype(np.float64) - theirs.boxes[j]).max(axis=1)
            scores = score_distance(ours, theirs)[i, j]
        pixels = box_allowance(ours.boxes[i], allow)
        if ours.frame is not None and ours.frame.maps.boxed:
            # Such boxes are those of the masks, which are compared themselves.
            for at in np.flatnonzero(~(boxes <= pixels)):
                if boxes_differ_as_masks(ours, int(i[at]), theirs, int(j[at])):
                    boxes[at] = 0.0
        self._judge_all("box_px", "box_shift", boxes, pixels, pairs)
        self._judge_all("score", "score_drift", scores, np.full(len(i), allow.score), pairs)

    def _masks(self, i: int, j: int) -> None:
        """Judges a matched pair's masks."""
        ours, theirs, allow = self.ours, self.theirs, self.tolerance
        ranks = [one.mask_scores for one in (ours, theirs)]
        if ranks[0] is not None or ranks[1] is not None:
            own, other = (
                np.nan if of is None else float(of[k]) for of, k in zip(ranks, (i, j), strict=True)
            )
            gap = abs(own - other)
            self._judge("score", "score_drift", gap, allow.score, i, j, "of the mask")
        if (ours.masks is None) != (theirs.masks is None):
            side = "reference" if ours.masks is None else "candidate"
            self._judge("mask_iou", "mask_iou", 0.0, allow.mask_iou, i, j, f"no mask in {side}")
            return
        if ours.masks is not None and theirs.masks is not None:
            value, note = mask_iou(ours.masks[i], theirs.masks[j])
            kind = "mask_iou"
            if value < allow.mask_iou and pixels_tie(ours, i, theirs.masks[j]):
                kind = "mask_tie"
                note += ", all within rounding of the threshold"
            self._judge("mask_iou", kind, value, allow.mask_iou, i, j, note)
        if ours.mask_probs is not None and theirs.mask_probs is not None:
            a, b = probabilities(ours, i), probabilities(theirs, j)
            low, high = (a, a) if ours.mask_range is None else ours.mask_range[i]
            same = a.shape == b.shape
            beyond = np.maximum(low - b, b - high) if same else np.array(np.inf)
            gap = float(beyond.max(initial=0.0))
            note = "" if same else f"shape {b.shape} instead of {a.shape}"
            self._judge("mask", "mask_drift", gap, allow.mask_prob, i, j, note)

    def _judge_all(
        self,
        key: str,
        kind: str,
        values: NDArray[np.float64],
        allowed: NDArray[np.float64],
        pairs: Sequence[tuple[int, int]],
    ) -> None:
        """Judges the worst value of all pairs, and whatever is beyond its allowance."""
        beyond = np.flatnonzero(~(values <= allowed))
        for at in sorted({int(values.argmax()), *beyond.tolist()}):  # of NaN the first is the worst
            self._judge(key, kind, float(values[at]), float(allowed[at]), *pairs[at])

    def _judge(
        self, key: str, kind: str, value: float, allowed: float, i: int, j: int, note: str = ""
    ) -> None:
        """Keeps the worst value of a quantity; a value beyond the allowance is a mismatch.

        Written so that NaN is beyond every allowance.
        """
        higher_is_better = key == "mask_iou"
        entry = self._mismatch(kind, value, allowed, i, j, note)
        known = self.result.worst.get(key)
        if known is None or not (
            value >= known.value if higher_is_better else value <= known.value
        ):
            self.result.worst[key] = entry
        if not (value >= allowed if higher_is_better else value <= allowed):
            self.result.mismatches.append(entry)

    def _order(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Judges the order of the matched: a swap needs reference scores that tie."""
        places = [i for i, _ in sorted(pairs, key=lambda pair: pair[1])]
        scores = self.ours.scores.astype(np.float64)
        low, high = score_bounds(self.ours)
        best, best_at = -np.inf, -1  # the best score that comes later in the candidate
        behind: list[tuple[int, int]] = []
        for at in range(len(places) - 1, -1, -1):
            i = places[at]
            if best - high[i] > self.tolerance.score:
                behind.append((i, best_at))
            if low[i] > best:
                best, best_at = low[i], i
        where = dict(pairs)
        for i, other in reversed(behind):
            note = f"before reference #{other}, which scores higher"
            gap = float(scores[other] - scores[i])
            self._add("order", gap, self.tolerance.score, i, where[i], note)
        faulty = {i for i, _ in behind}
        for i, later in pairwise(places):
            if later < i and i not in faulty:
                note = f"before reference #{later}, scores tie"
                gap = abs(float(scores[later] - scores[i]))
                self._add("order_only", gap, None, i, where[i], note)
                self.result.order_only += 1

    def _flips(self, missed: Sequence[int], extra: Sequence[int]) -> list[tuple[int, int]]:
        """Unmatched pairs that share a box and differ in class."""
        if not missed or not extra:
            return []
        ours, theirs = list(missed), list(extra)
        overlap = iou(self.ours.boxes[ours], self.theirs.boxes[theirs])
        gap = box_distance(self.ours.boxes[ours], self.theirs.boxes[theirs])
        drift = np.abs(self.ours.scores[ours][:, None] - self.theirs.scores[theirs][None])
        other = self.ours.labels[ours][:, None] != self.theirs.labels[theirs][None]
        allowed = box_allowance(self.ours.boxes[ours], self.tolerance)[:, None]
        same = other & ((overlap >= _SAME_BOX) | (gap <= allowed))
        cost = 1 - overlap + np.nan_to_num(drift.astype(np.float64), nan=1.0, posinf=1.0)
        return [(ours[r], theirs[c]) for r, c in assign(cost, same)]

    def _cut(
        self, missed: Sequence[int], extra: Sequence[int], max_per_img: int | None
    ) -> Iterator[tuple[int, int]]:
        """Pairs of one missed and one extra that both tie with the last detection kept."""
        if max_per_img is None or len(self.ours) != max_per_img or not missed:
            return
        last = self.ours.scores.min()
        tie = 2 * float(score_slack(last))
        out = [i for i in missed if abs(float(self.ours.scores[i]) - float(last)) <= tie]
        into = [j for j in extra if abs(float(self.theirs.scores[j]) - float(last)) <= tie]
        for pair in zip(out, into, strict=False):
            self.result.order_only += 1
            yield pair

    def _class(self, detections: Detections, at: int) -> str:
        label = int(detections.labels[at])
        return self.classes[label] if 0 <= label < len(self.classes) else f"class {label}"

    def _mismatch(
        self,
        kind: str,
        value: float,
        allowed: float | None,
        i: int | None,
        j: int | None,
        note: str,
    ) -> Mismatch:
        side, at = (self.ours, i) if i is not None else (self.theirs, j)
        assert at is not None
        name = self._class(side, at)
        return Mismatch(kind, self.index, self.name, name, float(value), allowed, i, j, note)

    def _add(
        self,
        kind: str,
        value: Any,
        allowed: float | None,
        i: int | None,
        j: int | None,
        note: str = "",
    ) -> None:
        self.result.mismatches.append(self._mismatch(kind, value, allowed, i, j, note))
