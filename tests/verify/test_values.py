"""The values of a batch: what a consumer reads and a comparison of detections would not see."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.families.registry import clips_boxes
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.values import check_values

Change = Callable[[dict[str, Any]], None]


def batch(rows: int = 2) -> Batch:
    meta = {
        "filename": "some/where/street.png",
        "img_shape": (60, 80, 3),
        "ori_shape": (60, 80, 3),
        "scale_factor": np.ones(4, np.float32),
    }
    images = np.zeros((rows, 3, 64, 96), np.float32)
    return Batch(images, np.array([[60, 80]] * rows), [meta] * rows)


def good() -> dict[str, Any]:
    """Two detections and two empty slots in each of two images."""
    row = [[0, 0, 80, 60, 0.9], [10, 5, 30, 25, 0.4], [0] * 5, [0] * 5]
    return {
        "dets": np.array([row, row], np.float32),
        "labels": np.array([[2, 0, -1, -1]] * 2),
        "masks": np.full((2, 4, 2, 2), 0.5, np.float32),
    }


def check(outputs: dict[str, Any], **more: Any) -> None:
    check_values(outputs, batch(), **{"classes": 3, "clips": True, "case_id": "a-case", **more})


def test_what_keeps_the_contract_passes() -> None:
    check(good())
    nothing = {"dets": np.zeros((2, 1, 5), np.float32), "labels": np.full((2, 1), -1)}
    check(nothing)
    check({"dets": np.zeros((2, 0, 5), np.float32), "labels": np.zeros((2, 0), int)})


def set_det(slot: int, column: int, value: float) -> Change:
    def change(outputs: dict[str, Any]) -> None:
        outputs["dets"][1, slot, column] = value

    return change


def set_label(slot: int, value: int) -> Change:
    def change(outputs: dict[str, Any]) -> None:
        outputs["labels"][1, slot] = value

    return change


def ghosts(outputs: dict[str, Any]) -> None:
    """What ``Where(labels < 0, [1, 1, 5, 5, .9], dets)`` makes of the graph's end."""
    outputs["dets"][outputs["labels"] < 0] = [1, 1, 5, 5, 0.9]


def empty_first(outputs: dict[str, Any]) -> None:
    for name in ("dets", "labels"):
        outputs[name] = np.roll(outputs[name], 1, axis=1)


def mask_of(value: float) -> Change:
    def change(outputs: dict[str, Any]) -> None:
        outputs["masks"][1, 1, 0, 1] = value

    return change


FAULTS = {
    "ghosts": (ghosts, "slot 2: an empty slot (label -1) that is not all 0"),
    "unlabelled": (set_label(1, -1), "slot 1: an empty slot (label -1) that is not all 0"),
    "labelled": (set_label(2, 0), "slot 2: a label in an empty slot (all 0)"),
    "empty first": (empty_first, "slot 1: a detection behind an empty slot"),
    "minus two": (set_label(0, -2), "slot 0: a negative label other than -1"),
    "no such class": (set_label(1, 3), "slot 1: a label beyond the 3 classes"),
    "unsorted": (set_det(0, 4, 0.3), "slot 1: a score above the one before it"),
    "score above 1": (set_det(0, 4, 1.01), "slot 0: a score outside 0 to 1"),
    "score below 0": (set_det(1, 4, -0.1), "slot 1: a score outside 0 to 1"),
    "score NaN": (set_det(1, 4, np.nan), "slot 1: a value that is not finite"),
    "box infinite": (set_det(0, 2, np.inf), "slot 0: a value that is not finite"),
    "swapped": (set_det(1, 3, 4.0), "slot 1: corners swapped"),
    "outside": (set_det(0, 2, 81.0), "slot 0: a box outside the image of 60 x 80"),
    "left of it": (set_det(1, 0, -1.0), "slot 1: a box outside the image of 60 x 80"),
    "mask NaN": (mask_of(np.nan), "slot 1: mask probabilities from nan to nan"),
    "mask logit": (mask_of(4.0), "slot 1: mask probabilities from 0 to 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_departure_is_named_with_image_slot_and_value(fault: str) -> None:
    change, text = FAULTS[fault]
    outputs = good()
    change(outputs)
    with pytest.raises(CheckFailed, match=r"^a-case: ") as caught:
        check(outputs)
    assert caught.value.stage == "contract"
    assert f"image 1 (street.png), {text}" in str(caught.value)


def test_ghosts_were_invisible_to_what_reads_detections() -> None:
    """The fault this is for: the same detections, and 0.9 twice for whoever goes by scores."""
    clean, haunted = good(), good()
    ghosts(haunted)
    for ours, theirs in zip(
        from_outputs(clean, batch()), from_outputs(haunted, batch()), strict=True
    ):
        np.testing.assert_array_equal(ours.scores, theirs.scores)
    with pytest.raises(CheckFailed):
        check(haunted)


def test_rows_that_only_fill_a_batch_are_looked_at() -> None:
    outputs, filled = good(), batch()
    filled.valid = 1
    set_det(0, 4, 0.3)(outputs)
    with pytest.raises(CheckFailed):
        check_values(outputs, filled)


def test_boxes_may_be_outside_where_nothing_clips_and_by_the_slack() -> None:
    outputs = good()
    set_det(0, 2, 80.5)(outputs)
    check(outputs, clips=False)
    check(outputs, slack=1.0)
    with pytest.raises(CheckFailed):
        check(outputs, slack=0.1)


@pytest.mark.parametrize("name", ["dets", "labels", "masks"])
def test_shapes_that_do_not_belong_together_are_named(name: str) -> None:
    outputs = good()
    outputs[name] = outputs[name][:, :1]
    with pytest.raises(CheckFailed, match=name):
        check(outputs)


def test_rows_have_to_be_as_many_as_images() -> None:
    with pytest.raises(CheckFailed, match="for 3 image"):
        check_values(good(), batch(3))


def test_many_faults_are_counted() -> None:
    outputs = {name: np.repeat(value, 10, axis=0) for name, value in good().items()}
    outputs["labels"][:, 0] = 7
    with pytest.raises(CheckFailed, match=r"(?s)20 fault.*and 12 more") as caught:
        check_values(outputs, batch(20), classes=3)
    assert caught.value.metrics == {"contract_faults": 20}


def test_the_last_box_coder_says_whether_boxes_are_clipped() -> None:
    def head(clip: bool) -> SimpleNamespace:
        return SimpleNamespace(bbox_coder=SimpleNamespace(clip_border=clip))

    assert clips_boxes(SimpleNamespace(bbox_head=head(True)))
    assert not clips_boxes(SimpleNamespace(bbox_head=head(False)))
    assert not clips_boxes(SimpleNamespace(bbox_head=SimpleNamespace()))
    cascade = SimpleNamespace(bbox_head=[head(True), head(False)])
    assert not clips_boxes(SimpleNamespace(roi_head=cascade))
