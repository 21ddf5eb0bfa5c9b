"""The streamed evaluation gives pycocotools' figures, bit by bit."""

import contextlib
import io
import sys

import numpy as np
import pytest
from mmcv import Config
from scene_detections import middling, pycocotools_eval

from pytest_onnxdet.data.datasets import Dataset, builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.masks import RunLengthMasks
from pytest_onnxdet.verify import coco_eval
from pytest_onnxdet.verify.coco_eval import DatasetDetections, StreamedEval


@pytest.fixture(params=["hotcoco", "pycocotools"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both give the same figures: with None for a module its import fails."""
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)
    name: str = request.param
    return name


def test_the_library_is_the_one_that_is_meant(
    shapes: Dataset, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    for name in ("_by_hotcoco", "_by_pycocotools"):
        monkeypatch.setattr(StreamedEval, name, lambda *_, name=name: used.append(name) or {})
    coco = shapes.coco
    StreamedEval(
        coco.coco, DatasetDetections(coco.img_ids, coco.cat_ids, middling(shapes)), "bbox"
    ).evaluate()
    assert used == [f"_by_{library}"]


@pytest.fixture
def shapes() -> Dataset:
    config = Config({"data": {"test": {"pipeline": []}}})
    return load_dataset(builtin_datasets().get("shapes"), config, limit=24)


def _none() -> Detections:
    return Detections(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        RunLengthMasks([]),
    )


@pytest.mark.parametrize("by_category", [True, False])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_figures_are_pycocotools(shapes: Dataset, kind: str, by_category: bool) -> None:
    coco = shapes.coco
    for number, entry in enumerate(coco.coco.anns.values()):
        entry["iscrowd"] = int(number % 7 == 0)
    results = middling(shapes)
    with contextlib.redirect_stdout(io.StringIO()):
        slow = pycocotools_eval(shapes, results, kind)
        streamed = StreamedEval(
            coco.coco, DatasetDetections(coco.img_ids, coco.cat_ids, results), kind
        )
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


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_chunks_make_no_difference(
    shapes: Dataset, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those in which nothing was found, or in which there is nothing to find."""
    monkeypatch.setattr(coco_eval, "_CHUNK", 5)
    coco, results = shapes.coco, middling(shapes)
    results[5:10] = [_none() for _ in range(5)]
    empty = set(coco.img_ids[10:15])
    left = [one for one in coco.coco.dataset["annotations"] if one["image_id"] not in empty]
    coco.coco.dataset["annotations"] = left
    with contextlib.redirect_stdout(io.StringIO()):
        coco.coco.createIndex()
        slow = pycocotools_eval(shapes, results, kind)
        streamed = StreamedEval(
            coco.coco, DatasetDetections(coco.img_ids, coco.cat_ids, results), kind
        )
        for one in (slow, streamed):
            one.params.imgIds = coco.img_ids
            one.evaluate()
            one.accumulate()
    np.testing.assert_array_equal(streamed.eval["precision"], slow.eval["precision"])
    assert not empty & set(coco.coco.imgToAnns)  # the annotations are as before


def test_object_0_is_an_object(shapes: Dataset) -> None:
    """pycocotools takes it for none: whoever finds it has found nothing."""
    coco = shapes.coco
    for number, entry in enumerate(coco.coco.dataset["annotations"]):
        entry["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        coco.coco.createIndex()
    perfect = [
        Detections(one["bboxes"], np.ones(len(one["labels"]), np.float32), one["labels"])
        for one in map(coco.get_ann_info, range(24))
    ]
    streamed = StreamedEval(
        coco.coco, DatasetDetections(coco.img_ids, coco.cat_ids, perfect), "bbox"
    )
    streamed.params.imgIds = coco.img_ids
    streamed.evaluate()
    assert streamed.eval["precision"][:, :, :, 0, -1].min() == 1.0


def test_images_and_categories_that_are_not_asked_for_are_left_out(shapes: Dataset) -> None:
    coco, results = shapes.coco, middling(shapes)
    some = DatasetDetections(coco.img_ids[:10], coco.cat_ids, results[:10])
    with contextlib.redirect_stdout(io.StringIO()):
        slow = pycocotools_eval(shapes, [*results[:10], *[_none() for _ in range(14)]], "bbox")
        streamed = StreamedEval(coco.coco, some, "bbox")
        for one in (slow, streamed):
            one.params.imgIds, one.params.catIds = coco.img_ids[:16], coco.cat_ids[:2]
            one.evaluate()
            one.accumulate()
    np.testing.assert_array_equal(streamed.eval["precision"], slow.eval["precision"])
    with pytest.raises(NotImplementedError):
        streamed.accumulate(streamed.params)


def test_a_score_that_is_no_number_is_refused(shapes: Dataset) -> None:
    coco, results = shapes.coco, middling(shapes)
    results[0].scores[0] = np.nan
    streamed = StreamedEval(
        coco.coco, DatasetDetections(coco.img_ids, coco.cat_ids, results), "bbox"
    )
    with pytest.raises(ValueError):
        streamed.evaluate()


def test_ids_of_objects_may_be_of_any_size(shapes: Dataset) -> None:
    coco = shapes.coco

    def figures() -> object:
        found = DatasetDetections(coco.img_ids, coco.cat_ids, middling(shapes))
        evaluation = StreamedEval(coco.coco, found, "bbox")
        evaluation.evaluate()
        return evaluation.eval["precision"].tolist()

    before = figures()
    for entry in coco.coco.anns.values():
        entry["id"] += 2**70
    with contextlib.redirect_stdout(io.StringIO()):
        coco.coco.createIndex()
    assert figures() == before
