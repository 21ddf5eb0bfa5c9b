import json
import sys
from pathlib import Path

import cv2
import draw_scenes
import numpy as np
import pytest

from pytest_onnxdet.data.datasets import SHAPES
from pytest_onnxdet.data.scenes import (
    CLASSES,
    CROWD_OBJECTS,
    MIN_VISIBLE,
    VAL_SEED,
    draw_crowd,
    draw_scene,
)

DOCUMENT = json.loads((SHAPES / "annotations.json").read_text())


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    one, again, other = draw_scene(5, 3), draw_scene(5, 3), draw_scene(5, 4)
    assert np.array_equal(one.image, again.image) and np.array_equal(one.boxes, again.boxes)
    assert one.image.shape != other.image.shape or not np.array_equal(one.image, other.image)


def test_boxes_and_polygons_agree_and_lie_inside() -> None:
    for index in range(20):
        scene = draw_scene(9, index, empty=False)
        height, width = scene.image.shape[:2]
        assert 1 <= len(scene.boxes) == len(scene.labels) == len(scene.polygons)
        for box, label, polygon in zip(scene.boxes, scene.labels, scene.polygons, strict=True):
            assert len(polygon) == {0: 32, 1: 4, 2: 3}[int(label)]
            assert np.array_equal(box, [*polygon.min(0), *polygon.max(0)])
            assert (box >= 0).all() and box[2] <= width and box[3] <= height


def test_an_empty_scene_has_no_objects() -> None:
    scene = draw_scene(9, 1, empty=True)
    assert scene.boxes.shape == (0, 4) and scene.labels.shape == (0,) and scene.polygons == ()


def test_the_split_is_as_promised() -> None:
    images, objects = DOCUMENT["images"], DOCUMENT["annotations"]
    assert [c["name"] for c in DOCUMENT["categories"]] == list(CLASSES)
    assert len(images) >= 64
    filled = {a["image_id"] for a in objects}
    assert len(images) - len(filled) >= 3
    sizes = [side for image in images for side in (image["height"], image["width"])]
    assert min(sizes) >= 90 and max(sizes) <= 200
    assert np.mean([side % 32 != 0 for side in sizes]) > 0.9
    assert {a["category_id"] for a in objects} == {1, 2, 3}
    sides = [max(a["bbox"][2:]) for a in objects]
    assert min(sides) < 24 and max(sides) > 90
    total = sum(f.stat().st_size for f in SHAPES.rglob("*") if f.is_file())
    assert total < 2.5e6


def test_areas_are_those_of_the_polygons() -> None:
    single = [a for a in DOCUMENT["annotations"] if not a["iscrowd"]]
    assert len(single) > 200
    for annotation in single:
        polygon = np.array(annotation["segmentation"][0], np.float32).reshape(-1, 2)
        assert annotation["area"] == pytest.approx(cv2.contourArea(polygon), rel=1e-3)
        x, y, w, h = annotation["bbox"]
        assert [*polygon.min(0), *polygon.max(0)] == [x, y, x + w, y + h]


def test_hidden_parts_stay_small() -> None:
    scene = next(s for s in (draw_scene(VAL_SEED, i) for i in range(99)) if len(s.labels) >= 4)
    height, width = scene.image.shape[:2]
    seen = np.full((height, width), -1)
    areas = []
    for number, polygon in enumerate(scene.polygons):
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        areas.append(mask.sum())
        seen[mask > 0] = number
    shares = [(seen == n).sum() / area for n, area in enumerate(areas)]
    assert min(shares) >= MIN_VISIBLE


def test_drawing_the_split_again_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--out", str(tmp_path), "--count", "12", "--crowds", "0"]
    monkeypatch.setattr(sys, "argv", ["draw_scenes.py", *asked])
    draw_scenes.main()
    drawn = sorted((tmp_path / "val").glob("*.png"))
    assert len(drawn) == 12
    for file in drawn:
        assert file.read_bytes() == (SHAPES / "val" / file.name).read_bytes(), file.name
    again = json.loads((tmp_path / "annotations.json").read_text())
    assert again["images"] == DOCUMENT["images"][:12]
    assert again["annotations"] == DOCUMENT["annotations"][: len(again["annotations"])]


def test_the_last_image_is_a_crowd_and_is_drawn_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_scenes.py", "--out", str(tmp_path)])
    draw_scenes.main()
    last = DOCUMENT["images"][-1]
    shipped = SHAPES / "val" / last["file_name"]
    assert shipped.stat().st_size < 60_000
    assert (tmp_path / "val" / last["file_name"]).read_bytes() == shipped.read_bytes()
    assert json.loads((tmp_path / "annotations.json").read_text()) == DOCUMENT
    regions = [a for a in DOCUMENT["annotations"] if a["iscrowd"]]
    assert {a["image_id"] for a in regions} == {last["id"]}
    assert [a["category_id"] for a in regions] == [1, 2, 3]
    assert all(a["bbox"] == [0, 0, last["width"], last["height"]] for a in regions)


def test_a_crowd_is_a_function_of_seed_and_index_and_lies_inside() -> None:
    one, again, other = draw_crowd(5, 3), draw_crowd(5, 3), draw_crowd(5, 4)
    assert np.array_equal(one.image, again.image) and not np.array_equal(one.image, other.image)
    assert len(one.boxes) == len(one.labels) == len(one.polygons) == CROWD_OBJECTS
    height, width = one.image.shape[:2]
    assert (one.boxes >= 0).all() and (one.boxes <= [width, height, width, height]).all()
