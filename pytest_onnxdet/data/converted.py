"""Data that is no COCO file of a model's own classes, as one that is.

The suite evaluates COCO's way, on both sides alike. What a folder of images, Pascal VOC's files or
another data set of mmdet's says is written as a COCO json once; what it leaves out (VOC's and LVIS'
ways of counting) does not touch whether two sides agree.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_onnxdet.core.notes import note
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.json_file import read_json
from pytest_onnxdet.data.photographs import read_header
from pytest_onnxdet.data.pickled import require_data_alone
from pytest_onnxdet.data.places import IMAGE_SUFFIXES, why_absent
from pytest_onnxdet.data.unopened import why_unopened
from pytest_onnxdet.data.xml_files import misspelt_names, require_xml
from pytest_onnxdet.models.checkpoint import one_line
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision


def folder_as_coco(images: Path, classes: Sequence[str], into: Path) -> Path:
    """The images of a folder and of those in it, without a single annotation.

    Args:
        images: the folder.
        classes: category names in label order.
        into: where the json is written.

    Raises:
        DataError: there is no image in it, or one whose size cannot be read.
    """
    files = sorted(
        path
        for path in images.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
    )
    for path in files:
        if not path.exists():
            raise DataError(f"{path}: a link to a file that is not there: mend it or take it out")
        if not path.is_file():
            raise DataError(f"{path}: no image file{why_absent(path)}: take it out")
    if not files:
        raise DataError(
            f"{images}: no images: they are looked for by their endings: "
            f"{', '.join(IMAGE_SUFFIXES)}"
        )
    listed = [
        {"id": number, "file_name": str(path.relative_to(images)), **_size(path)}
        for number, path in enumerate(files, 1)
    ]
    return _written(listed, [], classes, into)


def subset_as_coco(annotations: Path, classes: Sequence[str], into: Path) -> Path:
    """A COCO json with these classes alone, all images among them; the file itself if it has them.

    Args:
        annotations: the file.
        classes: category names in label order.
        into: where the json is written.

    Raises:
        DataError: it is no COCO json.
    """
    document, _ = read_json(annotations)
    categories = document.get("categories")
    if not isinstance(categories, list) or not all(isinstance(c, Mapping) for c in categories):
        return annotations  # who reads it says what is wrong
    names = [category.get("name") for category in categories]
    if not set(classes) < set(names):
        return annotations
    kept = [category for category in categories if category.get("name") in classes]
    ids = {category.get("id") for category in kept}
    objects = [one for one in document.get("annotations") or () if one.get("category_id") in ids]
    return _saved({**document, "categories": kept, "annotations": objects}, into)


def has_outlines(annotations: Path) -> bool:
    """Whether any object of a COCO json has a segmentation, or whether there is no object.

    Raises:
        DataError: the file cannot be read.
    """
    objects = read_json(annotations)[0].get("annotations")
    if not isinstance(objects, list) or not objects:
        return True  # who reads it says what is wrong
    return any(not isinstance(one, Mapping) or one.get("segmentation") for one in objects)


def voc_as_coco(
    folder: Path, classes: Sequence[str], into: Path, images: Path | None = None
) -> Path:
    """The boxes of a folder of Pascal VOC's form: ``Annotations/*.xml`` and ``JPEGImages``.

    Args:
        folder: the folder that holds both.
        classes: category names in label order; objects of others are left out, as mmdet does.
        into: where the json is written.
        images: the folder of the images, or that of ``JPEGImages``, where they lie elsewhere.

    Raises:
        DataError: there are none, or mmdet cannot read them.
    """
    names = sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    if not names:
        raise DataError(
            f"{folder}: no Annotations/*.xml: give a COCO json, or a folder of Pascal VOC's form"
        )
    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "names.txt"
        listed.write_text("\n".join(names), encoding="utf-8")
        test = {"type": "XMLDataset", "ann_file": str(listed), "img_prefix": str(folder)}
        if images is not None and not (images / "JPEGImages").is_dir():
            test["img_subdir"] = ""
        return mmdet_as_coco({**test, "classes": list(classes)}, into, folder)


def mmdet_as_coco(test: Mapping[str, Any], into: Path, where: Path | None = None) -> Path:
    """Boxes and masks of any data set class of mmdet's, as that class reads them.

    Objects that it says to ignore are crowds, which match and do not count, and so are groups.

    Args:
        test: a config's ``data.test``; its pipeline does not count.
        into: where the json is written.
        where: what messages name; None: the annotation file.

    Raises:
        DataError: mmdet cannot read it, or it holds what can run code.
    """
    ensure_torchvision()
    from mmdet.datasets import build_dataset

    settings = {**test, "pipeline": [], "test_mode": True}
    if "hierarchy_file" in settings:  # Open Images'; it counts in mmdet's own evaluation alone
        settings |= {"hierarchy_file": None, "get_supercategory": False}
    require_data_alone(test)
    require_xml(test)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            data = build_dataset(settings)
    except Exception as error:
        raise DataError(why_unopened(test, error, where)) from error
    for said in misspelt_names(data):
        note(said)
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    try:
        for index in range(len(data)):
            image, scale = _image(data, index)
            listed.append(image)
            known = data.get_ann_info(index)
            objects += _objects(known, index + 1, len(objects), scale)
    except DataError:
        raise
    except Exception as error:
        name = where or test.get("ann_file")
        raise DataError(
            f"{name}: {test.get('type')} cannot read it: {one_line(error)}: correct it"
        ) from error
    if not listed:
        raise DataError(
            f"{where or test.get('ann_file')}: no images: there would be nothing to compare"
        )
    return _written(listed, objects, data.CLASSES, into)


def _image(data: Any, index: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """An image in COCO's form, and what its boxes are to be multiplied with across and down.

    Annotations that do not have the images' sizes, Open Images', have boxes in parts of them.
    """
    info = data.data_infos[index]
    info = info.get("img_info", info)
    image = {"id": index + 1, "file_name": info["filename"]}
    if "height" in info and "width" in info:
        return {**image, "height": int(info["height"]), "width": int(info["width"])}, (1, 1)
    size = _size(Path(data.img_prefix or "", info["filename"]))
    return {**image, **size}, (size["width"], size["height"])


def _objects(
    known: Mapping[str, Any], image: int, before: int, scale: tuple[int, int]
) -> list[dict[str, Any]]:
    """An image's objects in COCO's form."""
    groups = known.get("gt_is_group_ofs", np.zeros(len(known["bboxes"])))
    masks = known.get("masks") or ()
    rows = list(zip(known["bboxes"], known["labels"], map(int, groups), strict=True))
    ignored = np.reshape(known.get("bboxes_ignore", ()), (-1, 4))
    labels = known.get("labels_ignore")
    rows += [
        (box, 0 if labels is None else labels[number], 1) for number, box in enumerate(ignored)
    ]
    objects = []
    for number, (box, label, crowd) in enumerate(rows):
        left, top, right, bottom = (float(v) * by for v, by in zip(box, 2 * scale, strict=True))
        one = {
            "id": before + number + 1,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": crowd,
        }
        if not crowd and number < len(masks):
            one["segmentation"] = masks[number]
        objects.append(one)
    return objects


def _size(path: Path) -> dict[str, int]:
    header = read_header(path)
    if header is None:
        raise DataError(f"{path}: its size cannot be read: is it an image?")
    height, width = header.upright
    return {"height": height, "width": width}


def _written(
    images: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    into: Path,
) -> Path:
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return _saved({"images": images, "annotations": objects, "categories": categories}, into)


def _saved(document: Mapping[str, Any], into: Path) -> Path:
    """The file in the folder whose name is the document's hash; several processes may write it."""
    text = json.dumps(document)
    path = into / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    if not path.is_file():
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=into, suffix=".part", delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    return path
