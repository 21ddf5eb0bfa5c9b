"""The XML files of a data set in Pascal VOC's layout: none that is none, and names spelt alike."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pytest_onnxdet.core.files import is_file, no_file
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.places import file_of
from pytest_onnxdet.data.spelling import alike


def require_xml(test: Mapping[str, Any]) -> None:
    """Refuses what is no file in the place of an XML file or its image, which mmdet would wait for.

    Args:
        test: a config's ``data.test``; of other data sets nothing is looked at.

    Raises:
        DataError: the message names the file, or the list whose first bytes are no name.
    """
    from mmdet.datasets import DATASETS, XMLDataset

    kind, listed = DATASETS.get(str(test.get("type"))), file_of(test, "ann_file")
    if kind is None or not issubclass(kind, XMLDataset) or listed is None or not is_file(listed):
        return
    root = Path(test.get("data_root") or "", test.get("img_prefix") or "")
    with contextlib.suppress(OSError, UnicodeDecodeError):  # mmdet says it
        names = listed.read_text(encoding="utf-8").split("\n")
        if names[0].startswith("\ufeff"):
            raise DataError(
                f"{listed}: begins with a byte order mark, which mmdet takes for a part of the "
                "first image's name: save it as UTF-8 without one"
            )
        for name in (name.rstrip("\r") for name in names):
            xml = root / str(test.get("ann_subdir", "Annotations")) / f"{name}.xml"
            image = root / str(test.get("img_subdir", "JPEGImages")) / f"{name}.jpg"
            for path, what in ((xml, "an annotation file"), (image, "an image")):
                if other := no_file(path):
                    raise DataError(f"{path}: is {other}, not {what}: replace it, or unlist {name}")


def misspelt_names(dataset: Any) -> tuple[str, ...]:
    """What is to be said of objects whose name is a class's in another spelling.

    mmdet leaves out objects of names that are no class's, as data sets have more classes than a
    detector knows.

    Args:
        dataset: mmdet's, opened; of those without XML files nothing is said.
    """
    from mmdet.datasets import XMLDataset

    if not isinstance(dataset, XMLDataset):
        return ()
    counts = Counter(_names(dataset))
    notes = []
    for name, count in counts.items():
        if name not in dataset.CLASSES and (reason := alike([name], dataset.CLASSES)):
            notes.append(f"{dataset.ann_file}: {reason}: {count} objects of that name do not count")
    return tuple(notes)


def _names(dataset: Any) -> Iterator[str]:
    for info in dataset.data_infos:
        path = Path(dataset.img_prefix or "", dataset.ann_subdir, f"{info['id']}.xml")
        with contextlib.suppress(OSError, ElementTree.ParseError):  # mmdet says it
            for one in ElementTree.parse(path).getroot().iter("object"):
                yield one.findtext("name") or ""
