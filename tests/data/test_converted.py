"""Data of other forms, as a COCO json."""

import importlib.util
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pytest_onnxdet.core.notes import Note
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.converted import (
    folder_as_coco,
    has_outlines,
    mmdet_as_coco,
    subset_as_coco,
    voc_as_coco,
)
from pytest_onnxdet.data.datasets import SHAPES

CLASSES = ("cat", "dog")


def image(path: Path, width: int = 40, height: int = 30, **saved: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, **saved)
    return path


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_a_folder_lists_its_images_upright_and_no_objects(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    sideways = Image.Exif()
    sideways[0x0112] = 6
    image(photos / "b.jpg", exif=sideways)
    image(photos / "a" / "c.PNG")
    (photos / "notes.txt").write_text("no image")
    document = read(folder_as_coco(photos, CLASSES, tmp_path / "made"))
    assert document["images"] == [
        {"id": 1, "file_name": "a/c.PNG", "height": 30, "width": 40},
        {"id": 2, "file_name": "b.jpg", "height": 40, "width": 30},
    ]
    assert document["annotations"] == []
    assert [one["name"] for one in document["categories"]] == list(CLASSES)


def test_the_same_folder_is_the_same_file(tmp_path: Path) -> None:
    image(tmp_path / "photos" / "a.png")
    first = folder_as_coco(tmp_path / "photos", CLASSES, tmp_path / "made")
    assert folder_as_coco(tmp_path / "photos", CLASSES, tmp_path / "made") == first
    image(tmp_path / "photos" / "b.png")
    assert folder_as_coco(tmp_path / "photos", CLASSES, tmp_path / "made") != first
    assert len(list((tmp_path / "made").iterdir())) == 2


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        folder_as_coco(tmp_path, CLASSES, tmp_path / "made")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg: a link to a file that is not there"):
        folder_as_coco(tmp_path, CLASSES, tmp_path / "made")
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"broken\.jpg.*is it an image"):
        folder_as_coco(tmp_path, CLASSES, tmp_path / "made")


def test_a_subset_of_classes_leaves_the_others_objects_out(tmp_path: Path) -> None:
    whole = SHAPES / "annotations.json"
    before = read(whole)
    names = [one["name"] for one in before["categories"]]
    document = read(subset_as_coco(whole, names[1:], tmp_path))
    assert document["images"] == before["images"]
    assert [one["name"] for one in document["categories"]] == names[1:]
    dropped = before["categories"][0]["id"]
    wanted = [one for one in before["annotations"] if one["category_id"] != dropped]
    assert document["annotations"] == wanted and len(wanted) < len(before["annotations"])


def test_a_file_of_just_these_classes_is_itself(tmp_path: Path) -> None:
    whole = SHAPES / "annotations.json"
    names = [one["name"] for one in read(whole)["categories"]]
    assert subset_as_coco(whole, names, tmp_path) == whole
    assert subset_as_coco(whole, [*names, "more"], tmp_path) == whole


def test_whether_objects_have_outlines(tmp_path: Path) -> None:
    document = read(SHAPES / "annotations.json")
    assert has_outlines(SHAPES / "annotations.json")
    for one in document["annotations"]:
        one.pop("segmentation", None)
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(document))
    assert not has_outlines(file)
    file.write_text(json.dumps({**document, "annotations": []}))
    assert has_outlines(file)


VOC = """<annotation><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>13</xmax><ymax>24</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
<object><name>horse</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "voc"
    image(folder / "JPEGImages" / "one.jpg")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "one.xml").write_text(VOC)
    return folder


def test_voc_objects_are_mmdets_and_difficult_ones_do_not_count(voc: Path, tmp_path: Path) -> None:
    document = read(voc_as_coco(voc, CLASSES, tmp_path / "made"))
    assert [one["file_name"] for one in document["images"]] == ["JPEGImages/one.jpg"]
    assert (document["images"][0]["height"], document["images"][0]["width"]) == (30, 40)
    # mmdet counts VOC's pixels from 0.
    assert [(o["category_id"], o["bbox"], o["iscrowd"]) for o in document["annotations"]] == [
        (2, [2.0, 3.0, 10.0, 20.0], 0),
        (1, [0.0, 0.0, 4.0, 5.0], 1),
    ]


def test_a_folder_without_voc_annotations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Annotations/\*\.xml"):
        voc_as_coco(tmp_path, CLASSES, tmp_path / "made")


def test_what_mmdet_cannot_read_is_refused(voc: Path, tmp_path: Path) -> None:
    (voc / "Annotations" / "one.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"/voc: the test data cannot .*: correct the annotations"):
        voc_as_coco(voc, CLASSES, tmp_path / "made")


def test_a_pipe_among_voc_annotations_is_not_waited_for(voc: Path, tmp_path: Path) -> None:
    os.mkfifo(voc / "Annotations" / "two.xml")
    with pytest.raises(DataError, match=r"two\.xml: is a named pipe, not an annotation file"):
        voc_as_coco(voc, CLASSES, tmp_path / "made")


def test_voc_names_in_another_case_are_told(voc: Path, tmp_path: Path) -> None:
    with pytest.warns(Note, match="'horse' and 'Horse' differ in upper and lower case alone"):
        voc_as_coco(voc, ("cat", "dog", "Horse"), tmp_path / "made")


def test_voc_images_may_lie_elsewhere(voc: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (voc / "JPEGImages").rename(tmp_path / "other" / "JPEGImages")
    for folder, name in (("other", "JPEGImages/one.jpg"), ("other/JPEGImages", "one.jpg")):
        made = voc_as_coco(voc, CLASSES, tmp_path / "made", tmp_path / folder)
        assert [one["file_name"] for one in read(made)["images"]] == [name]


def test_a_pickle_that_can_run_code_is_refused_unread(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "mine.pkl"
    file.write_bytes(pickle.dumps([Code()]))
    test = {"type": "CustomDataset", "ann_file": "mine.pkl", "data_root": str(tmp_path)}
    with pytest.raises(DataError, match=r"mine\.pkl: holds posix\.mkdir"):
        mmdet_as_coco({**test, "classes": CLASSES}, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("lvis"):
        pytest.skip("lvis is there")
    test = {"type": "LVISV1Dataset", "ann_file": str(SHAPES / "annotations.json")}
    with pytest.raises(
        DataError, match=r"annotations\.json.*lvis.*install what LVISV1Dataset needs"
    ):
        mmdet_as_coco({**test, "classes": CLASSES}, tmp_path)


OPEN_IMAGES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,a,b,c,d,e
one,x,/m/2,1,0.25,0.5,0.2,0.6,0,0,0,0,0
one,x,/m/1,1,0.125,0.5,0.2,0.4,0,0,1,0,0
"""


def test_boxes_in_parts_of_an_image_become_pixels_and_groups_do_not_count(tmp_path: Path) -> None:
    image(tmp_path / "img" / "one.jpg")
    (tmp_path / "boxes.csv").write_text(OPEN_IMAGES)
    (tmp_path / "names.csv").write_text("/m/1,cat\n/m/2,dog\n")
    test = {"type": "OpenImagesDataset", "ann_file": str(tmp_path / "boxes.csv")}
    test |= {"img_prefix": str(tmp_path / "img"), "label_file": str(tmp_path / "names.csv")}
    document = read(mmdet_as_coco({**test, "hierarchy_file": "gone.json"}, tmp_path / "made"))
    assert document["images"] == [{"id": 1, "file_name": "one.jpg", "height": 30, "width": 40}]
    found = [(o["category_id"], o["bbox"], o["iscrowd"]) for o in document["annotations"]]
    assert [(category, crowd) for category, _, crowd in found] == [(2, 0), (1, 1)]
    assert np.allclose([box for _, box, _ in found], [[10, 6, 10, 12], [5, 6, 15, 6]], atol=1e-4)


def test_any_class_of_mmdets_is_read(tmp_path: Path) -> None:
    whole = SHAPES / "annotations.json"
    test = {"type": "CocoDataset", "ann_file": str(whole), "img_prefix": str(SHAPES / "val")}
    names = [one["name"] for one in read(whole)["categories"]]
    document = read(mmdet_as_coco({**test, "classes": names}, tmp_path))
    before = read(whole)

    def boxes(of: dict[str, Any]) -> list[list[float]]:
        return sorted(one["bbox"] for one in of["annotations"])

    assert len(document["images"]) == len(before["images"])
    assert np.allclose(boxes(document), boxes(before))
    assert all("segmentation" in o or o["iscrowd"] for o in document["annotations"])


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    image(tmp_path / "photos" / "a.png")
    folder_as_coco(tmp_path / "photos", CLASSES, tmp_path / "made")
    shutil.rmtree(tmp_path / "photos")
    assert not list((tmp_path / "made").glob("*.part"))
