"""mmdet's COCO evaluation of detections that never become a COCO result file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.verify.coco_eval import DatasetDetections, StreamedEval

# The methods through which results reach the matching.
_OWN = (
    *("evaluate", "evaluate_det_segm", "format_results"),
    *("results2json", "_det2json", "_segm2json", "xyxy2xywh"),
)


def is_streamed(dataset: Any) -> bool:
    """Whether `streamed` does for this data set what its ``evaluate`` would.

    A subclass of CocoDataset may match and count as it likes: LVIS has other figures, Cityscapes
    reads files. pycocotools counts a match with object 0 as no match, and of objects with one
    number sees the last only.
    """
    from mmdet.datasets import CocoDataset
    from pycocotools.coco import COCO

    kind, truth = type(dataset), dataset.coco
    own = all(getattr(kind, name, None) is getattr(CocoDataset, name) for name in _OWN)
    if not own or getattr(type(truth), "loadRes", None) is not COCO.loadRes:
        return False
    numbered = 0 not in truth.anns and len(truth.anns) == len(truth.dataset["annotations"])
    return numbered


@contextlib.contextmanager
def streamed(dataset: Any, detections: Sequence[Detections]) -> Iterator[None]:
    """For the duration of the block, ``dataset.evaluate`` evaluates these, whatever its arguments.

    mmdet makes an entry of every box for pycocotools, which copies it and loops over it in Python:
    50 times the memory of the detections, and more time than a small detector needs for them.
    The figures are the same, to the last bit.

    Args:
        dataset: one that `is_streamed`; it and mmdet are as before afterwards.
        detections: one entry for each of its images.
    """
    import mmdet.datasets.coco as place

    def format_results(results: Any, jsonfile_prefix: Any = None, **more: Any) -> Any:
        kinds = ["bbox", "proposal"]
        if all(image.masks is not None for image in detections):
            kinds.append("segm")
        return dict.fromkeys(kinds), None

    def load_results(entries: Any) -> DatasetDetections:
        if not any(len(image) for image in detections):
            raise IndexError("no entries")  # as pycocotools; mmdet says what it means
        return DatasetDetections(dataset.img_ids, dataset.cat_ids, detections)

    own = place.mmcv, place.COCOeval
    # Of masks, mmdet goes through the entries and takes the boxes out: here are none.
    place.mmcv, place.COCOeval = SimpleNamespace(load=lambda file: ()), StreamedEval
    dataset.format_results, dataset.coco.loadRes = format_results, load_results
    try:
        yield
    finally:
        place.mmcv, place.COCOeval = own
        del dataset.format_results, dataset.coco.loadRes
