"""Whatever a COCO json says: it is refused in one line, or pycocotools evaluates it."""

import contextlib
import copy
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_onnxdet.data.annotations import read_annotations
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.json_file import read_json
from pytest_onnxdet.data.segmentation import run_lengths

H, W = 24, 30
EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True, database=None)
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
SOUND: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": H, "width": W},
        {"id": 2, "file_name": "2.png", "height": H, "width": W},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [2, 2, 10, 10],
            "area": 100,
            "iscrowd": 0,
            "segmentation": segmentation,
        }
        for number, image, category, segmentation in (
            (1, 1, 1, [SQUARE]),
            (2, 1, 7, [SQUARE, SQUARE]),
            (3, 2, 7, {"size": [H, W], "counts": [H * W - 30, 30]}),
            (4, 2, 1, {"size": [H, W], "counts": "be0n0"}),
        )
    ],
}
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([H, W, H * W, 1e308, -1e308]),
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.sampled_from(["1", "cat"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A sound file of which some places are something else, absent, or there twice."""
    document = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        while True:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(list(keys)))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
                continue
            action = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
            if action == "replace":
                place[key] = draw(VALUES)
            elif action == "remove":
                del place[key]
            elif isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            break
    return document


def evaluate(document: dict[str, Any], kind: str) -> None:
    """As mmdet does, by pycocotools, of detections that are the objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        entries = [
            {
                "image_id": one["image_id"],
                "category_id": one["category_id"],
                "score": 0.5,
                "bbox": [1.0, 1.0, 9.0, 9.0],
            }
            for one in document["annotations"]
        ]
        if kind == "segm":
            for entry, one in zip(entries, document["annotations"], strict=True):
                entry["segmentation"] = truth.annToRLE(one)
                entry.pop("bbox")
        if not entries:
            return
        evaluation = COCOeval(truth, truth.loadRes(entries), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()


def try_one(document: Any, masks: bool) -> bool:
    """Whether the checker took it; then it can be evaluated."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(document))
        try:
            found = read_annotations(path, masks=masks, measure=lambda image: (H, W))
        except DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            return False
    evaluate(found.document, "segm" if masks else "bbox")
    assert all("\n" not in note for note in found.notes)
    return True


def test_the_sound_file_is_taken() -> None:
    assert try_one(SOUND, masks=True) and try_one(SOUND, masks=False)


@EXAMPLES
@given(documents())
def test_boxes_are_evaluated_or_refused(document: Any) -> None:
    try_one(document, masks=False)


@EXAMPLES
@given(documents())
def test_masks_are_evaluated_or_refused(document: Any) -> None:
    try_one(document, masks=True)


@EXAMPLES
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(raw)
        try:
            document, _ = read_json(path)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
        else:
            assert isinstance(document, dict)


@EXAMPLES
@given(st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_run_lengths_are_read_as_they_were_written(height: int, width: int, chance: Any) -> None:
    from pycocotools import mask as runs

    pixels = [chance.random() < chance.choice([0.1, 0.5, 0.9]) for _ in range(height * width)]
    mask = np.asfortranarray(np.array(pixels, np.uint8).reshape(height, width))
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    counts = [0] * bool(flat[0]) + np.diff([0, *borders, flat.size]).tolist()
    assert run_lengths(runs.encode(mask)["counts"].decode()) == counts
