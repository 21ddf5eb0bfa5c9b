"""Detections of the drawn scenes, and pycocotools' own evaluation of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytest_onnxdet.commands.results import mmdet_result
from pytest_onnxdet.data.datasets import Dataset
from pytest_onnxdet.data.detections import Detections


def middling(dataset: Dataset, seed: int = 0) -> list[Detections]:
    """Found, missed, doubled, shifted and mislabelled objects, some of equal score."""
    rng = np.random.default_rng(seed)
    results = []
    for index, info in enumerate(dataset.coco.data_infos):
        known = dataset.coco.get_ann_info(index)
        boxes = np.concatenate([known["bboxes"]] * 3)
        labels = np.concatenate([known["labels"]] * 3)
        keep = rng.random(len(boxes)) > 0.3
        boxes, labels = boxes[keep], labels[keep]
        boxes = np.clip(boxes + rng.normal(0, 4, boxes.shape), 0, None).astype(np.float32)
        other = rng.random(len(labels)) < 0.1
        labels = np.where(other, rng.integers(0, 3, len(labels)), labels)
        scores = np.sort(rng.random(len(labels)).round(1))[::-1].astype(np.float32)
        masks = np.zeros((len(boxes), info["height"], info["width"]), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        results.append(Detections(boxes, scores, labels.astype(np.int64), masks).packed())
    return results


def pycocotools_eval(dataset: Dataset, result: list[Detections], kind: str) -> Any:
    """A COCOeval of the entries that mmdet makes; what it prints is not caught."""
    from pycocotools.cocoeval import COCOeval

    results = [mmdet_result(one, 3) for one in result]
    if kind == "bbox":
        boxes = [one[0] if isinstance(one, tuple) else one for one in results]
        entries = dataset.coco._det2json(boxes)
    else:
        entries = dataset.coco._segm2json(results)[1]
        for entry in entries:
            del entry["bbox"]  # as mmdet, so that areas are those of masks
    return COCOeval(dataset.coco.coco, dataset.coco.coco.loadRes(entries), kind)
