"""What is known of an image, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import GPU, Tolerance
from pytest_onnxdet.run import by_image
from pytest_onnxdet.run.by_image import ByInput, Proven, input_key


def image(value: float = 0.5, height: int = 8, name: str = "a.png", inner: int = 6) -> Batch:
    """A batch of one."""
    meta = {"filename": name, "img_shape": (inner, 8, 3), "scale_factor": np.ones(4, np.float32)}
    pixels = np.full((1, 3, height, 8), value, np.float32)
    return Batch(pixels, np.array([[inner, 8]]), [meta])


def detections(count: int = 1) -> Detections:
    scores, labels = np.full(count, 0.5, np.float32), np.zeros(count, np.int64)
    return Detections(np.ones((count, 4), np.float32), scores, labels)


@pytest.mark.parametrize(
    "other",
    [image(0.6), image(height=9), image(name="b.png"), image(inner=5)],
    ids=["pixels", "padding", "name", "size"],
)
def test_all_that_a_detector_is_fed_is_in_the_key(other: Batch) -> None:
    assert input_key(image()) == input_key(image()) != input_key(other)


def test_a_value_is_made_once() -> None:
    ran: list[Batch] = []
    values = ByInput[int]()
    for one in (image(), image(), image(0.7)):
        assert values.get(one, lambda batch: ran.append(batch) or len(ran)) == len(ran)
    assert len(ran) == 2


def test_proven_alternatives_of_the_first_images_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_image, "PROVEN_BYTES", 40)
    proven = Proven()
    proven.add(image(0.1), Tolerance(), [detections()])
    proven.add(image(0.2), Tolerance(), [detections(), detections()])
    assert proven.of(image(0.1), Tolerance()) == []
    assert len(proven.of(image(0.2), Tolerance())) == 2
    proven.add(image(0.3), Tolerance(), [detections(9)])
    assert proven.of(image(0.3), Tolerance()) == [] == proven.of(image(0.2), Tolerance())


def test_what_a_wider_allowance_proves_counts_for_no_other() -> None:
    proven = Proven()
    proven.add(image(), GPU, [detections()])
    assert len(proven.of(image(), GPU)) == 1
    assert proven.of(image(), Tolerance()) == []
