"""How two masks differ, and whether by no more than rounding leaves open at their threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.image_maps import boxes_of
from pytest_onnxdet.data.masks import paste_masks
from pytest_onnxdet.reference.ties.rounding import LOGIT, PIXEL, mask_slack

Pixels = NDArray[np.bool_]


def probabilities(detections: Detections, at: Any) -> NDArray[np.float64]:
    """The mask probabilities of some detections, (K, h, w); of maps of logits made of those.

    Args:
        detections: one image's, with ``mask_probs``.
        at: which, an index of any kind.
    """
    assert detections.mask_probs is not None
    values = detections.mask_probs[at].astype(np.float64)
    if detections.frame is None or not detections.frame.maps.logits:
        return values
    with np.errstate(over="ignore"):
        shares: NDArray[np.float64] = 1 / (1 + np.exp(-values))
    return shares


def mask_iou(a: Any, b: Any) -> tuple[float, str]:
    """IoU of two masks (1 when both are empty) and, where they differ, by how many pixels."""
    if a.shape != b.shape:
        return 0.0, f"shape {b.shape} instead of {a.shape}"
    union = int(np.count_nonzero(a | b))
    shared = int(np.count_nonzero(a & b))
    note = "" if union == shared else f"{union - shared} of {union} pixels differ"
    return (shared / union if union else 1.0), note


def pixels_tie(reference: Detections, i: int, mask: Any) -> bool:
    """Whether rounding alone may make the reference's mask ``i`` this one.

    Args:
        reference: one image's detections.
        i: one of them.
        mask: bool (H, W), of the same detection in the candidate.
    """
    masks = reference.masks
    if reference.mask_probs is None or masks is None or masks[i].shape != mask.shape:
        return False
    make = _of_region if reference.frame is None else _of_map
    sure, possible = make(reference, i, mask.shape)
    # The reference's own mask has to lie between them, too: else these are not the
    # probabilities, or that is not the threshold, that it was made of.
    return all(
        not (sure & ~each).any() and not (each & ~possible).any() for each in (mask, masks[i])
    )


def _of_region(reference: Detections, i: int, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """The pixels that surely, and those that possibly, belong to a mask of a region.

    A pixel's probability is interpolated from the box's own grid: it moves with the mask head's
    logits and with the box's corners, and both are rounded (see the module ``rounding``).
    """
    assert reference.mask_probs is not None
    one = slice(i, i + 1)
    low = high = reference.mask_probs[one]
    if reference.mask_range is not None:
        low, high = reference.mask_range[one, 0], reference.mask_range[one, 1]
    threshold, boxes = reference.mask_threshold, reference.boxes[one]
    slack = mask_slack(threshold)
    sure, possible = np.ones(size, bool), np.zeros(size, bool)
    # A pixel's place in the grid lies between those that these moves of the whole box give it.
    for x, y in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        moved = boxes + np.float32(PIXEL) * np.array([x, y, x, y], np.float32)
        sure &= paste_masks(low, moved, size, threshold + slack)[0]
        possible |= paste_masks(high, moved, size, threshold - slack)[0]
    return sure, possible


def _of_map(reference: Detections, i: int, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """:func:`_of_region` of a mask that is made of a map of the image, which nothing moves."""
    frame = reference.frame
    assert reference.mask_probs is not None and frame is not None
    slack = LOGIT if frame.maps.logits else mask_slack(frame.maps.threshold)
    sure, possible = (
        frame.paste(reference.mask_probs[i : i + 1], size, frame.maps.threshold + by)[0]
        for by in (slack, -slack)
    )
    return sure, possible


def boxes_differ_as_masks(ours: Detections, i: int, theirs: Detections, j: int) -> bool:
    """Whether two boxes, each of them its mask's, differ because of pixels that tie.

    Args:
        ours, i: the reference's detections of an image, and one of them.
        theirs, j: the candidate's, and its counterpart.
    """
    if ours.masks is None or theirs.masks is None or theirs.frame is None:
        return False
    a, b = ours.masks[i], theirs.masks[j]
    tight = (
        (boxes_of(np.asarray(mask)[None])[0] == box).all()
        for mask, box in ((a, ours.boxes[i]), (b, theirs.boxes[j]))
    )
    return all(tight) and pixels_tie(ours, i, b)
