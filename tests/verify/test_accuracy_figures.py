"""The suite's AP is pycocotools'."""

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mmcv import Config
from scene_detections import middling, pycocotools_eval
from verify_samples import nudge

from pytest_onnxdet.data.datasets import Dataset, builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.verify.accuracy import average_precision

IMAGES = 16


@pytest.fixture
def scenes() -> Dataset:
    config = Config({"data": {"test": {"pipeline": []}}})
    return load_dataset(builtin_datasets().get("shapes"), config, limit=IMAGES)


def by_pycocotools(dataset: Dataset, results: list[Detections], metric: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = pycocotools_eval(dataset, results, metric)
        evaluation.params.catIds = list(dataset.coco.cat_ids)
        evaluation.params.imgIds = list(dataset.coco.img_ids)
        evaluation.params.maxDets = [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    return float(np.mean(precision[precision > -1]))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("metric", ["bbox", "segm"])
def test_the_figure_is_pycocotools(scenes: Dataset, metric: str, seed: int) -> None:
    results = middling(scenes, seed)

    ours = average_precision(scenes, results, metric)

    assert ours == by_pycocotools(scenes, results, metric)
    assert 0.1 < ours < 0.9


def test_a_class_without_objects_does_not_count(scenes: Dataset) -> None:
    results = middling(scenes)
    info = scenes.coco.coco
    only = {ann["id"]: ann for ann in info.anns.values() if ann["category_id"] != 2}
    info.dataset["annotations"] = list(only.values())
    with contextlib.redirect_stdout(io.StringIO()):
        info.createIndex()

    ours = average_precision(scenes, results)
    assert ours == by_pycocotools(scenes, results, "bbox")


@pytest.mark.parametrize(
    "change",
    [
        lambda one: nudge(one, "boxes", 0, np.float32(40)),
        lambda one: nudge(one, "scores", 0, np.float32(-0.5)),
        lambda one: replace(one, labels=(one.labels + 1) % 3),
    ],
    ids=["boxes", "scores", "labels"],
)
def test_other_detections_have_another_figure(scenes: Dataset, change: Any) -> None:
    results = middling(scenes)
    changed = [change(one) if len(one) else one for one in results]

    assert average_precision(scenes, changed) != average_precision(scenes, results)
    ours = average_precision(scenes, changed)
    assert ours == by_pycocotools(scenes, changed, "bbox")


def test_other_masks_have_another_figure(scenes: Dataset) -> None:
    results = middling(scenes)
    rolled = [
        replace(one, masks=np.stack([np.roll(m, 5, axis=1) for m in one.masks]))
        if len(one)
        else one
        for one in results
    ]

    assert average_precision(scenes, rolled, "segm") != average_precision(scenes, results, "segm")
    assert average_precision(scenes, rolled, "bbox") == average_precision(scenes, results, "bbox")
