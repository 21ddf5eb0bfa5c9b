"""Masks that are maps of the image: from a graph's outputs, through files, and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.bundle.format import read, write
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.data.image_maps import ImageMaps, boxes_of
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.recording import Recording
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.match import match
from pytest_onnxdet.verify.values import value_faults

SIZES = ((60, 90), (48, 71))
LOGITS = ImageMaps(threshold=0.0, logits=True, boxed=True, weighted=True)


def batch() -> Batch:
    """Two images in an input of 64 x 96, of another size when they were read."""
    metas = [
        {
            "img_shape": (height, width, 3),
            "ori_shape": (2 * height, 2 * width, 3),
            "scale_factor": np.full(4, 0.5, np.float32),
        }
        for height, width in SIZES
    ]
    return Batch(np.zeros((2, 3, 64, 96), np.float32), np.array(SIZES, np.int64), metas)


def maps_of(count: int, seed: int = 0) -> Any:
    """Maps (2, count, 16, 24) with a blob each, from 0 to 1."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :24]
    centres = draw.uniform((2, 2), (10, 14), (2, count, 2))
    distance = np.hypot(rows - centres[..., :1, None], columns - centres[..., 1:, None])
    return np.exp(-((distance / 3) ** 2)).astype(np.float32)


def found(maps: ImageMaps, count: int = 3, values: Any = None) -> list[Detections]:
    """What is read of outputs with ``count`` detections of one class in each image."""
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    dets = np.zeros((2, count, 5), np.float32)
    dets[..., 4] = scores
    outputs = {
        "dets": dets,
        "labels": np.zeros((2, count), np.int64),
        "masks": maps_of(count) if values is None else values,
    }
    assert value_faults(outputs, batch(), logits=maps.logits) == []
    return from_outputs(outputs, batch(), maps=maps)


def test_a_text_is_read_as_it_was_written() -> None:
    maps = ImageMaps(enlarged=4, threshold=0.4)
    assert ImageMaps.read(maps.text()) == maps
    assert ImageMaps.read(None) is None
    with pytest.raises(ValueError, match="image_maps is"):
        ImageMaps.read('{"later": 1}')


def test_masks_have_the_original_size_and_padding_is_cut() -> None:
    for one, (height, width) in zip(found(ImageMaps(enlarged=4)), SIZES, strict=True):
        assert one.frame is not None
        assert one.frame.image == (height, width)
        assert one.masks is not None
        masks = np.stack(list(one.masks))
        assert masks.shape == (3, 2 * height, 2 * width)
        assert masks.any(axis=(1, 2)).all()
        assert not one.boxes.any()


def test_boxes_and_scores_of_masks() -> None:
    values = 8 * maps_of(3) - 4
    values[0, 1] = -1.0  # an empty mask: its score is 0, and it comes last
    first, second = found(LOGITS, values=values)
    assert first.scores[-1] == 0
    assert not first.boxes[-1].any()
    assert (np.diff(second.scores) <= 0).all()
    assert (second.scores < [0.9, 0.9, 0.9]).all()
    assert second.masks is not None
    np.testing.assert_array_equal(boxes_of(np.stack(list(second.masks))), second.boxes)


def test_logits_are_no_probabilities() -> None:
    outputs: dict[str, Any] = {
        "dets": np.array([[[0, 0, 0, 0, 0.5]]] * 2, np.float32),
        "labels": np.zeros((2, 1), np.int64),
        "masks": np.full((2, 1, 16, 24), -3.0, np.float32),
    }
    assert "mask probabilities from -3" in value_faults(outputs, batch())[0]
    assert value_faults(outputs, batch(), logits=True) == []
    outputs["masks"][1, 0, 0, 0] = np.nan
    assert "not finite" in value_faults(outputs, batch(), logits=True)[0]


def test_detections_without_boxes_are_paired_by_their_masks() -> None:
    (one, _) = found(ImageMaps(enlarged=4))
    tied = replace(one, scores=np.full(3, 0.5, np.float32)).packed()
    order = [2, 0, 1]
    assert tied.mask_probs is not None and one.masks is not None
    other = replace(
        tied,
        masks=np.stack([one.masks[k] for k in order]),
        mask_probs=tied.mask_probs[order],
    )
    assert match(tied, other, Tolerance()) == [(0, 1), (1, 2), (2, 0)]
    assert compare_detections([tied], [other], Tolerance()).ok
    wrong = replace(other, masks=other.masks[::-1], mask_probs=other.mask_probs[::-1].copy())  # type: ignore[index]
    shifted = replace(wrong, masks=np.roll(np.asarray(wrong.masks), 9, axis=2))
    result = compare_detections([tied], [shifted], Tolerance())
    assert {fault.kind for fault in result.faults} == {"mask_iou"}


def test_a_score_may_lie_in_its_range() -> None:
    (one, _) = found(ImageMaps(enlarged=4))
    candidate = replace(one, scores=one.scores - np.float32(0.002))
    assert not compare_detections([one], [candidate], Tolerance()).ok
    ranges = np.stack([one.scores - np.float32(0.003), one.scores], axis=1)
    ranged = replace(one, score_range=ranges)
    assert compare_detections([ranged], [candidate], Tolerance()).ok
    below = replace(one, scores=one.scores - np.float32(0.004))
    assert not compare_detections([ranged], [below], Tolerance()).ok


def test_a_box_of_a_mask_may_differ_as_pixels_at_the_threshold_do() -> None:
    (one, _) = found(LOGITS, values=8 * maps_of(3) - 4)
    assert one.mask_probs is not None and one.masks is not None and one.frame is not None
    size = np.asarray(one.masks).shape[1:]
    # A candidate that cuts a hair lower: more pixels, and larger boxes.
    moved = one.mask_probs + np.float32(2e-5)
    masks = one.frame.paste(moved, size)
    candidate = replace(one, masks=masks, mask_probs=moved, boxes=boxes_of(masks))
    assert compare_detections([one], [candidate], Tolerance()).ok
    candidate = replace(candidate, boxes=candidate.boxes + np.float32(1))
    result = compare_detections([one], [candidate], Tolerance())
    assert {fault.kind for fault in result.faults} == {"box_shift"}


def test_recordings_keep_them(tmp_path: Path) -> None:
    empty = Detections(
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros(0, np.int64),
        np.zeros((0, 1, 1), bool),
    )
    kept = [*(one.packed() for one in found(ImageMaps(enlarged=4))), empty.packed()]
    recording = Recording(
        inputs="x",
        batch=1,
        images=("a", "b", "c"),
        sizes=((1, 1),) * 3,
        detections=tuple(kept),
        raw=(),
        versions={},
    )
    write(tmp_path / "r.npz", recording)
    again = read(tmp_path / "r.npz").detections
    assert [one.frame for one in again] == [one.frame for one in kept]
    for ours, wanted in zip(again[:2], kept, strict=False):
        assert ours.mask_probs is not None and wanted.mask_probs is not None
        np.testing.assert_array_equal(ours.mask_probs, wanted.mask_probs)
        assert compare_detections([wanted], [ours], Tolerance()).ok
