"""``onnxdet test`` gives mmdet's own figures on annotations as people have them.

Where mmdet cannot read a file, as a key is missing, it is given one that was completed by hand.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from against_mmdet import (
    IMAGES,
    MIN_AP,
    ORT,
    TOLERANCE,
    Document,
    Mini,
    Run,
    compare,
    theirs,
    written,
)
from cli_models import Ran, first_annotations

NAMES = ("not and or", "<b>&amp;</b>", "Größe 🙂")


@pytest.fixture
def document() -> Document:
    return first_annotations(IMAGES)


def change_nothing(document: Document) -> None:
    pass


def gaps(document: Document) -> None:
    """Category and image ids with gaps, in another order than they are listed."""
    for category in document["categories"]:
        category["id"] = 90 - 7 * category["id"]
    for image in document["images"]:
        image["id"] = 5000 - 13 * image["id"]
    for one in document["annotations"]:
        one["category_id"] = 90 - 7 * one["category_id"]
        one["image_id"] = 5000 - 13 * one["image_id"]


def text_ids(document: Document) -> None:
    for image in document["images"]:
        image["id"] = f"image {image['id']}"
    for one in document["annotations"]:
        one["image_id"] = f"image {one['image_id']}"


def from_zero(document: Document) -> None:
    """Ids of everything from 0, which pycocotools takes for no match."""
    for number, one in enumerate(document["annotations"]):
        one["id"] = number
    for category in document["categories"]:
        category["id"] -= 1
    for one in document["annotations"]:
        one["category_id"] -= 1


def run_lengths(document: Document) -> None:
    """Masks as run lengths, every other one compressed."""
    from pycocotools import mask as runs

    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for one in document["annotations"]:
        encoded = runs.merge(runs.frPyObjects(one["segmentation"], *sizes[one["image_id"]]))
        if one["id"] % 2:
            one["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}
            continue
        pixels = runs.decode(encoded).ravel(order="F")
        borders = np.flatnonzero(np.diff(pixels)) + 1
        counts = np.diff([0, *borders, pixels.size]).tolist()
        first = [0] if pixels[0] else []
        one["segmentation"] = {"size": encoded["size"], "counts": first + counts}


def odd_boxes(document: Document) -> None:
    """Without extent, inside out, and outside of the image."""
    base = document["annotations"][0]
    for number, box in enumerate(([5, 5, 0, 9], [9, 9, -4, -4], [900, 9, 9, 9], [-9, -9, 3, 3])):
        document["annotations"].append({**base, "id": 1000 + number, "bbox": box})


def crowds(document: Document) -> None:
    for one in document["annotations"][::3]:
        one["iscrowd"] = 1


def other_categories(document: Document) -> None:
    """Categories that the model knows nothing of, between its own."""
    document["categories"].insert(1, {"id": 50, "name": "hexagon"})
    document["annotations"].append({**document["annotations"][0], "id": 999, "category_id": 50})


def hostile_names(document: Document) -> None:
    for category, name in zip(document["categories"], NAMES, strict=True):
        category["name"] = name


@pytest.mark.parametrize(
    ("change", "metrics"),
    [
        (change_nothing, ("bbox", "segm")),
        (gaps, ("bbox", "segm")),
        (text_ids, ("bbox",)),
        (from_zero, ("bbox",)),
        (run_lengths, ("bbox", "segm")),
        (odd_boxes, ("bbox",)),
        (crowds, ("bbox", "segm")),
        (other_categories, ("bbox",)),
    ],
)
def test_annotations(
    onnxdet: Run,
    mini: Mini,
    images: Path,
    document: Document,
    tmp_path: Path,
    change: Callable[[Document], None],
    metrics: tuple[str, ...],
) -> None:
    change(document)
    compare(onnxdet, mini, written(tmp_path, images, document), metrics=metrics)


def test_names_that_are_no_words(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    """Keywords of pytest, HTML, other scripts."""
    hostile_names(document)
    data = {**written(tmp_path, images, document), "classes": NAMES}
    compare(onnxdet, mini, data, metrics=("bbox",))


def drop(document: Document, kind: str, *keys: str) -> None:
    for one in document[kind]:
        for key in keys:
            one.pop(key)


def without_iscrowd(document: Document) -> None:
    drop(document, "annotations", "iscrowd")


def null_iscrowd(document: Document) -> None:
    for one in document["annotations"]:
        one["iscrowd"] = None


def without_area(document: Document) -> None:
    drop(document, "annotations", "area")


def without_size(document: Document) -> None:
    drop(document, "images", "height", "width")


def float_sizes(document: Document) -> None:
    for image in document["images"]:
        image.update(height=float(image["height"]), width=float(image["width"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_iscrowd, "no iscrowd in"),
        (null_iscrowd, "no iscrowd in"),
        (without_area, "no area in"),
        (without_size, "no height or width of 8 images"),
        (float_sizes, ""),
    ],
)
def test_what_is_completed_is_what_would_have_been_there(
    onnxdet: Run,
    mini: Mini,
    images: Path,
    document: Document,
    tmp_path: Path,
    change: Callable[[Document], None],
    said: str,
) -> None:
    whole = written(tmp_path, images, document, "whole")
    change(document)
    told = compare(onnxdet, mini, written(tmp_path, images, document), whole)
    assert told.count("warning: ") == bool(said) and said in told


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path, encoding: str
) -> None:
    whole = written(tmp_path, images, document, "whole")
    data = written(tmp_path, images, document)
    text = json.dumps(document, indent=1).replace("\n", "\r\n")
    Path(data["ann_file"]).write_bytes(text.encode(encoding))
    compare(onnxdet, mini, data, whole, metrics=("bbox",))


def test_without_segmentation_boxes_are_evaluated(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    drop(document, "annotations", "segmentation")
    compare(onnxdet, mini, written(tmp_path, images, document), metrics=("bbox",))


def test_paths_below_a_root_and_outside_of_the_folder(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    for number, image in enumerate(document["images"]):
        if number % 3 == 1:
            (images / image["file_name"]).rename(tmp_path / "other" / image["file_name"])
            image["file_name"] = f"../other/{image['file_name']}"
        elif number % 3 == 2:
            image["file_name"] = str(images / image["file_name"])
    data = written(tmp_path, images, document)
    data |= {"ann_file": "a.json", "img_prefix": "images"}
    compare(
        onnxdet,
        mini,
        {**data, "data_root": str(tmp_path), "img_prefix": str(images)},
        {**data, "data_root": str(tmp_path)},
        metrics=("bbox",),
    )


def test_an_image_with_thousands_of_objects(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    base = document["annotations"][0]
    for number in range(4000):
        box = [number % 50, number // 50, 3 + number % 7, 4]
        more = {"id": 1000 + number, "bbox": box, "image_id": document["images"][-1]["id"]}
        document["annotations"].append({**base, **more, "category_id": 1 + number % 3})
    compare(onnxdet, mini, written(tmp_path, images, document), metrics=("bbox",), min_ap=-1)


@pytest.mark.parametrize("kind", ["crowds", "nothing"])
def test_no_object_to_find(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path, kind: str
) -> None:
    if kind == "nothing":
        document["annotations"].clear()
    for one in document["annotations"]:
        one["iscrowd"] = 1
    data = written(tmp_path, images, document)
    told = compare(onnxdet, mini, data, metrics=("bbox",), min_ap=-2)
    assert "no object to find, and no AP (mmdet gives -1)" in told


BARE = {
    "PYTHONOPTIMIZE": "2",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "LC_ALL": "C",
    "PATH": "/usr/bin:/bin",
}


def test_without_asserts_a_home_and_utf8(
    mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    """Python's -OO, a locale of ASCII, no HOME, and names that no ASCII holds."""
    hostile_names(document)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    data = {"ann_file": str(path), "img_prefix": str(images), "classes": NAMES}
    config = tmp_path / "config.py"
    text = mini.config.read_text("utf-8")
    config.write_text(f"{text}\ndata['test'].update({data!a})\n", "ascii")
    words = ("test", config, mini.graph, *ORT, "--eval", "bbox", "--show-dir", tmp_path / "out")
    ran = bare(*words, "--eval-options", "classwise=True")
    assert ran.code == 0, ran.err
    found = dict(line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1)
    wanted = theirs(mini, data, ["bbox"])
    gap = abs(float(found["bbox_mAP"]) - wanted["bbox_mAP"])
    assert gap <= TOLERANCE < MIN_AP < wanted["bbox_mAP"]
    assert "Gr\\xf6\\xdfe" in ran.out and len(list((tmp_path / "out").iterdir())) == IMAGES

    (images / "000.png").rename(images / "größe.png")
    document["images"][0]["file_name"] = "größe.png"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    ran = bare(*words)
    assert ran.code == 2 and "lacks its letters: set PYTHONUTF8=1): put it there" in ran.err


def bare(*words: object) -> Ran:
    """The command in a process of its own, with hardly any environment."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest_onnxdet.cli", *map(str, words)],
        env={**BARE, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        check=False,
    )
    out, err = ran.stdout.decode("ascii"), ran.stderr.decode("ascii")
    assert "Traceback" not in err and "unforeseen" not in err, err
    return Ran(ran.returncode, out, err)
