"""The streamed evaluation gives pycocotools' figures, bit by bit."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from mmcv import Config

from pytest_onnxdet.commands.results import mmdet_result
from pytest_onnxdet.data.datasets import Dataset, builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.evaluation import Found, StreamedEval


@pytest.fixture
def shapes() -> Dataset:
    config = Config({"data": {"test": {"pipeline": []}}})
    return load_dataset(builtin_datasets().get("shapes"), config, limit=24)


def middling(dataset: Dataset) -> list[Detections]:
    """Found, missed, doubled, shifted and mislabelled objects, some of equal score."""
    rng = np.random.default_rng(0)
    found = []
    for index, info in enumerate(dataset.coco.data_infos):
        known = dataset.coco.get_ann_info(index)
        kept = rng.random(3 * len(known["labels"])) > 0.3
        boxes, labels = (
            np.concatenate([known["bboxes"]] * 3)[kept],
            np.tile(known["labels"], 3)[kept],
        )
        shifted = rng.random(len(boxes)) < 0.8
        boxes = np.clip(boxes + rng.normal(0, 6, boxes.shape) * shifted[:, None], 0, None)
        other = rng.random(len(labels)) < 0.1
        labels = np.where(other, rng.integers(0, 3, len(labels)), labels)
        scores = np.sort(rng.random(len(labels)).round(1))[::-1]
        masks = np.zeros((len(boxes), info["height"], info["width"]), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
        found.append(
            Detections(
                boxes.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64), masks
            )
        )
    return found


def by_pycocotools(dataset: Dataset, found: list[Detections], kind: str) -> Any:
    from pycocotools.cocoeval import COCOeval

    boxes, masks = dataset.coco._segm2json([mmdet_result(one, 3) for one in found])
    for entry in masks:
        del entry["bbox"]
    results = dataset.coco.coco.loadRes(boxes if kind == "bbox" else masks)
    return COCOeval(dataset.coco.coco, results, kind)


@pytest.mark.parametrize("by_category", [True, False])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_figures_are_pycocotools(shapes: Dataset, kind: str, by_category: bool) -> None:
    coco = shapes.coco
    for number, entry in enumerate(coco.coco.anns.values()):
        entry["iscrowd"] = int(number % 7 == 0)
    found = middling(shapes)
    with contextlib.redirect_stdout(io.StringIO()):
        slow = by_pycocotools(shapes, found, kind)
        streamed = StreamedEval(coco.coco, Found(coco.img_ids, coco.cat_ids, found), kind)
        for one in (slow, streamed):
            one.params.imgIds, one.params.catIds = coco.img_ids, coco.cat_ids
            one.params.maxDets, one.params.useCats = [3, 10, 100], int(by_category)
            one.evaluate()
            one.accumulate()
            one.summarize()

    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(streamed.eval[name], slow.eval[name])
    np.testing.assert_array_equal(streamed.stats, slow.stats)
    assert 0.1 < streamed.stats[1] < 0.9


def test_all_chunks_are_fed(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_onnxdet.data import evaluation

    coco, found = shapes.coco, middling(shapes)

    def figures() -> Any:
        made = StreamedEval(coco.coco, Found(coco.img_ids, coco.cat_ids, found), "bbox")
        made.params.imgIds = coco.img_ids
        made.evaluate()
        return made.eval["precision"]

    at_once = figures()
    monkeypatch.setattr(evaluation, "_CHUNK", 5)
    np.testing.assert_array_equal(figures(), at_once)
