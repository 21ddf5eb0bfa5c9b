"""COCO's matching, compiled: what pycocotools loops over in Python takes a third of the time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_NO_OUTLINE: list[float] = []


@contextlib.contextmanager
def compiled_matching() -> Iterator[None]:
    """For the duration of the block, mmdet's CocoDataset evaluates by faster-coco-eval.

    Its figures are pycocotools', but for the last bits of a float64, which mmdet rounds away. mmdet
    looks the class up in its own module, and there is no argument for it.
    """
    import mmdet.datasets.coco as place
    from faster_coco_eval import COCOeval_faster

    own = place.COCOeval
    place.COCOeval = COCOeval_faster
    try:
        yield
    finally:
        place.COCOeval = own


def without_outlines(entries: list[dict[str, Any]]) -> None:
    """Gives the boxes of a COCO result file an outline, which is empty.

    Else pycocotools' ``loadRes`` gives each one its own, a fifth of the memory, which nothing looks
    at. Entries without ``bbox`` are left alone: their masks are looked at.
    """
    for entry in entries:
        if "bbox" in entry:
            entry["segmentation"] = _NO_OUTLINE
