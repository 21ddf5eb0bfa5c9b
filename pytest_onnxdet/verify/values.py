"""What must hold of the values that a graph gives, of every batch that is read.

Detections are read from the slots that have a label, so what stands in the others would go unseen:
a consumer that goes by the score takes it for a detection. Likewise scores out of order, a class
that does not exist, or a box that is none. The graph's contract rules all of these out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.verify.checks import CheckFailed

if TYPE_CHECKING:
    from pytest_onnxdet.data.batches import Batch

STAGE = "contract"
#: By how much a score or a probability may be above 1: sums and products of float32 round.
ROUNDING = 1e-6
#: Faults that a message names; of more it says how many.
NAMED = 8


def check_values(
    outputs: Mapping[str, NDArray[Any]],
    batch: Batch,
    *,
    classes: int | None = None,
    clips: bool = False,
    slack: float = 0.0,
    logits: bool = False,
    case_id: str = "",
) -> None:
    """Raises unless the outputs of one batch keep the contract; see :func:`value_faults`.

    Args:
        outputs: what the graph gave for the batch.
        batch: what was run.
        classes, clips, slack, logits: as for :func:`value_faults`.
        case_id: begins the message.

    Raises:
        CheckFailed: of stage ``contract``, with image, slot and value of each fault.
    """
    faults = value_faults(outputs, batch, classes=classes, clips=clips, slack=slack, logits=logits)
    if not faults:
        return
    lines = [f"{case_id}: " if case_id else ""]
    lines[0] += f"{len(faults)} fault(s) in the values that the graph gives"
    lines += [f"  {fault}" for fault in faults[:NAMED]]
    if len(faults) > NAMED:
        lines.append(f"  … and {len(faults) - NAMED} more")
    lines.append(
        "look at: the end of the graph, where slots are sorted and padded; a consumer reads every "
        "slot, PyTorch is compared with those that have a label"
    )
    raise CheckFailed("\n".join(lines), {"contract_faults": len(faults)}, STAGE)


def value_faults(
    outputs: Mapping[str, NDArray[Any]],
    batch: Batch,
    *,
    classes: int | None = None,
    clips: bool = False,
    slack: float = 0.0,
    logits: bool = False,
) -> list[str]:
    """Every kind of departure from the contract, in each row the first slot of it.

    Empty slots have label -1, are all 0 and come last; -1 is nowhere else. Scores are sorted,
    highest first, and within 0 and 1. Scores, boxes and mask probabilities are finite, and
    corners are in order. Rows that only fill a batch are looked at, too.

    Args:
        outputs: ``dets`` float (N, K, 5), ``labels`` int (N, K), perhaps ``masks`` (N, K, h, w) and
            ``mask_scores`` (N, K), which are finite, and 0 in empty slots.
        batch: what was run, N images.
        classes: how many the detector knows; None: any number.
        clips: whether boxes have to lie inside the image, (h, w) of ``batch.image_shape``.
        slack: by how many pixels a clipped box may be outside: fp16 does not know every border.
        logits: whether masks are logits, which are finite, and not probabilities.
    """
    rows = len(batch.images)
    dets, labels = (np.asarray(outputs[name]) for name in ("dets", "labels"))
    if dets.ndim != 3 or dets.shape[2] != 5 or dets.shape[:2] != labels.shape or len(dets) != rows:
        return [
            f"dets {dets.shape} and labels {labels.shape} for {rows} image(s): "
            "they are (N, K, 5) and (N, K)"
        ]
    masks = outputs.get("masks")
    if masks is not None and (masks.ndim != 4 or masks.shape[:2] != labels.shape):
        return [f"masks {masks.shape} beside labels {labels.shape}: they are (N, K, h, w)"]
    ranks = outputs.get("mask_scores")
    if ranks is not None and ranks.shape != labels.shape:
        return [f"mask_scores {ranks.shape} beside labels {labels.shape}: both are (N, K)"]
    faults: list[str] = []
    for row in range(rows):
        name = Path(str(batch.metas[row].get("filename") or "")).name
        where = f"image {row}" + (f" ({name})" if name else "")
        size = batch.image_shape[row] if clips else None
        one = _row_faults(dets[row], labels[row], classes, size, slack)
        if masks is not None and masks.dtype != bool:
            one += _mask_faults(masks[row], labels[row], logits)
        if ranks is not None:
            one += _rank_faults(ranks[row], labels[row])
        faults += [f"{where}, {fault}" for fault in one]
    return faults


def _row_faults(
    dets: NDArray[Any],
    labels: NDArray[Any],
    classes: int | None,
    size: NDArray[Any] | None,
    slack: float,
) -> list[str]:
    """Faults of one image's slots: ``dets`` (K, 5), ``labels`` (K,)."""
    dets = dets.astype(np.float64)
    boxes, scores = dets[:, :4], dets[:, 4]
    empty = labels == -1
    used, blank = ~empty, ~dets.any(axis=1)
    finite = np.isfinite(dets).all(axis=1)
    sound = used & finite
    faults = []

    def find(bad: NDArray[Any], text: str) -> None:
        at = np.flatnonzero(bad)
        if not len(at):
            return
        slot = int(at[0])
        values = ", ".join(f"{value:.7g}" for value in dets[slot])
        more = f"; {len(at)} slots in all" if len(at) > 1 else ""
        faults.append(f"slot {slot}: {text}: label {labels[slot]}, dets [{values}]{more}")

    find(empty & ~blank, "an empty slot (label -1) that is not all 0")
    find(used & blank, "a label in an empty slot (all 0)")
    find(used & np.maximum.accumulate(empty), "a detection behind an empty slot")
    find(labels < -1, "a negative label other than -1")
    if classes is not None:
        find(labels >= classes, f"a label beyond the {classes} classes")
    find(used & ~finite, "a value that is not finite")
    find(sound & ((scores < 0) | (scores > 1 + ROUNDING)), "a score outside 0 to 1")
    before = np.concatenate([[np.inf], scores[:-1]])
    find(sound & (scores > before), "a score above the one before it")
    find(sound & ((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])), "corners swapped")
    if size is not None:
        height, width = (float(side) for side in size)
        ends = np.array([width, height, width, height]) + slack
        outside = ((boxes < -slack) | (boxes > ends)).any(axis=1)
        find(sound & outside, f"a box outside the image of {height:g} x {width:g}")
    return faults


def _mask_faults(masks: NDArray[Any], labels: NDArray[Any], logits: bool) -> list[str]:
    """Faults of one image's mask values (K, h, w) in the slots that are used."""
    faults = []
    for slot in np.flatnonzero(labels >= 0):
        low, high = float(masks[slot].min(initial=0)), float(masks[slot].max(initial=0))
        if logits:
            if not np.isfinite([low, high]).all():
                faults.append(f"slot {slot}: mask logits from {low:.7g} to {high:.7g}: not finite")
                break
        elif not (low >= 0 and high <= 1 + ROUNDING):  # NaN is neither
            faults.append(
                f"slot {slot}: mask probabilities from {low:.7g} to {high:.7g}: "
                "they lie within 0 and 1"
            )
            break
    return faults


def _rank_faults(scores: NDArray[Any], labels: NDArray[Any]) -> list[str]:
    """Faults of one image's mask scores (K,)."""
    bad = np.flatnonzero(np.where(labels >= 0, ~np.isfinite(scores), scores != 0))
    if not len(bad):
        return []
    slot = int(bad[0])
    return [f"slot {slot}: a mask score of {scores[slot]:.7g}: label {labels[slot]}"]
