"""The objects of a data set that mmdet alone can read, checked before an image is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.datasets import Dataset
from pytest_onnxdet.models.checkpoint import one_line


def check_truth(data: Dataset) -> tuple[str, ...]:
    """Reads every image's objects, of which mmdet makes no use before it evaluates.

    Returns:
        What is odd about all of them, a sentence each.

    Raises:
        DataError: those of an image cannot be read or evaluated.
    """
    from mmdet.datasets import CustomDataset

    lowest = None
    for index in range(len(data)):
        try:
            info = data.coco.get_ann_info(index)
            wrong = wrong_objects(info, data.coco.CLASSES)
        except Exception as error:
            wrong = one_line(error)
        if wrong:
            raise DataError(
                f"{data.spec.annotations}: the objects of {data.path(index).name} cannot be read "
                f"({wrong}): correct its annotation"
            )
        if len(info["labels"]):
            least = int(np.min(info["labels"]))
            lowest = least if lowest is None else min(lowest, least)
    # Labels that a class maps by name are right where the first class has no object.
    plain = type(data.coco).get_ann_info is CustomDataset.get_ann_info
    if plain and lowest and len(data.coco.CLASSES) > 1:
        return (
            f"{data.spec.annotations}: no object has label 0 ({data.coco.CLASSES[0]}): labels "
            "count from 0",
        )
    return ()


def wrong_objects(info: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Why an image's objects cannot be evaluated; empty where they can.

    Args:
        info: ``bboxes``, (n, 4), and ``labels``, (n,); perhaps the same ``..._ignore``.
        classes: the data set's.

    Raises:
        KeyError: one of the first two is missing.
    """
    for ending in ("", "_ignore"):
        if ending and info.get("labels_ignore") is None:
            continue  # as mmdet: ignored boxes count by their labels
        boxes, labels = info[f"bboxes{ending}"], info[f"labels{ending}"]
        for name, value in ((f"bboxes{ending}", boxes), (f"labels{ending}", labels)):
            if not isinstance(value, np.ndarray):
                return f"TypeError: {name} is a {type(value).__name__}, not an array"
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            return f"bboxes{ending} has the shape {boxes.shape}, not (n, 4)"
        if labels.shape != (len(boxes),):
            return (
                f"labels{ending} has the shape {labels.shape} for {len(boxes)} boxes, not "
                f"({len(boxes)},)"
            )
        if boxes.dtype.kind not in "fiu" or not np.isfinite(boxes).all():
            return f"bboxes{ending} holds what is no number"
        if not len(labels):
            continue
        if labels.dtype.kind not in "iu":
            return f"labels{ending} is of type {labels.dtype}: give whole numbers"
        if labels.min() < 0 or labels.max() >= len(classes):
            odd = int(labels.max() if labels.max() >= len(classes) else labels.min())
            return f"label {odd}, where {len(classes)} classes have labels 0 to {len(classes) - 1}"
    return ""
