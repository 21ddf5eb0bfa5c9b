"""The commands' evaluation is mmdet's, without its detours."""

import contextlib
import copy
import gc
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.commands.common import open_config
from pytest_onnxdet.commands.evaluate import evaluate, open_data
from pytest_onnxdet.data.datasets import Dataset, _encoded


@pytest.fixture
def scenes(few: Path) -> Dataset:
    return open_data(open_config("mini:mask_rcnn", {"data.test.ann_file": str(few)}))


def middling(dataset: Dataset) -> list[Any]:
    """Shaken objects with boxy masks and random scores."""
    rng = np.random.default_rng(0)
    results = []
    for index, info in enumerate(dataset.coco.data_infos):
        known = dataset.coco.get_ann_info(index)
        boxes: list[Any] = [[], [], []]
        masks: list[Any] = [[], [], []]
        for box, label in zip(known["bboxes"], known["labels"], strict=True):
            moved = np.clip(box + rng.normal(0, 2, 4), 0, None)
            boxes[label].append([*moved, rng.random()])
            mask = np.zeros((info["height"], info["width"]), bool)
            x1, y1, x2, y2 = moved.astype(int)
            mask[y1 : y2 + 1, x1 : x2 + 1] = True
            masks[label].append(mask)
        rows = [np.array(one, np.float32).reshape(-1, 5) for one in boxes]
        results.append(_encoded((rows, masks)))
    return results


@pytest.mark.parametrize(
    ("metrics", "options"),
    [
        (["bbox"], {}),
        (["bbox", "segm"], {}),
        (["segm", "proposal", "bbox"], {"classwise": True}),
        (["bbox"], {"iou_thrs": [0.8], "metric_items": ["mAP"]}),
    ],
    ids=lambda value: "-".join(value) or "plain",
)
def test_figures_are_mmdets(scenes: Dataset, metrics: list[str], options: dict[str, Any]) -> None:
    import mmdet.datasets.coco as place

    results = middling(scenes)
    before = place.mmcv, place.COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = scenes.coco.evaluate(copy.deepcopy(results), metric=metrics, **options)
        found = evaluate(scenes, copy.deepcopy(results), metrics, options)

    assert found == wanted
    assert any(0.1 < value < 0.9 for value in found.values() if not isinstance(value, str))
    assert (place.mmcv, place.COCOeval) == before
    assert "loadRes" not in vars(scenes.coco.coco) and gc.isenabled()


def test_files_that_are_asked_for_are_json(scenes: Dataset, tmp_path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate(scenes, middling(scenes), ["bbox"], {"jsonfile_prefix": str(tmp_path / "kept")})
    entries = json.loads((tmp_path / "kept.bbox.json").read_text())
    assert {"image_id", "bbox", "score", "category_id"} == set(entries[0])


def test_a_failure_leaves_mmdet_as_it_was(scenes: Dataset) -> None:
    import mmdet.datasets.coco as place

    before = place.mmcv, place.COCOeval
    with pytest.raises(AssertionError), contextlib.redirect_stdout(io.StringIO()):
        evaluate(scenes, middling(scenes)[:2], ["bbox"], {})
    assert (place.mmcv, place.COCOeval) == before
    assert "loadRes" not in vars(scenes.coco.coco) and gc.isenabled()


def test_a_subclass_reads_its_files_as_it_likes(scenes: Dataset) -> None:
    """As Cityscapes, whose files have names of its own choosing."""
    import mmdet.datasets.coco as place
    from mmdet.datasets import CocoDataset

    class Reader(CocoDataset):  # type: ignore[misc]
        def evaluate(
            self, results: Any, metric: Any, outfile_prefix: Any = None
        ) -> dict[str, float]:
            assert place.COCOeval is not evaluator  # the matching is compiled all the same
            files, folder = self.format_results(results, outfile_prefix)
            entries = json.loads(Path(files["bbox"]).read_text())
            if folder is not None:
                folder.cleanup()
            return {"entries": len(entries)}

    evaluator = place.COCOeval
    results = middling(scenes)
    scenes.coco.__class__ = Reader
    wanted = sum(len(rows) for boxes, _ in results for rows in boxes)
    assert evaluate(scenes, results, ["bbox"], {}) == {"entries": wanted}
    assert place.COCOeval is evaluator


def test_a_subclass_whose_annotations_load_no_results(scenes: Dataset) -> None:
    """As LVIS."""
    from mmdet.datasets import CocoDataset

    class Other(CocoDataset):  # type: ignore[misc]
        def evaluate(self, results: Any, metric: Any) -> dict[str, float]:
            return {"images": len(results)}

    results = middling(scenes)
    scenes.coco.__class__ = Other
    scenes.coco.coco = object()
    assert evaluate(scenes, results, ["bbox"], {}) == {"images": 6}


def test_a_subclass_that_writes_files_of_its_own(scenes: Dataset) -> None:
    from mmdet.datasets import CocoDataset

    class Writer(CocoDataset):  # type: ignore[misc]
        def results2json(self, results: Any, outfile_prefix: str) -> dict[str, str]:
            files = dict(super().results2json(results, outfile_prefix))
            assert json.loads(Path(files["bbox"]).read_text())
            return files

    scenes.coco.__class__ = Writer
    with contextlib.redirect_stdout(io.StringIO()):
        found = evaluate(scenes, middling(scenes), ["bbox"], {})
    assert 0.1 < found["bbox_mAP"] < 0.9


def test_boxes_get_no_outlines(scenes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 boxes an image they would take 27 kB."""
    from pycocotools.coco import COCO

    kept: list[Any] = []
    own = COCO.loadRes

    def watched(self: Any, entries: Any) -> Any:
        found = own(self, entries)
        kept.extend(entry["segmentation"] for entry in found.dataset["annotations"])
        return found

    monkeypatch.setattr(COCO, "loadRes", watched)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate(scenes, [boxes for boxes, _ in middling(scenes)], ["bbox"], {})
    assert kept and all(outline == [] for outline in kept)
