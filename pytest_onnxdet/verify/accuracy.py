"""COCO AP, exact, of a reference and a candidate on one data set.

mmdet's ``CocoDataset.evaluate`` rounds to four decimals, which would eat a fifth of an allowance of
0.0005. Here the same annotations are evaluated with the parameters that mmdet sets, and the mean is
taken unrounded. faster-coco-eval does the matching: its figures are pycocotools' within 1e-14.
Nothing is printed and nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from pytest_onnxdet.collection import without_collection
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.evaluation import without_outlines
from pytest_onnxdet.data.masks import RunLengthMasks, encode

_MAX_DETS = (100, 300, 1000)  # mmdet's proposal_nums; AP is taken at the first
# By annotations (a pycocotools COCO), then by what was evaluated on them: every backend is compared
# with the same detections of PyTorch, whose AP takes as long to compute as its own.
_KNOWN: WeakKeyDictionary[Any, dict[str, float]] = WeakKeyDictionary()


class AccuracyError(Exception):
    """AP cannot be computed, or means nothing; the message says why."""


def average_precision(dataset: Any, found: Sequence[Detections], metric: str = "bbox") -> float:
    """COCO AP over IoU 0.50:0.95, all areas, at most 100 detections per image, on the 0-1 scale.

    Args:
        dataset: the data room's Dataset; or mmdet's CocoDataset, or anything with its ``coco``
            (a pycocotools COCO), ``img_ids`` and ``cat_ids``, in the order of images and labels.
        found: one entry for each of ``img_ids``.
        metric: ``bbox`` or ``segm``.

    Raises:
        AccuracyError: the number of images differs, nothing was detected, masks are missing, a
            label has no category, or the annotations hold no object.
    """
    dataset = _annotations(dataset)
    known = _KNOWN.setdefault(dataset.coco, {})
    key = _digest(dataset, found, metric)
    if key not in known:
        # Else Python looks for cycles among the many entries, over and again, and finds none: a
        # third of the time.
        with without_collection():
            known[key] = _evaluate(dataset, to_coco(dataset, found, metric), metric)
    return known[key]


def _evaluate(dataset: Any, results: list[dict[str, Any]], metric: str) -> float:
    from faster_coco_eval import COCOeval_faster

    without_outlines(results)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval_faster(dataset.coco, dataset.coco.loadRes(results), metric)
        evaluation.params.catIds = list(dataset.cat_ids)
        evaluation.params.imgIds = list(dataset.img_ids)
        evaluation.params.maxDets = list(_MAX_DETS)
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU threshold, recall, category, area range, max detections); -1: a category has no object
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    known = precision[precision > -1]
    if not known.size:
        raise AccuracyError(f"{metric} AP is undefined: the annotations hold no object to find")
    return float(np.mean(known))


def to_coco(dataset: Any, found: Sequence[Detections], metric: str) -> list[dict[str, Any]]:
    """Detections as the entries of a COCO result file.

    As mmdet writes them: ``bbox`` is x, y, width, height in pixels; for ``segm`` the mask as RLE,
    without ``bbox``, so that areas are those of masks. For arguments and errors see
    :func:`average_precision`.
    """
    dataset = _annotations(dataset)
    images, categories = list(dataset.img_ids), list(dataset.cat_ids)
    if len(images) != len(found):
        raise AccuracyError(f"{len(found)} image(s) were run, the data set has {len(images)}")
    results: list[dict[str, Any]] = []
    for image, one in zip(images, found, strict=True):
        if metric == "segm" and one.masks is None:
            raise AccuracyError("segm AP needs masks, and the detections have none")
        for k in range(len(one)):
            label = int(one.labels[k])
            if not 0 <= label < len(categories):
                raise AccuracyError(f"label {label} is none of the {len(categories)} categories")
            entry: dict[str, Any] = {
                "image_id": image,
                "category_id": categories[label],
                "score": float(one.scores[k]),
            }
            if metric == "segm":
                assert one.masks is not None
                known = one.masks if isinstance(one.masks, RunLengthMasks) else None
                entry["segmentation"] = known.encoded[k] if known else encode(one.masks[k])
            else:
                x1, y1, x2, y2 = one.boxes[k].tolist()
                entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            results.append(entry)
    if not results:
        raise AccuracyError(f"nothing was detected in {len(images)} image(s)")
    return results


def _digest(dataset: Any, found: Sequence[Detections], metric: str) -> str:
    """A hash of what AP depends on, the annotations aside."""
    digest = hashlib.sha256(repr((metric, list(dataset.img_ids), list(dataset.cat_ids))).encode())
    for one in found:
        digest.update(len(one).to_bytes(8, "little"))
        # The areas of segm are those of the masks.
        boxes = (one.boxes,) if metric == "bbox" else ()
        for array in (*boxes, one.scores, one.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        if metric == "segm" and one.masks is not None:
            known = one.masks if isinstance(one.masks, RunLengthMasks) else None
            encoded = known.encoded if known else [encode(mask) for mask in one.masks]
            for rle in encoded:
                digest.update(repr(rle).encode())
    return digest.hexdigest()


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
        for suffix, side, found in (
            ("_torch", "PyTorch", reference),
            ("", "the backend", candidate),
        ):
            try:
                figures[f"{metric}_mAP{suffix}"] = average_precision(dataset, found, metric)
            except AccuracyError as error:
                raise AccuracyError(f"{side}: {error}") from error
        figures[f"{metric}_mAP_delta"] = figures[f"{metric}_mAP"] - figures[f"{metric}_mAP_torch"]
    return figures
