"""Recall of objects, as mmdet counts it for VOC, and for COCO as ``proposal_fast``.

mmdet's ``eval_recalls`` makes one array of images with different numbers of objects, which numpy
refuses since 1.24, and takes proposals where a detector has classes. The counting here is the same:
objects and boxes are paired greedily by overlap, within each image's best boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.detections import Detections

PROPOSALS = (100, 300, 1000)


def recalls(
    objects: Sequence[NDArray[np.float32]],
    results: Sequence[Any],
    proposal_nums: Sequence[int] = PROPOSALS,
    iou_thr: float | Sequence[float] = 0.5,
    legacy: bool = True,
) -> dict[str, float]:
    """Which part of the objects is detected, whatever class they are detected as.

    Args:
        objects: for each image float32 (n, 4), corners.
        results: for each image mmdet's result.
        proposal_nums: how many of an image's best boxes may be used.
        iou_thr: smallest IoU at which an object counts as detected, one or several.
        legacy: whether a box from 1 to 1 is 1 px wide, as VOC counts pixels.

    Returns:
        ``recall@NUM@IOU`` for each, and with several thresholds ``AR@NUM``, their mean.
    """
    thresholds = [iou_thr] if isinstance(iou_thr, int | float) else list(iou_thr)
    pairs = [(gt, best_first(result)) for gt, result in zip(objects, results, strict=True)]
    figures: dict[str, float] = {}
    for number in proposal_nums:
        overlaps = np.concatenate(
            [np.zeros(0), *(greedy_overlaps(gt, boxes[:number], legacy) for gt, boxes in pairs)]
        )
        recall_values = [
            float((overlaps >= t).mean()) if overlaps.size else 0.0 for t in thresholds
        ]
        for threshold, value in zip(thresholds, recall_values, strict=True):
            figures[f"recall@{number}@{threshold}"] = value
        if len(thresholds) > 1:
            figures[f"AR@{number}"] = float(np.mean(recall_values))
    return figures


def fast_recalls(
    dataset: Any,
    detections: Sequence[Detections],
    proposal_nums: Sequence[int] = PROPOSALS,
    iou_thrs: Sequence[float] | None = None,
) -> dict[str, float]:
    """mmdet's ``proposal_fast`` of a COCO data set.

    Args:
        dataset: mmdet's.
        detections: proposals of each of its images.
        proposal_nums: how many of an image's best boxes may be used.
        iou_thrs: overlaps whose recalls are averaged; None: 0.50 to 0.95 in steps of 0.05.

    Returns:
        ``AR@NUM`` for each.
    """
    objects = []
    for image in dataset.img_ids:
        notes = dataset.coco.load_anns(dataset.coco.get_ann_ids(img_ids=[image]))
        boxes = [n["bbox"] for n in notes if not (n.get("ignore", False) or n["iscrowd"])]
        corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        objects.append(corners)
    thresholds = np.linspace(0.5, 0.95, 10) if iou_thrs is None else np.asarray(iou_thrs)
    results = [image.to_mmdet(1) for image in detections]
    figures = recalls(objects, results, proposal_nums, thresholds.tolist(), legacy=False)
    one = f"@{thresholds[0]}"
    if len(thresholds) > 1:
        return {name: value for name, value in figures.items() if name.startswith("AR@")}
    return {f"AR@{num}": figures[f"recall@{num}{one}"] for num in proposal_nums}


def best_first(result: Any) -> NDArray[np.float32]:
    """All classes' boxes of an image, float32 (n, 5), by descending score."""
    boxes = result[0] if isinstance(result, tuple) else result
    rows = np.concatenate(boxes).astype(np.float32).reshape(-1, 5)
    return rows[np.argsort(-rows[:, 4], kind="stable")]


def greedy_overlaps(
    objects: NDArray[np.float32], boxes: NDArray[np.float32], legacy: bool = True
) -> NDArray[np.float64]:
    """The IoU at which each object is detected, 0 where it is not: the best pair goes first."""
    from mmdet.core.evaluation.bbox_overlaps import bbox_overlaps

    best = np.zeros(len(objects))
    if not len(objects) or not len(boxes):
        return best
    overlaps = bbox_overlaps(objects, boxes[:, :4], use_legacy_coordinate=legacy)
    overlaps = overlaps.astype(np.float64)
    for _ in range(min(overlaps.shape)):
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        best[row] = overlaps[row, column]
        overlaps[row], overlaps[:, column] = -1, -1
    return best
