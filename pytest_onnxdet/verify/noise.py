"""Holding a backend to the noise of float32.

Raw outputs are judged by their distance from float64; boxes, scores and masks by allowances that
the noise narrows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.noise import Arrays, MapNoise, Noise
from pytest_onnxdet.verify.match import box_distance, match
from pytest_onnxdet.verify.pixels import probabilities
from pytest_onnxdet.verify.raw import RawDifference, RawResult

#: How much farther than the noise of the recorded images a detection may be. The noise is the
#: worst of some dozens of detections, and a data set has thousands, with long tails: the worst
#: score of the mini DETR's 864 detections is nine times that of the 48 in its first four images.
DETECTIONS = 16.0

#: What a detection may be off by even where the recorded images show less, as a few confident
#: detections show hardly any: of a coordinate in pixels four steps of float32 at 1,000, as a share
#: of the longer side 16 steps, of a score and of a mask's probability twice what the minis' worst
#: ones are off by (9e-6 and 5e-5), which is a fifth and a tenth of the outer limits.
MIN_ALLOWED = Tolerance(box_px=5e-4, box_rel=2e-6, score=2e-5, mask_prob=1e-4)


def narrowed(tolerance: Tolerance, noise: Noise) -> Tolerance:
    """The allowances for detections by the noise, never wider than the tolerance's."""
    if not noise.detections:
        return tolerance

    def allowed(name: str) -> float:
        outer, measured = getattr(tolerance, name), getattr(noise, name)
        if measured is None:
            return float(outer)
        inner = max(DETECTIONS * measured, getattr(MIN_ALLOWED, name))
        return float(min(outer, noise.spread * inner))

    return replace(
        tolerance,
        box_px=allowed("box_px"),
        box_rel=allowed("box_rel"),
        score=allowed("score"),
        mask_prob=allowed("mask_prob"),
    )


def detection_noise(
    exact: Sequence[Detections], result: Sequence[Detections], outer: Tolerance
) -> dict[str, Any]:
    """How far float32's detections are from float64's, of those that both have.

    A detection of which float32 decided otherwise (a tie in suppression, a region at a level's
    border) has no counterpart within the outer allowances, and says nothing of rounding.

    Args:
        exact: float64's, one entry per image.
        result: float32's, of the same images.
        outer: how far two may differ to be the same detection.

    Returns:
        box_px, box_rel, score, mask_prob (None without masks) and detections, as :class:`Noise`
        has them.
    """
    box_px = box_rel = score = 0.0
    masks: float | None = None
    count = 0
    for ours, theirs in zip(exact, result, strict=True):
        for i, j in match(ours, theirs, outer):
            gap = box_distance(ours.boxes[i : i + 1], theirs.boxes[j : j + 1]).item()
            drift = abs(float(ours.scores[i]) - float(theirs.scores[j]))
            if ours.mask_scores is not None and theirs.mask_scores is not None:
                drift = max(drift, abs(float(ours.mask_scores[i]) - float(theirs.mask_scores[j])))
            longer = float(np.max(ours.boxes[i, 2:] - ours.boxes[i, :2]))
            if gap > max(outer.box_px, outer.box_rel * longer) or drift > outer.score:
                continue
            count += 1
            box_px, score = max(box_px, gap), max(score, drift)
            box_rel = max(box_rel, gap / max(longer, 1.0))
            if ours.mask_probs is not None and theirs.mask_probs is not None:
                gaps = np.abs(probabilities(ours, i) - probabilities(theirs, j))
                mask_gap = float(gaps.max(initial=0.0))
                if mask_gap <= outer.mask_prob:
                    masks = max(masks or 0.0, mask_gap)
    return {
        "box_px": box_px,
        "box_rel": box_rel,
        "score": score,
        "mask_prob": masks,
        "detections": count,
    }


def compare_to_exact(noise: Noise, reference: Sequence[Arrays], got: Sequence[Arrays]) -> RawResult:
    """Whether a backend's raw outputs are as near to float64 as PyTorch's are, output by output.

    Args:
        noise: float64's outputs of these batches, and PyTorch's distance from them.
        reference: PyTorch's float32, for the reported distance between the two.
        got: the backend's.

    Returns:
        A difference for each output, over all batches; its ``allowed`` is the worst element's.
    """
    result = RawResult(raw_share=0.0, nearer=True)
    if not len(noise.exact) == len(reference) == len(got):
        note = f"{len(got)} batch(es) instead of {len(noise.exact)}"
        result.differences.append(RawDifference("all outputs", note=note))
        return result
    for name in sorted({*noise.maps, *(extra for batch in got for extra in batch)}):
        result.differences.append(_output(name, noise, reference, got, result))
    return result


def _output(
    name: str, noise: Noise, reference: Sequence[Arrays], got: Sequence[Arrays], result: RawResult
) -> RawDifference:
    if name not in noise.maps or any(name not in batch for batch in got):
        side = "not in the reference" if name not in noise.maps else "missing"
        return RawDifference(name, note=side)
    allowed: MapNoise = noise.maps[name]
    max_worst, max_rms = (noise.spread * a for a in (allowed.allowed_worst, allowed.allowed_rms))
    worst, where = -1.0, RawDifference(name)
    squares, size, count = 0.0, 0, 0
    for number, (exact, ours, theirs) in enumerate(zip(noise.exact, reference, got, strict=True)):
        a, b = exact[name].astype(np.float64), theirs[name].astype(np.float64)
        if a.shape != b.shape:
            return RawDifference(name, note=f"shape {b.shape} instead of {a.shape}")
        if not a.size:
            continue
        with np.errstate(invalid="ignore"):
            gap = np.where(a == b, 0.0, np.abs(b - a))
            gap = np.where(np.isnan(gap), np.inf, gap)  # a NaN on either side agrees with nothing
            distance = np.abs(b - ours[name])
        size += a.size
        squares += float((gap**2).sum())
        count += int((gap > max_worst).sum())
        result.raw_max_abs = max(
            result.raw_max_abs, float(np.nan_to_num(distance, nan=np.inf).max())
        )
        at = int(gap.argmax())
        if gap.flat[at] > worst:
            worst = float(gap.flat[at])
            place = (number, *(int(i) for i in np.unravel_index(at, a.shape)))
            where = RawDifference(
                name,
                at=place if len(got) > 1 else place[1:],
                got=float(b.flat[at]),
                wanted=float(a.flat[at]),
                allowed=max_worst,
            )
    rms = float(np.sqrt(squares / size)) if size else 0.0
    result.nearer = bool(result.nearer) and rms <= allowed.rms
    shares = worst / max_worst, rms / max_rms
    result.raw_share = max(result.raw_share or 0.0, *shares)
    where = replace(where, count=count, size=size)
    if rms <= max_rms:
        return where
    elements = str(where).removeprefix(f"{name}: ")
    note = (
        f"{elements}; all in all {rms:.3g} from float64 by root mean square, where PyTorch's "
        f"float32 is {allowed.rms:.3g} from it (up to {max_rms:.3g} allowed)"
    )
    return replace(where, note=note)
