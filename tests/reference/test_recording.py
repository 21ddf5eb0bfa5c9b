"""The reference's side as data: what is recorded, and how much of it stays in memory."""

import hashlib
from typing import Any

import numpy as np
import pytest
from recording_samples import VERSIONS, detections

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.reference import recording as module
from pytest_onnxdet.reference.recording import packed, record


def batch(*sides: int, valid: int = -1, seed: int = 0) -> Batch:
    """Square images of these sides, 64 px after padding."""
    images = np.random.default_rng(seed).random((len(sides), 3, 64, 64), dtype=np.float32)
    shapes = np.array([[side, side] for side in sides])
    metas = [{"ori_shape": (side, 2 * side, 3)} for side in sides]
    return Batch(images, shapes, metas, valid)


class Counting:
    """A detector that finds one thing an image, and notes what it ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, batch: Batch) -> list[Any]:
        self.ran.append("run")
        return [detections(1)] * batch.valid

    def raw(self, batch: Batch) -> dict[str, Any]:
        self.ran.append("raw")
        return {"cls": batch.images[:, :1]}


def recorded(batches: list[Batch], images: int) -> Any:
    detector = Counting()
    names = [f"{number}.png" for number in range(images)]
    made = record(detector, iter(batches), size=2, images=names, versions=VERSIONS)
    return made, detector


def test_every_batch_is_run_once_and_the_first_ones_raw_outputs_are_recorded() -> None:
    batches = [batch(20, 30, seed=n) for n in range(5)] + [batch(40, 20, valid=1)]
    made, detector = recorded(batches, 11)
    assert detector.ran.count("run") == 6
    assert detector.ran.count("raw") == len(made.raw) == module.RAW_IMAGES // 2
    assert np.array_equal(made.raw[1]["cls"], batches[1].images[:, :1])
    assert len(made.detections) == 11
    assert made.sizes[:2] == ((20, 40), (30, 60)) and made.sizes[-1] == (40, 80)
    assert (made.batch, made.images[10], made.versions) == (2, "10.png", VERSIONS)
    assert made.noise is None


def test_the_digest_is_of_what_the_network_gets() -> None:
    digests = {
        recorded(batches, 2)[0].inputs
        for batches in (
            [batch(20, 30)],
            [batch(20, 30, seed=1)],
            [batch(20, 31)],  # the same pixels, another image_shape
        )
    }
    assert len(digests) == 3
    assert recorded([batch(20, 30)], 2)[0].inputs in digests
    assert all(len(digest) == len(hashlib.sha256().hexdigest()) for digest in digests)


def test_names_for_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 names, 2 sizes, 2 images' detections"):
        recorded([batch(20, 30)], 3)


@pytest.mark.parametrize(
    ("allowed", "minimum", "keep"),
    [
        (3 * 392, 0, [True, True, False, False, False]),  # 2 and 1 masks fill it, the next do not
        (0, 2, [True, True, False, False, False]),
        (10**6, 0, [True] * 5),
        (0, 0, [False] * 5),
    ],
)
def test_probabilities_of_as_many_images_as_fit(
    monkeypatch: pytest.MonkeyPatch, allowed: int, minimum: int, keep: list[bool]
) -> None:
    """What is kept are the first images': a file of results stores no other."""
    monkeypatch.setattr(module, "PROBABILITY_BYTES", allowed)
    monkeypatch.setattr(module, "PROBABILITY_MIN", minimum)
    every = [detections(count, (5, 7)) for count in (2, 1, 4, 0, 1)]

    stored = packed(iter(every))

    assert [one.mask_probs is not None for one in stored] == keep
    assert [len(one.masks) for one in stored] == [2, 1, 4, 0, 1]  # all pasted masks stay


def test_full_size_probabilities_stay_within_a_budget() -> None:
    """PointRend's, of which 100 images would be 2 GB for each set of detections."""
    image = 100 * 224 * 224 * 4
    assert 4 * image < module.PROBABILITY_BYTES < 20 * image
    assert module.PROBABILITY_BYTES > module.PROBABILITY_IMAGES * 100 * 28 * 28 * 4


def test_of_small_masks_no_more_images_probabilities_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else 5,000 images with few masks would hold 62 MB where 500 hold 6."""
    monkeypatch.setattr(module, "PROBABILITY_IMAGES", 2)
    monkeypatch.setattr(module, "PROBABILITY_MIN", 1)
    stored = packed(detections(1, (5, 7)) for _ in range(4))
    assert [one.mask_probs is not None for one in stored] == [True, True, False, False]
