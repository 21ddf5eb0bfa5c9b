import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pytest_onnxdet.data.batches import Batches, DataError
from pytest_onnxdet.data.datasets import (
    SHAPES,
    Dataset,
    DatasetRegistry,
    DatasetSpec,
    builtin_datasets,
    load_dataset,
)
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.registry import builtin_registry

SPEC = builtin_datasets().get("shapes")


def config(name: str = "retinanet") -> Any:
    return load_config(builtin_registry().get(name))


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return load_dataset(SPEC, config())


def test_samples_are_what_the_test_pipeline_yields(shapes: Dataset) -> None:
    sample = shapes.sample(0)
    assert sample.image.dtype == np.float32 and sample.image.shape[0] == 3
    assert sample.image.shape[1:] == sample.meta["pad_shape"][:2]
    height, width = sample.meta["img_shape"][:2]
    assert max(height, width) <= 160 and min(height, width) <= 128
    assert sample.meta["ori_shape"] != sample.meta["img_shape"]
    assert not np.allclose(sample.meta["scale_factor"], 1)
    assert not sample.image[:, height:].any() and not sample.image[:, :, width:].any()
    assert shapes.path(0).is_file() and shapes.image_ids[0] == 1


def test_grain_leaves_no_even_area_and_is_the_same_every_time(shapes: Dataset) -> None:
    grained = load_dataset(builtin_datasets().get("grained_shapes"), config())
    sample, again, plain = grained.sample(0), grained.sample(0), shapes.sample(0)
    np.testing.assert_array_equal(sample.image, again.image)
    assert sample.meta["img_shape"] == plain.meta["img_shape"]
    height, width = sample.meta["img_shape"][:2]

    def even(image: Any) -> float:
        inside = image[:, :height, :width]
        return float(np.mean((np.diff(inside, axis=2) == 0).all(axis=0)))

    assert even(plain.image) > 0.2 and even(sample.image) < 0.01
    assert 0.02 < np.abs(sample.image - plain.image).mean() < 0.2
    large = load_dataset(builtin_datasets().get("large_shapes"), config())
    ours, theirs = large.sample(0).meta["ori_shape"], grained.sample(0).meta["ori_shape"]
    assert ours[:2] == (4 * theirs[0], 4 * theirs[1])
    with pytest.raises(DataError, match="enlarged images"):
        large.evaluate([])
    other = grained.sample(1).image - shapes.sample(1).image
    assert not np.array_equal(other[:, :60, :60], (sample.image - plain.image)[:, :60, :60])


@pytest.mark.parametrize("name", builtin_registry().names("mini"))
def test_every_mini_has_a_size_that_holds_every_image(name: str) -> None:
    dataset = load_dataset(SPEC, config(name))
    height, width = dataset.fitted_size()
    assert height % 32 == 0 and width % 32 == 0 and max(height, width) <= 320
    result = list(Batches(dataset, 8, (height, width), limit=16))
    assert [b.images.shape for b in result] == [(8, 3, height, width)] * 2
    if name == "cornernet":
        assert "border" in result[0].metas[0]


def test_limit_cuts_images_and_evaluation(shapes: Dataset) -> None:
    few = load_dataset(SPEC, config(), limit=3)
    assert len(few) == 3 == len(few.image_ids) and len(shapes) == 73
    assert few.evaluate(perfect(few))["bbox_mAP"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="no images"):
        load_dataset(SPEC, config(), limit=0)


def perfect(dataset: Dataset) -> list[Any]:
    """Results that repeat the annotations, with bool masks."""
    results = []
    for index in range(len(dataset)):
        info = dataset.coco.get_ann_info(index)
        dets = np.concatenate([info["bboxes"], np.ones((len(info["bboxes"]), 1))], 1)
        boxes = [dets[info["labels"] == label] for label in range(3)]
        masks: list[list[np.ndarray]] = [[], [], []]
        size = dataset.coco.data_infos[index]["height"], dataset.coco.data_infos[index]["width"]
        for label, polygons in zip(info["labels"], info["masks"], strict=True):
            from pycocotools import mask

            coded = mask.merge(mask.frPyObjects(polygons, *size))
            masks[label].append(mask.decode(coded).astype(bool))
        results.append((boxes, masks))
    return results


def test_perfect_results_have_ap_one_and_none_have_zero(shapes: Dataset) -> None:
    results = perfect(shapes)
    result = shapes.evaluate(results)
    assert result["bbox_mAP"] == result["segm_mAP"] == 1.0
    boxes_only = [boxes for boxes, _ in results]
    assert set(shapes.evaluate(boxes_only)) & {"bbox_mAP", "segm_mAP"} == {"bbox_mAP"}
    nothing = [[np.zeros((0, 5), np.float32)] * 3] * len(shapes)
    assert shapes.evaluate(nothing)["bbox_mAP"] == 0.0
    with pytest.raises(DataError, match="1 results for 73 images"):
        shapes.evaluate(nothing[:1])


def test_what_is_found_in_the_crowd_counts_neither_for_nor_against() -> None:
    shapes = load_dataset(SPEC, config())  # evaluating encodes a data set's polygons in place
    results = perfect(shapes)
    info = shapes.coco.data_infos[-1]
    height, width = info["height"], info["width"]
    rng = np.random.default_rng(1)
    boxes, masks = [], []
    for _ in range(3):
        corner = rng.uniform(0, 60, (40, 2))
        scored = np.hstack([corner, corner + rng.uniform(5, 60, (40, 2)), np.full((40, 1), 0.99)])
        boxes.append(scored.astype(np.float32))
        masks.append([rng.random((height, width)) < 0.5 for _ in range(40)])
    for last in ((boxes, masks), ([np.zeros((0, 5), np.float32)] * 3, [[], [], []])):
        result = shapes.evaluate([*results[:-1], last])
        assert result["bbox_mAP"] == result["segm_mAP"] == 1.0
    # In any other image such detections cost.
    size = shapes.coco.data_infos[0]["height"], shapes.coco.data_infos[0]["width"]
    wrong = [[rng.random(size) < 0.5 for _ in range(40)] for _ in range(3)]
    assert shapes.evaluate([(boxes, wrong), *results[1:]])["bbox_mAP"] < 1.0


def test_registry_names_what_there_is() -> None:
    registry = builtin_datasets()
    registry.register(replace(SPEC, name="mine"))
    assert registry.names() == ("shapes", "grained_shapes", "large_shapes", "mine")
    with pytest.raises(ValueError, match="'mine'"):
        registry.register(replace(SPEC, name="mine"))
    with pytest.raises(
        DataError, match=r"'coco'; there are: shapes, grained_shapes, large_shapes, mine"
    ):
        registry.get("coco")
    assert DatasetRegistry().names() == ()


@pytest.fixture
def copy(tmp_path: Path) -> DatasetSpec:
    shutil.copytree(SHAPES, tmp_path / "set")
    return replace(SPEC, annotations=tmp_path / "set/annotations.json", images=tmp_path / "set/val")


def test_unreadable_and_missing_images(copy: DatasetSpec) -> None:
    (copy.images / "000.png").write_bytes(b"no image")
    (copy.images / "001.png").write_bytes(b"")
    (copy.images / "002.png").unlink()
    dataset = load_dataset(copy, config(), limit=4)
    for index in (0, 1):
        with pytest.raises(DataError, match=rf"00{index}\.png: cannot be read as an image"):
            dataset.sample(index)
    with pytest.raises(DataError, match=r"002\.png: no such image.*annotations\.json"):
        dataset.sample(2)
    assert dataset.sample(3).image.any()


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update({key: value})


def _category(index: int, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["categories"][index].update(name=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_category(1, "hexagon"), "unknown categories hexagon; no category square"),
        (lambda d: d["categories"].pop(), "no category triangle"),
        (lambda d: d["categories"].reverse(), "categories in the order triangle, square"),
        (lambda d: d["annotations"][4].update(category_id=9), "annotation 5 .*category id 9"),
        (lambda d: d["annotations"][4].update(image_id=999), "annotation 5 .*image id 999"),
        (lambda d: d.pop("images"), "not a COCO annotation file.*images"),
        (_set("annotations", 3), "not a COCO annotation file"),
    ],
)
def test_annotations_that_do_not_hold_together(
    copy: DatasetSpec, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = json.loads(copy.annotations.read_text())
    change(document)
    copy.annotations.write_text(json.dumps(document))
    with pytest.raises(DataError, match=rf"annotations\.json: .*{message}"):
        load_dataset(copy, config())


def test_files_that_are_not_there(copy: DatasetSpec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give one of coco, images, boxes"):
        load_dataset(replace(copy, kind="voc"), config())
    with pytest.raises(DataError, match=r"none: no such image folder"):
        load_dataset(replace(copy, images=tmp_path / "none"), config())
    with pytest.raises(DataError, match=r"none\.json: no such annotation file"):
        load_dataset(replace(copy, annotations=tmp_path / "none.json"), config())
    copy.annotations.write_text("{")
    with pytest.raises(DataError, match="not a COCO annotation file"):
        load_dataset(copy, config())


@pytest.fixture
def copied(tmp_path: Path) -> DatasetSpec:
    """The drawn scenes in a folder of one's own."""
    shutil.copytree(SPEC.images, tmp_path / "val")
    shutil.copy(SPEC.annotations, tmp_path / "a.json")
    return replace(SPEC, annotations=tmp_path / "a.json", images=tmp_path / "val")


def test_each_image_is_opened_once_as_long_as_it_is_the_same(
    copied: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    own = Image.open

    def noted(path: Any, *more: Any) -> Any:
        opened.append(Path(path).name)
        return own(path, *more)

    monkeypatch.setattr(Image, "open", noted)
    dataset = load_dataset(copied, config(), limit=4)
    dataset.check_images(masks=False)
    dataset.fitted_size()
    assert sorted(opened) == ["000.png", "001.png", "002.png", "003.png"]
    shutil.copy(dataset.path(1), dataset.path(0))
    dataset.check_images(masks=False)
    assert opened[4:] == ["000.png"]


def test_a_step_that_there_is_not_is_named(copied: DatasetSpec) -> None:
    cfg = load_config(builtin_registry().get("retinanet"))
    cfg.data.test.pipeline[1].transforms[0]["type"] = "Nope"
    said = r"cannot be opened \(KeyError: Nope is not in the pipeline registry\): correct "
    with pytest.raises(DataError, match=said):
        load_dataset(copied, cfg)


def test_a_named_pipe_among_the_images_is_not_waited_for(copied: DatasetSpec) -> None:
    (copied.images / "001.png").unlink()
    os.mkfifo(copied.images / "001.png")
    dataset = load_dataset(copied, config(), limit=2)
    with pytest.raises(DataError, match=r"no such image \(but a named pipe of that name\)"):
        dataset.fitted_size()
