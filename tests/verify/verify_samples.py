"""Detections made from a seed, and ways to change them."""

from __future__ import annotations

import dataclasses

import numpy as np

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance

CLASSES = ("circle", "square", "triangle")
TOLERANCE = Tolerance()


def detections(seed: int, count: int = 20, masks: bool = False, side: int = 64) -> Detections:
    """Boxes from small to large inside a square image, distinct scores, sorted."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side * 0.7, (count, 2))
    size = rng.uniform(3, side * 0.3, (count, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    # 5e-3 apart: far beyond the allowance, so order is never ambiguous by accident
    scores = (0.95 - 5e-3 * np.arange(count)).astype(np.float32)
    labels = rng.integers(0, len(CLASSES), count)
    if not masks:
        return Detections(boxes, scores, labels)
    probs = rng.uniform(0, 1, (count, 7, 7)).astype(np.float32)
    pasted = rng.uniform(0, 1, (count, side, side)) > 0.5
    return Detections(boxes, scores, labels, pasted, probs)


def change(one: Detections, **values: object) -> Detections:
    """A copy with some arrays replaced."""
    return dataclasses.replace(one, **values)


def nudge(one: Detections, field: str, at: int, by: object) -> Detections:
    """A copy where one detection's box, score or label is changed by an amount."""
    array = getattr(one, field).copy()
    array[at] = array[at] + by
    return change(one, **{field: array})


def take(one: Detections, order: object) -> Detections:
    """A copy with the detections picked and ordered."""
    index = np.asarray(order, dtype=int)
    return Detections(
        one.boxes[index],
        one.scores[index],
        one.labels[index],
        None if one.masks is None else one.masks[index],
        None if one.mask_probs is None else one.mask_probs[index],
    )


def join(a: Detections, b: Detections) -> Detections:
    """Both, sorted by score."""
    boxes, scores, labels = (
        np.concatenate([getattr(a, f), getattr(b, f)]) for f in ("boxes", "scores", "labels")
    )
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order])


def empty() -> Detections:
    return detections(0, count=0)
