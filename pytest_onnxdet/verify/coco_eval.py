"""COCO's figures from a stream of images: what is kept of a detection is its score and its match.

pycocotools makes a Python object of every box, a kilobyte each, and matches them in Python. hotcoco
takes a few images at a time and gives the same figures, to the last bit. Where it is not installed
pycocotools does the same work, in more time and memory.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.masks import RunLengthMasks

_CHUNK = 100  # images at a time


@dataclass(frozen=True)
class DatasetDetections:
    """What was detected in a data set.

    Attributes:
        images: the images' COCO ids.
        categories: the labels' COCO ids, by label.
        detections: one entry for each of ``images``, all of them with masks or all without; no
            score is NaN.
    """

    images: Sequence[Any]
    categories: Sequence[Any]
    detections: Sequence[Detections]


class StreamedEval(COCOeval):
    """pycocotools' COCOeval of detections that are no COCO result file.

    ``evaluate`` has done all once it returns, ``accumulate`` too: there is no ``evalImgs``.

    Args:
        truth: a pycocotools COCO; of an object ``area``, ``bbox``, ``category_id``, ``iscrowd``
            and, for masks, ``segmentation`` count.
        results: what is evaluated.
        kind: ``bbox`` or ``segm``. Areas are then those of boxes or of masks, as mmdet has them.

    Raises:
        ValueError: a score is NaN, or hotcoco refuses something else that it is given.
    """

    def __init__(self, truth: Any, results: DatasetDetections, kind: str) -> None:
        super().__init__(truth, None, kind)
        self.results = results

    eval: dict[str, Any]

    def evaluate(self) -> None:
        """Matches and accumulates; ``params`` are looked at now."""
        self.params.imgIds = np.unique(self.params.imgIds).tolist()
        if self.params.useCats:  # else their order decides between equal scores
            self.params.catIds = np.unique(self.params.catIds).tolist()
        self.params.maxDets = sorted(self.params.maxDets)
        # Ids may be anything that can be sorted; hotcoco's are whole numbers.
        names = range(len(self.params.catIds) if self.params.useCats else 1)
        categories = [{"id": name, "name": str(name)} for name in names]
        try:
            import hotcoco
        except ImportError:
            self.eval = self._by_pycocotools(categories)
        else:
            self.eval = self._by_hotcoco(hotcoco, categories)

    def _by_hotcoco(self, hotcoco: Any, categories: list[Any]) -> dict[str, Any]:
        theirs = hotcoco.Params(self.params.iouType)
        theirs.iou_thrs = list(map(float, self.params.iouThrs))
        theirs.rec_thrs = list(map(float, self.params.recThrs))
        theirs.max_dets = self.params.maxDets
        theirs.area_rng = [list(map(float, one)) for one in self.params.areaRng]
        theirs.area_rng_lbl = list(self.params.areaRngLbl)
        stream = hotcoco.StreamingEval(categories, self.params.iouType, params=theirs)
        for images, objects, detections in self._chunks():
            stream.update(images, objects, detections)
        matched = stream.finalize()
        matched.accumulate()
        return dict(matched.eval or {})

    def _by_pycocotools(self, categories: list[Any]) -> dict[str, Any]:
        whole: tuple[list[Any], list[Any], list[Any]] = [], [], []
        for chunk in self._chunks():
            for part, more in zip(whole, chunk, strict=True):
                part += more
        images, objects, detections = whole
        if any(one["score"] != one["score"] for one in detections):
            raise ValueError("a score is NaN")
        # Numbered from 1 on: pycocotools takes the match of object 0 for none.
        for number, one in enumerate(objects, 1):
            one["id"] = number
        truth, detected = COCO(), COCO()
        truth.dataset = {"images": images, "categories": categories, "annotations": objects}
        for number, one in enumerate(detections, 1):
            box = one.get("bbox")
            area = _area(one["segmentation"]) if box is None else box[2] * box[3]
            one |= {"id": number, "area": area, "iscrowd": 0}
        detected.dataset = {**truth.dataset, "annotations": detections}
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            truth.createIndex()
            detected.createIndex()
            slow = COCOeval(truth, detected, self.params.iouType)
            for name in ("iouThrs", "recThrs", "maxDets", "areaRng", "areaRngLbl"):
                setattr(slow.params, name, getattr(self.params, name))
            slow.evaluate()
            slow.accumulate()
        return dict(slow.eval)

    def accumulate(self, p: Any = None) -> None:
        """Nothing is left to do; other parameters than those of ``evaluate`` are refused."""
        if p is not None:
            raise NotImplementedError("figures are accumulated with the params of evaluate()")

    def _chunks(self) -> Iterator[tuple[list[Any], list[Any], list[Any]]]:
        """Images, objects and detections, a few images at a time, in the order of image ids."""
        at = {image: index for index, image in enumerate(self.results.images)}
        rank = {category: number for number, category in enumerate(self.params.catIds)}
        for start in range(0, len(self.params.imgIds), _CHUNK):
            images: list[Any] = []
            objects: list[Any] = []
            detections: list[Any] = []
            for number, image in enumerate(self.params.imgIds[start : start + _CHUNK], start):
                info = self.cocoGt.imgs[image]
                size = {name: info[name] for name in ("height", "width") if name in info}
                images.append({"id": number, **size})
                # Numbers of their own: a json's may be of any size.
                for one in self._objects(image, number, rank):
                    one["id"] = len(objects) + 1
                    objects.append(one)
                if image in at:
                    detections += self._detections(self.results.detections[at[image]], number, rank)
            yield images, objects, detections

    def _objects(self, image: Any, number: int, rank: dict[Any, int]) -> Iterator[dict[str, Any]]:
        every = self.cocoGt.imgToAnns.get(image, ())
        known = [one for one in every if one["category_id"] in rank]
        for one in sorted(known, key=lambda one: rank[one["category_id"]]):
            entry = {
                "image_id": number,
                "category_id": rank[one["category_id"]] if self.params.useCats else 0,
                "area": one["area"],
                "bbox": one["bbox"],
                "iscrowd": int(one.get("iscrowd", 0)),
            }
            if self.params.iouType == "segm":
                entry["segmentation"] = self.cocoGt.annToRLE(one)
            yield entry

    def _detections(
        self, result: Detections, number: int, rank: dict[Any, int]
    ) -> Iterator[dict[str, Any]]:
        """Those of one image, class by class, as mmdet writes them into a COCO result file."""
        masks, scores = None, result.scores
        if self.params.iouType == "segm":
            masks = result.packed().masks
            assert isinstance(masks, RunLengthMasks)
            encoded = masks.encoded
            scores = result.scores if result.mask_scores is None else result.mask_scores
        corners = result.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        ranks = [rank.get(self.results.categories[label], -1) for label in result.labels]
        for k in np.argsort(ranks, kind="stable"):
            if ranks[k] < 0:
                continue  # of a category that is not looked at
            entry: dict[str, Any] = {
                "image_id": number,
                "category_id": ranks[k] if self.params.useCats else 0,
                "score": float(scores[k]),
            }
            entry |= {"bbox": boxes[k]} if masks is None else {"segmentation": encoded[k]}
            yield entry


def _area(mask: Any) -> float:
    """A run-length mask's, as pycocotools has it in a result file that it loads."""
    from pycocotools import mask as runs

    return float(runs.area(mask))
