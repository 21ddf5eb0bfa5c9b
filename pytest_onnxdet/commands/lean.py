"""mmdet's COCO evaluation without what it does for nobody."""

from __future__ import annotations

import contextlib
import marshal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from pytest_onnxdet.collection import without_collection
from pytest_onnxdet.data.evaluation import compiled_matching, without_outlines

# What writes the files, reads them back, and asks the annotations for `loadRes`.
_OWN = ("evaluate", "evaluate_det_segm", "format_results", "results2json")


def evaluation_of(dataset: Any, *, files: bool) -> contextlib.AbstractContextManager[None]:
    """What the data set's evaluation can be sped up by.

    A subclass may do with files and annotations what it likes: LVIS has no ``loadRes`` and reads
    JSON by its own library, Cityscapes names the files otherwise. Only what is CocoDataset's own
    throughout is evaluated leanly; in others the matching alone is compiled.

    Args:
        dataset: a CocoDataset or one of a subclass.
        files: whether its files are wanted.
    """
    from mmdet.datasets import CocoDataset

    if all(getattr(type(dataset), name) is getattr(CocoDataset, name) for name in _OWN):
        return lean_evaluation(dataset, files=files)
    return compiled_matching()


@contextlib.contextmanager
def lean_evaluation(dataset: Any, *, files: bool) -> Iterator[None]:
    """For the duration of the block, ``dataset.evaluate`` takes a third of the time.

    mmdet writes every box as JSON text into a folder that is gone afterwards, and reads it back:
    half the time; the files hold Python's own bytes instead. pycocotools adds to every box its
    outline, a fifth of the memory, which nothing looks at. Figures are the same.

    Args:
        dataset: evaluated by CocoDataset's own methods; it and mmdet are as before afterwards.
        files: whether the files are wanted, so that they have to be JSON.
    """
    import mmdet.datasets.coco as place

    own, load_results = place.mmcv, dataset.coco.loadRes

    def slim(entries: Any) -> Any:
        without_outlines(entries)
        return load_results(entries)

    if not files:
        place.mmcv = SimpleNamespace(dump=_dump, load=_load)
    dataset.coco.loadRes = slim
    try:
        with compiled_matching(), without_collection():
            yield
    finally:
        place.mmcv = own
        del dataset.coco.loadRes


def _dump(entries: Any, path: str) -> None:
    with open(path, "wb") as file:
        marshal.dump(entries, file)


def _load(path: str) -> Any:
    with open(path, "rb") as file:
        return marshal.load(file)
