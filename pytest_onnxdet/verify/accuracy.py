"""COCO AP, exact, of a reference and a candidate on one data set.

mmdet's ``CocoDataset.evaluate`` rounds to four decimals, which would eat a fifth of an allowance of
0.0005. Here the same annotations are evaluated with the parameters that mmdet sets, and the mean is
taken unrounded. Nothing is printed and nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.verify.coco_eval import DatasetDetections, StreamedEval

_MAX_DETS = 100  # an image; mmdet takes AP at this one of its proposal_nums


class AccuracyError(Exception):
    """AP cannot be computed, or means nothing; the message says why."""


def average_precision(dataset: Any, results: Sequence[Detections], metric: str = "bbox") -> float:
    """COCO AP over IoU 0.50:0.95, all areas, at most 100 detections per image, on the 0-1 scale.

    Args:
        dataset: the data room's Dataset; or mmdet's CocoDataset, or anything with its ``coco``
            (a pycocotools COCO), ``img_ids`` and ``cat_ids``, in the order of images and labels.
        results: one entry for each of ``img_ids``.
        metric: ``bbox`` or ``segm``.

    Raises:
        AccuracyError: the number of images differs, nothing was detected, masks are missing, a
            label has no category, a score is NaN, or the annotations hold no object.
    """
    dataset = _annotations(dataset)
    images, categories = list(dataset.img_ids), list(dataset.cat_ids)
    _check(images, categories, results, metric)
    evaluation = StreamedEval(dataset.coco, DatasetDetections(images, categories, results), metric)
    evaluation.params.catIds = categories
    evaluation.params.imgIds = images
    evaluation.params.maxDets = [_MAX_DETS]
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all
    evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
    evaluation.evaluate()
    # (IoU threshold, recall, category, area range, max detections); -1: a category has no object
    precision = evaluation.eval["precision"]
    known = precision[precision > -1]
    if not known.size:
        raise AccuracyError(f"{metric} AP is undefined: the annotations hold no object to find")
    return float(np.mean(known))


def _check(
    images: Sequence[Any], categories: Sequence[Any], results: Sequence[Detections], metric: str
) -> None:
    if len(images) != len(results):
        raise AccuracyError(f"{len(results)} image(s) were run, the data set has {len(images)}")
    if metric == "segm" and any(one.masks is None for one in results):
        raise AccuracyError("segm AP needs masks, and the detections have none")
    for one in results:
        unknown = one.labels[(one.labels < 0) | (one.labels >= len(categories))]
        if len(unknown):
            raise AccuracyError(f"label {unknown[0]} is none of the {len(categories)} categories")
        if np.isnan(one.scores).any():
            raise AccuracyError("a score is not a number (NaN)")
    if not any(len(one) for one in results):
        raise AccuracyError(f"nothing was detected in {len(images)} image(s)")


def _annotations(dataset: Any) -> Any:
    """What holds ``img_ids``: the data room's Dataset keeps mmdet's CocoDataset as ``coco``."""
    return dataset if hasattr(dataset, "img_ids") else dataset.coco


def compare_ap(
    dataset: Any,
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    metrics: Sequence[str] = ("bbox",),
) -> dict[str, float]:
    """AP of both sides and their difference.

    Returns:
        For each metric ``bbox_mAP_torch`` (reference), ``bbox_mAP`` (candidate) and
        ``bbox_mAP_delta`` (candidate minus reference); likewise ``segm_…``. Unrounded.

    Raises:
        AccuracyError: see :func:`average_precision`; the message names the side.
    """
    figures: dict[str, float] = {}
    for metric in metrics:
        for suffix, side, results in (
            ("_torch", "PyTorch", reference),
            ("", "the backend", candidate),
        ):
            try:
                figures[f"{metric}_mAP{suffix}"] = average_precision(dataset, results, metric)
            except AccuracyError as error:
                raise AccuracyError(f"{side}: {error}") from error
        figures[f"{metric}_mAP_delta"] = figures[f"{metric}_mAP"] - figures[f"{metric}_mAP_torch"]
    return figures
