"""A COCO annotation file: read, checked and completed before any image is run.

mmdet and pycocotools look at a file's keys when they need them: a missing one is a ``KeyError``
after the last image, and two entries of one id are one without a word. Here every entry that
inference or evaluation uses is looked at first. What has one meaning only is completed (``iscrowd``
is 0, an area is that of the mask or the box) and said in a note; all else is refused with file, id
and key.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_onnxdet.core.numbers import is_number
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.json_file import read_json
from pytest_onnxdet.data.segmentation import mask_area, wrong_segmentation
from pytest_onnxdet.data.spelling import alike

#: Height and width of a listed image, by its entry.
Measure = Callable[[Mapping[str, Any]], tuple[int, int]]
_MAX_PX = 1 << 20  # of a side; OpenCV reads no larger images
_URLS = ("coco_url", "flickr_url", "url")  # where some files say that an image is to be had
_NAMED = 3  # how many ids a note quotes


@dataclass(frozen=True)
class Annotations:
    """A checked annotation file.

    Attributes:
        path: the file.
        document: what it says, completed.
        notes: what was completed, and what is odd, a sentence each.
        mended: whether mmdet would read something else from the file itself.
    """

    path: Path
    document: dict[str, Any]
    notes: tuple[str, ...]
    mended: bool


@dataclass
class _Remarks:
    """What is to be said of many entries at once: their kind and ids, by sentence."""

    path: Path
    said: dict[str, list[str]] = field(default_factory=dict)
    mended: bool = False

    def add(self, sentence: str, kind: str, number: Any) -> None:
        """A sentence with ``{}`` for the entries that it is true of."""
        self.said.setdefault(f"{kind}|{sentence}", []).append(str(number))

    def notes(self) -> tuple[str, ...]:
        notes = []
        for key, ids in self.said.items():
            kind, sentence = key.split("|", 1)
            which = f"{kind} {ids[0]}"
            if len(ids) > 1:
                more = ", ..." if len(ids) > _NAMED else ""
                which = f"{len(ids)} {kind}s ({', '.join(ids[:_NAMED])}{more})"
            notes.append(f"{self.path}: {sentence.format(which)}")
        return tuple(notes)


def read_annotations(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    objects: bool = True,
    measure: Measure | None = None,
) -> Annotations:
    """Read and check a COCO json.

    Args:
        path: the file.
        classes: what its categories have to be, in this order; None: anything.
        masks: whether masks are evaluated, which needs a segmentation of every object.
        objects: whether ``annotations`` has to be there; the files of a challenge's test images
            have none.
        measure: gives the size of an image whose entry has no ``height`` or ``width``.

    Raises:
        DataError: it cannot be read, or cannot be evaluated.
    """
    document, recoded = read_json(path)
    remarks = _Remarks(path, mended=recoded)
    images = _listed(path, document, "images", ("id", "file_name"))
    categories = _listed(path, document, "categories", ("id", "name"))
    if not images:
        raise DataError(f"{path}: lists no images: nothing to test")
    for category in categories:
        if not isinstance(category["name"], str):
            raise DataError(f"{path}: category {category['id']}: its name is no text: correct it")
    names = [category["name"] for category in categories]
    _unique(path, "category name", names)
    if classes is not None:
        check_classes(path, names, classes)
    for image in images:
        _complete_size(path, image, measure, remarks)
    if objects or "annotations" in document:
        keys = ("id", "image_id", "category_id", "bbox")
        entries = _listed(path, document, "annotations", keys)
        by_id = {image["id"]: image for image in images}
        known = {category["id"] for category in categories}
        for entry in entries:
            _check_object(path, entry, by_id, known, remarks, masks)
        if objects and all(entry["iscrowd"] for entry in entries):
            what = "all annotations are crowds" if entries else "there are no annotations"
            remarks.add(f"{what}: no object to find, and no AP (mmdet gives -1)", "", "")
    return Annotations(path, document, remarks.notes(), remarks.mended)


def check_classes(path: Path, mapped: Sequence[str], classes: Sequence[str]) -> None:
    """Refuses labels that mean one class to the model and another in the annotations.

    Args:
        path: the annotation file, for the message.
        mapped: the name of each label's category, as mmdet has numbered them. Its CocoDataset
            numbers them in the order of the file, whatever the order of ``classes``.
        classes: the names by label.

    Raises:
        DataError: they are others, or in another order.
    """
    unknown = [name for name in mapped if name not in classes]
    absent = [name for name in classes if name not in mapped]
    if unknown or absent:
        parts = [f"unknown categories {', '.join(unknown)}"] if unknown else []
        parts += [f"no category {', '.join(absent)}"] if absent else []
        parts.append(f"the data set's classes are {', '.join(classes)}")
        if reason := alike(absent, unknown):
            parts.append(reason)
        raise DataError(f"{path}: {'; '.join(parts)}: correct the file or the classes")
    if list(mapped) != list(classes):
        raise DataError(
            f"{path}: categories in the order {', '.join(mapped)}, but labels follow "
            f"{', '.join(classes)}: bring one in the order of the other"
        )


@contextlib.contextmanager
def for_mmdet(annotations: Annotations) -> Iterator[Path]:
    """A file from which mmdet reads what was checked: the file itself, or a copy for the while.

    Raises:
        DataError: the copy cannot be written.
    """
    if not annotations.mended:
        yield annotations.path
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="onnxdet-"))
            copy = Path(folder) / annotations.path.name
            # All ASCII: mmdet opens it in the locale's encoding.
            copy.write_text(json.dumps(annotations.document), encoding="ascii")
        except OSError as error:
            raise DataError(
                f"{annotations.path}: was completed, and the copy for mmdet cannot be written "
                f"({error}): set TMPDIR to a folder that can be written to"
            ) from error
        yield copy


def _listed(path: Path, document: dict[str, Any], name: str, keys: Sequence[str]) -> list[Any]:
    """The entries under ``name``, each a mapping that has ``keys``; ids are of one type, once."""
    entries = document.get(name)
    if not isinstance(entries, list):
        what = "no" if name not in document else "no list of"
        raise DataError(
            f"{path}: not a COCO annotation file: {what} {name}: it needs images, categories and "
            "annotations"
        )
    one = {"categories": "category"}.get(name, name[:-1])
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {name}[{number}] is no table: correct the file")
        which = f"{one} {entry['id']}" if "id" in entry else f"{name}[{number}]"
        for key in keys:
            if entry.get(key) is None:
                url = next((u for u in _URLS if key == "file_name" and entry.get(u)), None)
                instead = f" ({url} is not fetched: images are files below img_prefix)"
                raise DataError(f"{path}: {which} has no {key}{instead if url else ''}: add it")
        if type(entry["id"]) not in (int, str):
            raise DataError(
                f"{path}: {which}: an id of type {type(entry['id']).__name__}: give whole numbers"
            )
    if len({type(entry["id"]) for entry in entries}) > 1:
        raise DataError(f"{path}: {one} ids are both int and str: use one type")
    if name == "annotations" and entries and type(entries[0]["id"]) is str:
        raise DataError(f"{path}: annotation ids are texts: give whole numbers")
    _unique(path, f"{one} id", [entry["id"] for entry in entries])
    return entries


def _unique(path: Path, what: str, values: Sequence[Any]) -> None:
    if len(set(values)) < len(values):
        twice, times = Counter(values).most_common(1)[0]
        raise DataError(f"{path}: {what} {twice} is there {times} times: give each its own")


def _complete_size(
    path: Path, image: dict[str, Any], measure: Measure | None, remarks: _Remarks
) -> None:
    if not isinstance(image["file_name"], str) or not image["file_name"].strip():
        raise DataError(f"{path}: image {image['id']}: file_name is no file's name: correct it")
    absent = [key for key in ("height", "width") if image.get(key) is None]
    if absent and measure is not None:
        image["height"], image["width"] = measure(image)
        remarks.mended = True
        remarks.add("no height or width of {}: measured", "image", image["id"])
    elif absent:
        raise DataError(f"{path}: image {image['id']} has no {absent[0]}: add it")
    for key in ("height", "width"):
        if not is_number(image[key]) or not 1 <= image[key] <= _MAX_PX or image[key] % 1:
            raise DataError(f"{path}: image {image['id']}: {key} is {image[key]!r}: correct it")
        if isinstance(image[key], float):  # pycocotools makes no mask of such a size
            image[key] = int(image[key])
            remarks.mended = True


def _check_object(
    path: Path,
    entry: dict[str, Any],
    images: Mapping[Any, Mapping[str, Any]],
    categories: set[Any],
    remarks: _Remarks,
    masks: bool,
) -> None:
    """Refuses, or completes in place, one entry of ``annotations``."""
    number = entry["id"]
    for key, known in (("category_id", categories), ("image_id", images)):
        if not isinstance(entry[key], int | float | str) or entry[key] not in known:
            what = key.replace("_", " ")
            raise DataError(
                f"{path}: annotation {number} has the unknown {what} {entry[key]}: correct the file"
            )
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise DataError(
            f"{path}: annotation {number}: bbox is {_short(box)}: give x, y, width and height"
        )
    image = images[entry["image_id"]]
    if entry.get("iscrowd") is None:
        remarks.mended = True
        remarks.add("no iscrowd in {}: taken for 0", "annotation", number)
        entry["iscrowd"] = 0
    if entry["iscrowd"] not in (0, 1) or isinstance(entry["iscrowd"], str):
        raise DataError(
            f"{path}: annotation {number}: iscrowd is {_short(entry['iscrowd'])}: give 0 or 1"
        )
    size = image["height"], image["width"]
    if masks and (reason := wrong_segmentation(entry.get("segmentation"), size)):
        raise DataError(
            f"{path}: annotation {number}: segmentation {reason}: correct it, or leave segm out"
        )
    if entry.get("area") is None:
        remarks.mended = True
        area = mask_area(entry.get("segmentation"), size)
        whence = "box" if area is None else "segmentation"
        remarks.add(f"no area in {{}}: taken from the {whence}", "annotation", number)
        entry["area"] = max(0.0, box[2]) * max(0.0, box[3]) if area is None else area
    if not is_number(entry["area"]) or entry["area"] < 0:
        # pycocotools leaves an object of a negative area out of every AP.
        raise DataError(
            f"{path}: annotation {number}: area is {_short(entry['area'])}: give a number, 0 or "
            "more"
        )
    _odd(entry, box, size, remarks)


def _odd(
    entry: Mapping[str, Any], box: Sequence[float], size: Sequence[int], remarks: _Remarks
) -> None:
    """Notes what mmdet counts all the same."""
    number = entry["id"]
    if number == 0:
        remarks.add(
            "id 0 in {}: counts as missed, as pycocotools takes a match with it for none: number "
            "from 1",
            "annotation",
            number,
        )
    if box[2] <= 0 or box[3] <= 0:
        remarks.add(
            "a box of no size in {}: nothing can match it, and it counts as missed",
            "annotation",
            number,
        )
    elif box[0] >= size[1] or box[1] >= size[0] or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        remarks.add(
            "a box outside of its image in {}: hardly anything can match it, and it counts",
            "annotation",
            number,
        )
    elif box[0] + box[2] > size[1] + 1 or box[1] + box[3] > size[0] + 1:
        remarks.add(
            "a box that reaches beyond its image in {}: a bbox is x, y, width and height in pixels",
            "annotation",
            number,
        )
    elif max(box) <= 1:
        remarks.add(
            "a box within the first pixel in {}: a bbox is x, y, width and height in pixels, not "
            "shares of the image",
            "annotation",
            number,
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
