"""The compiled matching gives pycocotools' figures, and mmdet is as before afterwards."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.data.datasets import Dataset, builtin_datasets, load_dataset
from pytest_onnxdet.data.evaluation import compiled_matching
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.registry import builtin_registry


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    config = load_config(builtin_registry().get("mask_rcnn"))
    return load_dataset(builtin_datasets().get("shapes"), config, limit=24)


def middling(dataset: Dataset) -> list[Any]:
    """Found, missed, doubled, shifted and mislabelled objects, some of equal score."""
    rng = np.random.default_rng(0)
    results = []
    for index, info in enumerate(dataset.coco.data_infos):
        known = dataset.coco.get_ann_info(index)
        boxes: list[list[Any]] = [[], [], []]
        masks: list[list[Any]] = [[], [], []]
        for box, label in [*zip(known["bboxes"], known["labels"], strict=True)] * 3:
            if rng.random() < 0.3:
                continue
            moved = np.clip(box + rng.normal(0, 6, 4) * (rng.random() < 0.8), 0, None)
            where = int(rng.integers(3)) if rng.random() < 0.1 else int(label)
            boxes[where].append([*moved, round(rng.random(), 1)])
            mask = np.zeros((info["height"], info["width"]), bool)
            x1, y1, x2, y2 = moved.astype(int)
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
            masks[where].append(mask)
        rows = [np.array(one, np.float32).reshape(-1, 5) for one in boxes]
        results.append((rows, masks))
    return results


def figures(dataset: Dataset, results: list[Any], metric: str, **options: Any) -> dict[str, Any]:
    if metric != "segm":
        results = [boxes for boxes, _ in results]
    with contextlib.redirect_stdout(io.StringIO()):
        return dict(dataset.coco.evaluate(results, metric=metric, logger="silent", **options))


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("bbox", {}),
        ("segm", {}),
        ("proposal", {}),
        ("bbox", {"classwise": True, "iou_thrs": [0.6]}),
    ],
    ids=["bbox", "segm", "proposal", "options"],
)
def test_the_figures_are_pycocotools(shapes: Dataset, metric: str, options: dict[str, Any]) -> None:
    results = middling(shapes)
    if metric == "segm":
        from pytest_onnxdet.data.datasets import _encoded

        results = [_encoded(result) for result in results]
    slow = figures(shapes, results, metric, **options)

    with compiled_matching():
        assert figures(shapes, results, metric, **options) == slow
    assert any(0.1 < float(value) < 0.9 for value in slow.values() if not isinstance(value, str))


def test_mmdet_is_left_as_it_was() -> None:
    import mmdet.datasets.coco as place

    own = place.COCOeval
    with pytest.raises(ZeroDivisionError), compiled_matching():
        assert place.COCOeval is not own
        raise ZeroDivisionError

    assert place.COCOeval is own
