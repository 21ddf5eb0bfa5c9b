"""An object's outline in a COCO file: polygons, or run lengths, compressed or not."""

from __future__ import annotations

import math
from typing import Any

from pytest_onnxdet.core.numbers import is_number

#: How many sides of the image a point may lie away.
_FAR = 10


def wrong_segmentation(value: Any, size: tuple[int, int]) -> str:
    """Why pycocotools cannot make a mask of it; empty where it can.

    Args:
        value: a list of polygons, each ``[x, y, x, y, ...]``, or run lengths as
            ``{"size": [H, W], "counts": ...}``, counts being numbers or COCO's compressed text.
        size: (H, W) of the image.
    """
    if value is None:
        return "is missing"
    if isinstance(value, dict):
        return _wrong_runs(value, size)
    if not isinstance(value, list):
        return f"is a {type(value).__name__}"
    if not value:
        return "is empty"
    for number, polygon in enumerate(value):
        # Of several, pycocotools takes one of two points; a first one would make boxes of all.
        if not isinstance(polygon, list) or len(polygon) < (4 if number else 6) or len(polygon) % 2:
            many = f" of {len(polygon)} numbers" if isinstance(polygon, list) else ""
            return f"has a polygon{many} in place of x, y, x, y, x, y, ..."
        if not all(map(is_number, polygon)):
            return "has a polygon with something else than numbers"
        # pycocotools draws the outline in memory, and has no limit of its own.
        if max(map(abs, polygon)) > _FAR * max(size):
            return f"has a point at {max(polygon, key=abs):g}, far outside of its image"
    return ""


def mask_area(value: Any, size: tuple[int, int]) -> float | None:
    """How many pixels it covers, as pycocotools counts them; None where it makes no mask."""
    if wrong_segmentation(value, size):
        return None
    from pycocotools import mask as runs

    encoded = value
    if isinstance(value, list):
        encoded = runs.merge(runs.frPyObjects(value, *size))
    elif isinstance(value["counts"], list):
        encoded = runs.frPyObjects(value, *size)
    return float(runs.area(encoded))


def _wrong_runs(value: dict[str, Any], size: tuple[int, int]) -> str:
    own, counts = value.get("size"), value.get("counts")
    if not isinstance(own, list) or [*own] != [*size]:
        return f"has the size {own}, but its image {[*size]}"
    if isinstance(counts, str):
        counts = run_lengths(counts)
    if not isinstance(counts, list):
        return "has no counts"
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return "has counts that are no run lengths"
    if sum(counts) != math.prod(size):
        return f"has counts for {sum(counts)} of {math.prod(size)} pixels"
    return ""


def run_lengths(text: str) -> list[int] | None:
    """The run lengths in COCO's compressed text; None where it is not one.

    Six bits a character from ``0`` on, five of a number and one that says that more follow; from
    the third run on, what is written is the difference to the last but one. pycocotools reads
    beyond the end of a text that breaks off, so it must not see one.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts
