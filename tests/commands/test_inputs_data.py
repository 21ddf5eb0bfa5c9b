"""``onnxdet test``: data sets that are refused are refused before a single image is run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cli_models import Ran, Tiny
from PIL import Image
from tiny_retinanet import CLASSES

from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.datasets import SHAPES, DatasetSpec

Run = Callable[..., Ran]
Document = dict[str, Any]
ORT = ("--backend", "onnxruntime")


def reorder(document: Document) -> None:
    document["categories"].reverse()


def shift(document: Document) -> None:
    """Categories numbered from 0, objects from 1."""
    for category in document["categories"]:
        category["id"] -= 1


def unlisted(document: Document) -> None:
    document["annotations"][0]["image_id"] = 999


def two_images(document: Document) -> None:
    document["images"][1]["id"] = document["images"][0]["id"]


def two_objects(document: Document) -> None:
    document["annotations"][1]["id"] = document["annotations"][0]["id"]


def absent(key: str) -> Callable[[Document], None]:
    return lambda document: document["annotations"][0].pop(key)


def number(value: Any) -> Callable[[Document], None]:
    return lambda document: document["annotations"][0].update(bbox=[1, 1, value, 9])


def windows(document: Document) -> None:
    document["images"][2]["file_name"] = "sub\\002.png"


@pytest.mark.parametrize(
    ("change", "metric", "said"),
    [
        (
            reorder,
            "bbox",
            "a.json: categories in the order triangle, square, circle, but labels follow circle, "
            "square, triangle: bring one in the order of the other",
        ),
        (shift, "bbox", "has the unknown category id 3: correct the file"),
        (unlisted, "bbox", "annotation 1 has the unknown image id 999: correct the file"),
        (two_images, "bbox", "image id 1 is there 2 times: give each its own"),
        (two_objects, "bbox", "annotation id 1 is there 2 times: give each its own"),
        (absent("bbox"), "bbox", "annotation 1 has no bbox: add it"),
        (absent("segmentation"), "segm", "annotation 1: segmentation is missing: correct it, or"),
        (number(float("nan")), "bbox", "annotation 1: bbox is [1, 1, NaN, 9]"),
        (windows, "bbox", "002.png: no such image (its name has backslashes: write / between"),
        (lambda d: d["images"].clear(), "bbox", "a.json: lists no images: nothing to test"),
        (lambda d: d.pop("annotations"), "bbox", "no annotations: it needs images"),
    ],
)
def test_what_is_refused(
    tried: Callable[..., Ran],
    document: Document,
    runs: list[int],
    change: Callable[[Document], None],
    metric: str,
    said: str,
) -> None:
    change(document)
    ran = tried(metric)
    assert ran.code == 2 and said in ran.err, ran.err
    assert len(ran.err.strip().splitlines()) == 1 and not runs


def test_classes_in_another_order_than_the_file(tried: Callable[..., Ran], runs: list[int]) -> None:
    ran = tried(options=("data.test.classes=[square,circle,triangle]",))
    assert ran.code == 2 and not runs
    assert "in the order circle, square, triangle, but labels follow square, circle" in ran.err


def test_a_class_of_ones_own_may_map_by_name(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    document: Document,
    images: Path,
    tried: Callable[..., Ran],
) -> None:
    """As its labels are those of the names, whatever the file's order, the figures are the same."""
    from mmdet.datasets import DATASETS, CocoDataset

    class ByName(CocoDataset):
        def load_annotations(self, ann_file: str) -> Any:
            infos = super().load_annotations(ann_file)
            ids = {category["name"]: key for key, category in self.coco.cats.items()}
            self.cat_ids = [ids[name] for name in self.CLASSES]
            self.cat2label = {key: label for label, key in enumerate(self.cat_ids)}
            self.coco.get_cat_ids = lambda cat_names: [ids[name] for name in cat_names]
            return infos

    DATASETS.register_module(module=ByName)
    try:
        straight = tried()
        reorder(document)
        mapped = tried(options=("data.test.type=ByName",))
    finally:
        DATASETS.module_dict.pop("ByName")
    assert mapped.code == 0, mapped.err

    def figures(ran: Ran) -> list[str]:
        return [line for line in ran.out.splitlines() if line.startswith("bbox_")]

    assert figures(mapped) == figures(straight) and len(figures(straight)) == 7


def test_a_class_of_ones_own_that_maps_by_the_file_is_refused(
    document: Document, tried: Callable[..., Ran], runs: list[int]
) -> None:
    from mmdet.datasets import DATASETS, CocoDataset

    class Own(CocoDataset):
        def load_annotations(self, ann_file: str) -> Any:
            return super().load_annotations(ann_file)

    DATASETS.register_module(module=Own)
    reorder(document)
    try:
        ran = tried(options=("data.test.type=Own",))
    finally:
        DATASETS.module_dict.pop("Own")
    assert ran.code == 2 and "in the order triangle, square, circle, but" in ran.err and not runs


@pytest.mark.parametrize(
    ("classes", "ann", "said"),
    [
        (None, {}, "data.test names no classes: set data.test.classes"),
        ([], {}, "data.test names no classes: set data.test.classes"),
        (["a", "b", "c"], {}, "the objects of 000.png cannot be read (KeyError: 'bboxes')"),
        (
            ["a", "b", "c"],
            {"bboxes": [[1, 1, 9, 9]], "labels": [0]},
            "the objects of 000.png cannot be read (TypeError: bboxes is a list, not an array)",
        ),
    ],
)
def test_a_list_of_images_of_ones_own(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    images: Path,
    runs: list[int],
    classes: Any,
    ann: Any,
    said: str,
) -> None:
    """As CustomDataset reads it, which brings no names; mmdet evaluates arrays, of a pickle."""
    infos = [
        {"filename": path.name, "width": 1, "height": 1, "ann": ann}
        for path in sorted(images.iterdir())
    ]
    (tmp_path / "a.json").write_text(json.dumps(infos))
    config = tmp_path / "c.py"
    data = {"type": "CustomDataset", "ann_file": str(tmp_path / "a.json"), "classes": classes}
    more = f"data['test'].update({data!r}, img_prefix={str(images)!r})"
    config.write_text(f"{tiny.config.read_text()}\n{more}\n")
    ran = onnxdet("test", config, dynamic, *ORT, "--eval", "mAP")
    assert ran.code == 2 and said in ran.err and not runs, ran.err


def test_images_that_are_not_there_or_none(
    tried: Callable[..., Ran], images: Path, runs: list[int]
) -> None:
    (images / "003.png").write_bytes(b"")
    ran = tried()
    assert ran.code == 2 and "003.png: cannot be read as an image: replace the file" in ran.err
    (images / "003.png").write_text("a page of HTML")
    ran = tried()
    assert ran.code == 2 and "003.png: cannot be read as an image: replace the file" in ran.err
    (images / "003.png").unlink()
    ran = tried()
    assert ran.code == 2 and "003.png: no such image: put it there" in ran.err
    (images / "003.png").mkdir()
    ran = tried()
    assert ran.code == 2 and "003.png: no such image (but a folder of that name)" in ran.err
    (images / "003.png").rmdir()
    os.mkfifo(images / "003.png")
    ran = tried()
    assert ran.code == 2 and "003.png: no such image (but a named pipe of that name)" in ran.err
    assert not runs


def test_images_without_size_that_are_not_there(
    tried: Callable[..., Ran], document: Document, images: Path, runs: list[int]
) -> None:
    del document["images"][3]["height"]
    (images / "003.png").unlink()
    ran = tried()
    assert ran.code == 2 and "003.png: no such image: put it there" in ran.err and not runs


def test_a_folder_that_is_not_there(tried: Callable[..., Ran], tmp_path: Path) -> None:
    ran = tried(options=(f"data.test.img_prefix={tmp_path / 'gone'}",))
    assert ran.code == 2 and "gone/000.png: no such image" in ran.err


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not a COCO annotation file: Expecting value"),
        (b"[]", "it is a list"),
        (b'[{"score": 1}]', "it is a list: a file of results; give the file with images"),
        (b"<html>", "not a COCO annotation file: Expecting value"),
        ("{'ü'}".encode("latin-1"), "byte 2 is not utf-8: save it as UTF-8"),
    ],
)
def test_files_that_are_no_annotations(
    tried: Callable[..., Ran], runs: list[int], raw: bytes, said: str
) -> None:
    ran = tried(raw=raw)
    assert ran.code == 2 and said in ran.err and not runs


def test_what_is_completed_is_said_once(tried: Callable[..., Ran], document: Document) -> None:
    for one in document["annotations"]:
        one.pop("iscrowd")
        one.pop("area")
    for image in document["images"]:
        image.pop("height")
    ran = tried()
    assert ran.code == 0, ran.err
    for said in ("no iscrowd in", "no area in", "no height or width of 6 images (1, 2, 3, ...)"):
        assert ran.err.count(said) == 1
    assert ran.err.count("warning: ") == 3


def test_without_evaluation_a_challenges_file_runs(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, document: Document, images: Path
) -> None:
    del document["annotations"]
    (tmp_path / "a.json").write_text(json.dumps(document))
    words = (f"data.test.ann_file={tmp_path / 'a.json'}", f"data.test.img_prefix={images}")
    prefix = ("--eval-options", f"jsonfile_prefix={tmp_path / 'r'}")
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--format-only", *prefix, "--cfg-options", *words)
    )
    assert ran.code == 0 and (tmp_path / "r.bbox.json").is_file(), ran.err


def test_static_graphs_of_turned_photographs(
    tiny: Tiny, tmp_path: Path, document: Document, images: Path
) -> None:
    """All are listed with one size; some cameras were held upright. Or the json has no size."""

    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.commands.evaluate import open_data
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.data.datasets import DatasetSpec, load_dataset

    rng = np.random.default_rng(0)
    for number, image in enumerate(document["images"]):
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 4 else 1
        image.update(file_name=f"{number}.jpg", height=60, width=150)
        pixels = rng.integers(0, 255, (60, 150, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / image["file_name"], exif=exif)
    path = tmp_path / "a.json"
    for drop in ((), ("height", "width")):
        for image in document["images"]:
            for key in drop:
                image.pop(key)
        path.write_text(json.dumps(document))
        options = {"data.test.ann_file": str(path), "data.test.img_prefix": str(images)}
        cfg = open_config(str(tiny.config), options)
        suite = load_dataset(DatasetSpec("d", path, images, classes=CLASSES), cfg.cfg)
        for data in (open_data(cfg), suite):
            assert data.fitted_size() == (128, 128)
            fitting = Batches(data, 1, data.fitted_size())
            shapes = [batch.image_shape[0].tolist() for batch in fitting]
            assert shapes[3:5] == [[51, 128], [128, 51]]
            assert any("EXIF" in note for note in data.notes) == (not drop)
    assert cv2.imread(str(images / "4.jpg")).shape == (150, 60, 3)


def test_the_suite_refuses_a_mask_models_data_without_masks(
    masked: Tiny, tmp_path: Path, document: Document
) -> None:
    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.data.datasets import load_dataset

    cfg = open_config(str(masked.config), None).cfg
    document["annotations"][3].pop("segmentation")
    document["annotations"][2].pop("area")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    spec = DatasetSpec("d", path, SHAPES / "val", classes=CLASSES)
    with pytest.raises(DataError, match="annotation 4: segmentation is missing"):
        load_dataset(spec, cfg)


def test_names_beyond_ascii(tried: Callable[..., Ran], document: Document, images: Path) -> None:
    for image in document["images"]:
        name = f"größe 🙂 {image['id']}\n.png"
        (images / image["file_name"]).rename(images / name)
        image["file_name"] = name
    assert tried().code == 0
