"""Masks in ``onnxdet export --verify`` that differ only where floats tie: accepted, and told."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_onnxdet.commands.images import SAMPLE
from pytest_onnxdet.commands.verify import Trial, _compare
from pytest_onnxdet.data.detections import Detections, paste_masks
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()  # masks are pasted by mmdet

BOX = np.array([[2, 2, 30, 30]], np.float32)


def one(probs: NDArray[np.float32], **more: Any) -> Detections:
    """One detection of 28 x 28 pixels, a cell of the mask's map each."""
    masks = paste_masks(probs, BOX, (32, 32))
    scores, labels = np.array([0.9], np.float32), np.array([0])
    return Detections(BOX, scores, labels, masks, probs, **more)


def flat(at: float) -> NDArray[np.float32]:
    """Probabilities of 0.9, and one of another value."""
    probs = np.full((1, 28, 28), 0.9, np.float32)
    probs[0, 10, 10] = at
    return probs


class Fixed:
    """A reference that gives what it was made with."""

    def __init__(self, plain: Detections, ranged: Detections | None = None) -> None:
        cfg = SimpleNamespace(model={})
        self.detector = SimpleNamespace(CLASSES=("disc",), cfg=cfg)
        self.plain, self.ranged, self.asked = plain, ranged or plain, 0

    def run(self, batch: Any, mask_ranges: bool = False) -> list[Detections]:
        self.asked += mask_ranges
        return [self.ranged if mask_ranges else self.plain]


def compare(reference: Fixed, found: Detections) -> Any:
    trial = Trial("t", None, (SAMPLE,))
    return _compare(reference, [reference.plain], [found], trial, Tolerance())


def test_a_pixel_at_the_threshold_is_a_tie_and_counted() -> None:
    reference = Fixed(one(flat(0.5002)))
    result, tied = compare(reference, one(flat(0.4998)))
    assert result.ok and not reference.asked
    assert result.worst["mask_iou"].value < Tolerance().mask_iou
    assert tied == ["1 of the masks differ only in pixels that tie with the threshold"]


def test_equal_masks_are_nothing_to_tell() -> None:
    result, tied = compare(Fixed(one(flat(0.7))), one(flat(0.7)))
    assert result.ok and tied == []


@pytest.mark.parametrize("at", [0.49, 0.1])
def test_a_pixel_that_is_no_tie_is_a_fault(at: float) -> None:
    result, _ = compare(Fixed(one(flat(0.6))), one(flat(at)))
    assert {fault.kind for fault in result.faults} == {"mask_iou", "mask_drift"}


def test_masks_within_pointrends_bounds_are_accepted_and_told() -> None:
    plain = one(flat(0.9))
    bounds = np.stack([flat(0.2), flat(0.9)], axis=1)
    reference = Fixed(plain, one(flat(0.9), mask_range=bounds))
    result, tied = compare(reference, one(flat(0.3)))
    assert result.ok and reference.asked == 1
    assert tied == [
        "masks within what points of equal certainty leave open, 1 of them below the least IoU"
    ]


def test_masks_beyond_pointrends_bounds_are_a_fault() -> None:
    bounds = np.stack([flat(0.6), flat(0.9)], axis=1)
    result, _ = compare(Fixed(one(flat(0.9)), one(flat(0.9), mask_range=bounds)), one(flat(0.3)))
    assert {fault.kind for fault in result.faults} == {"mask_iou", "mask_drift"}
