"""The commands' evaluation is mmdet's, without its entries for every box."""

import contextlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_detections import middling

from pytest_onnxdet.commands.common import open_config
from pytest_onnxdet.commands.evaluate import evaluate, open_data
from pytest_onnxdet.commands.results import mmdet_result
from pytest_onnxdet.data.datasets import Dataset
from pytest_onnxdet.data.detections import Detections


@pytest.fixture
def scenes(few: Path) -> Dataset:
    return open_data(open_config("mini:mask_rcnn", {"data.test.ann_file": str(few)}))


def in_mmdets_format(results: list[Detections]) -> list[Any]:
    return [mmdet_result(one, 3) for one in results]


@pytest.mark.parametrize(
    ("metrics", "options"),
    [
        (["bbox"], {}),
        (["bbox", "segm"], {}),
        (["segm", "proposal", "bbox"], {"classwise": True}),
        (["bbox"], {"iou_thrs": [0.8], "metric_items": ["mAP"]}),
        (["proposal"], {"proposal_nums": (1, 3, 5)}),
    ],
    ids=lambda value: "-".join(value) or "plain",
)
def test_figures_are_mmdets(scenes: Dataset, metrics: list[str], options: dict[str, Any]) -> None:
    import mmdet.datasets.coco as place

    results = middling(scenes)
    before = place.mmcv, place.COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = scenes.coco.evaluate(in_mmdets_format(results), metric=metrics, **options)
        figures = evaluate(scenes, results, metrics, options)

    assert figures == wanted
    assert any(0.1 < value < 0.9 for value in figures.values() if not isinstance(value, str))
    assert (place.mmcv, place.COCOeval) == before
    assert "loadRes" not in vars(scenes.coco.coco)


def test_ids_may_be_in_any_order_and_of_any_kind(scenes: Dataset) -> None:
    """pycocotools sorts images and categories, mmdet goes by the file."""
    coco = scenes.coco.coco
    names = {image: f"{(5 * k) % 6}.png" for k, image in enumerate(scenes.coco.img_ids)}
    for entry in itertools.chain(coco.dataset["images"], scenes.coco.data_infos):
        entry["id"] = names.get(entry["id"], entry["id"])
    categories = {1: 30, 2: 20, 3: 10}
    for entry in coco.dataset["categories"]:
        entry["id"] = categories[entry["id"]]
    for entry in coco.dataset["annotations"]:
        entry["image_id"] = names[entry["image_id"]]
        entry["category_id"] = categories[entry["category_id"]]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    scenes.coco.img_ids = list(names.values())
    scenes.coco.cat_ids, scenes.coco.cat2label = [30, 20, 10], {30: 0, 20: 1, 10: 2}
    results = middling(scenes)
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = scenes.coco.evaluate(in_mmdets_format(results), metric=["bbox", "proposal"])
        figures = evaluate(scenes, results, ["bbox", "proposal"], {})
    assert figures == wanted and 0.1 < figures["bbox_mAP"] < 0.9


def test_no_entries_are_made(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry takes a kilobyte: with 100 boxes an image, 500 MB of COCO val2017."""
    from mmdet.datasets import CocoDataset

    def refused(self: Any, results: Any) -> None:
        raise AssertionError("entries")

    monkeypatch.setattr(CocoDataset, "_det2json", refused)
    monkeypatch.setattr(CocoDataset, "_segm2json", refused)
    with contextlib.redirect_stdout(io.StringIO()):
        assert 0.1 < evaluate(scenes, middling(scenes), ["bbox"], {})["bbox_mAP"] < 0.9


def test_files_that_are_asked_for_are_json(scenes: Dataset, tmp_path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluate(
            scenes, middling(scenes), ["bbox"], {"jsonfile_prefix": str(tmp_path / "kept")}
        )
    entries = json.loads((tmp_path / "kept.bbox.json").read_text())
    assert {"image_id", "bbox", "score", "category_id"} == set(entries[0])
    assert 0.1 < results["bbox_mAP"] < 0.9


def test_a_failure_leaves_mmdet_as_it_was(scenes: Dataset) -> None:
    import mmdet.datasets.coco as place

    before = place.mmcv, place.COCOeval
    with pytest.raises(KeyError), contextlib.redirect_stdout(io.StringIO()):
        evaluate(scenes, middling(scenes), ["bbox"], {"metric_items": ["none"]})
    assert (place.mmcv, place.COCOeval) == before
    assert "loadRes" not in vars(scenes.coco.coco)
    assert "format_results" not in vars(scenes.coco)


def test_nothing_found_is_said(scenes: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    none = [
        Detections(np.zeros((0, 4), "f4"), np.zeros(0, "f4"), np.zeros(0, "i8")) for _ in range(6)
    ]
    assert evaluate(scenes, none, ["bbox"], {}) == {}
    assert "The testing results of the whole dataset is empty." in "".join(capsys.readouterr())


def test_a_subclass_reads_its_files_as_it_likes(scenes: Dataset) -> None:
    """As Cityscapes, whose files have names of its own choosing."""
    from mmdet.datasets import CocoDataset

    class Reader(CocoDataset):  # type: ignore[misc]
        def evaluate(
            self, results: Any, metric: Any, outfile_prefix: Any = None
        ) -> dict[str, float]:
            files, folder = self.format_results(results, outfile_prefix)
            entries = json.loads(Path(files["bbox"]).read_text())
            if folder is not None:
                folder.cleanup()
            return {"entries": len(entries)}

    result = middling(scenes)
    scenes.coco.__class__ = Reader
    assert evaluate(scenes, result, ["bbox"], {}) == {"entries": sum(map(len, result))}


def test_what_reaches_the_matching_by_other_ways_is_mmdets(scenes: Dataset) -> None:
    from mmdet.datasets import CocoDataset

    class Halved(CocoDataset):  # type: ignore[misc]
        def xyxy2xywh(self, bbox: Any) -> list[float]:
            x, y, width, height = super().xyxy2xywh(bbox)
            return [x, y, width / 2, height]

    results = middling(scenes)
    with contextlib.redirect_stdout(io.StringIO()):
        before = evaluate(scenes, results, ["bbox"], {})
        scenes.coco.__class__ = Halved
        wanted = scenes.coco.evaluate(in_mmdets_format(results), metric=["bbox"])
        assert evaluate(scenes, results, ["bbox"], {}) == wanted != before
        # Several objects of one number, and object 0, are special to pycocotools.
        scenes.coco.__class__ = CocoDataset
        for numbers in ([1] * 4, [0]):
            for place, number in enumerate(numbers):
                scenes.coco.coco.dataset["annotations"][place]["id"] = number
            scenes.coco.coco.createIndex()
            wanted = scenes.coco.evaluate(in_mmdets_format(results), metric=["bbox"])
            assert evaluate(scenes, results, ["bbox"], {}) == wanted != before


def test_a_score_that_is_not_a_number_is_refused() -> None:
    from pytest_onnxdet.commands.common import CommandError
    from pytest_onnxdet.commands.results import check_detections

    one = Detections(np.zeros((1, 4), "f4"), np.float32([np.nan]), np.zeros(1, "i8"))
    with pytest.raises(CommandError, match="not a number"):
        check_detections(one, 3)


def test_a_subclass_that_writes_files_of_its_own(scenes: Dataset) -> None:
    from mmdet.datasets import CocoDataset

    class Writer(CocoDataset):  # type: ignore[misc]
        def results2json(self, results: Any, outfile_prefix: str) -> dict[str, str]:
            files = dict(super().results2json(results, outfile_prefix))
            assert json.loads(Path(files["bbox"]).read_text())
            return files

    scenes.coco.__class__ = Writer
    with contextlib.redirect_stdout(io.StringIO()):
        result = evaluate(scenes, middling(scenes), ["bbox"], {})
    assert 0.1 < result["bbox_mAP"] < 0.9
