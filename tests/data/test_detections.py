"""Detections of many images in little memory are the same detections."""

import numpy as np
import pytest

from pytest_onnxdet.data import detections as module
from pytest_onnxdet.data.detections import Detections, in_little_memory
from pytest_onnxdet.data.masks import RunLengthMasks


def made(count: int, seed: int) -> Detections:
    rng = np.random.default_rng(seed)
    return Detections(
        rng.random((count, 4), np.float32),
        rng.random(count, np.float32),
        rng.integers(0, 9, count),
        rng.random((count, 6, 7)) < 0.5,
        rng.random((count, 2, 2), np.float32),
    )


def test_nothing_changes_but_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER", 3)
    every = [made(count, seed) for seed, count in enumerate((2, 0, 4, 1, 3))]

    packed = in_little_memory(iter(every))

    assert len(packed) == len(every)
    for ours, own in zip(packed, every, strict=True):
        for name in ("boxes", "scores", "labels", "mask_probs"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(own, name))
            assert getattr(ours, name).dtype == getattr(own, name).dtype
        assert ours.masks is own.masks
    bases = [one.boxes.base for one in packed]
    assert bases[0] is bases[2] and bases[3] is bases[4] and bases[2] is not bases[3]


def test_a_column_of_the_outputs_lets_go_of_them() -> None:
    """A graph's scores are a column of dets, and an image's dets a part of the batch's."""
    dets = np.zeros((5, 5), np.float32)
    (packed,) = in_little_memory([Detections(dets[:, :4], dets[:, 4], np.zeros(5, np.int64))])
    assert not np.shares_memory(packed.scores, dets) and not np.shares_memory(packed.boxes, dets)


def test_masks_are_encoded_one_by_one_and_kept_as_one() -> None:
    from pytest_onnxdet.data.masks import encode

    own = made(4, 0).masks
    assert isinstance(own, np.ndarray)
    masks = RunLengthMasks.encode(own)

    assert len(masks) == 4
    assert masks.encoded == [encode(mask) for mask in own]
    np.testing.assert_array_equal(np.stack(list(masks)), own)
    with pytest.raises(IndexError, match="mask 4 of 4"):
        masks[4]
    with pytest.raises(ValueError, match="several sizes"):
        RunLengthMasks([encode(own[0]), encode(own[1][:4])])
    assert len(RunLengthMasks([])) == 0 and RunLengthMasks([]).encoded == []
