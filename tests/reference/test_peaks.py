"""CornerNet's peaks: those that rounding may make are taken over, others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import corner_head

from pytest_onnxdet.data.batches import alone, collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.peaks import judge_first, judge_peaks, played_back_peaks
from pytest_onnxdet.reference.ties.proof import _with_peaks
from pytest_onnxdet.reference.ties.suppression import Unproven

UNIT = 6e-8


def heat(*cells: float) -> torch.Tensor:
    """One row of scores in a map of three rows."""
    values = torch.zeros(1, 1, 3, len(cells))
    values[0, 0, 1] = torch.tensor(cells)
    return values


def peaks(values: torch.Tensor) -> list[int]:
    result = corner_head.get_local_maximum(values, kernel=3)
    return (result[0, 0, 1] > 0).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("ours", "theirs", "keep"),
    [
        ((0.1, 0.5, 0.5, 0.1), (0.1, 0.5, 0.5 + UNIT, 0.1), [2]),  # both here, one there
        ((0.1, 0.5, 0.5 + UNIT, 0.1), (0.1, 0.5, 0.5, 0.1), [1, 2]),
        ((0.1, 0.5, 0.5 + UNIT, 0.1), (0.1, 0.5 + UNIT, 0.5, 0.1), [1]),
        ((0.1, 0.5, 0.3, 0.1), (0.1, 0.5, 0.3, 0.1), [1]),
    ],
)
def test_neighbours_that_tie_may_be_peaks_or_not(
    ours: tuple[float, ...], theirs: tuple[float, ...], keep: list[int]
) -> None:
    result = judge_peaks(heat(*ours), heat(*theirs), 3)
    assert result[0, 0, 1].nonzero()[:, 0].tolist() == keep == peaks(heat(*theirs))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((0.1, 0.5, 0.4998, 0.1), (0.1, 0.4997, 0.4998, 0.1)),  # 2e-4 in a score is no tie
        ((0.1, 0.5, 0.4, 0.1), (0.1, 0.5, 0.5, 0.1)),
        ((0.1, 0.9999, 0.99988, 0.1), (0.1, 0.9998, 0.99988, 0.1)),  # nor less where it saturates
    ],
)
def test_a_peak_that_is_none_by_more_than_rounding_is_refused(
    ours: tuple[float, ...], theirs: tuple[float, ...]
) -> None:
    with pytest.raises(Unproven, match="is a peak in one of the two only"):
        judge_peaks(heat(*ours), heat(*theirs), 3)


def test_mmdet_takes_them_for_its_corners_and_is_as_before_afterwards() -> None:
    original = corner_head.get_local_maximum
    ours, theirs = heat(0.1, 0.5, 0.5, 0.1), heat(0.1, 0.5, 0.5 + 1e-6, 0.1)
    with played_back_peaks([theirs.logit(), ours.logit()]):
        assert peaks(ours) == [2]
        assert peaks(ours) == [1, 2]
    assert corner_head.get_local_maximum is original


def best(values: torch.Tensor, count: int) -> list[int]:
    return corner_head.get_topk_from_heatmap(values, k=count)[4][0].int().tolist()


def test_of_corners_that_tie_for_the_last_place_either_is_taken() -> None:
    original = corner_head.get_topk_from_heatmap
    ours = heat(0.9, 0.0, 0.5, 0.0, 0.5 + UNIT, 0.0)
    theirs = heat(0.9, 0.0, 0.5 + UNIT, 0.0, 0.5, 0.0)
    assert best(ours, 2) == [0, 4]
    with played_back_peaks([theirs.logit(), ours.logit()]):
        peaks_of = [corner_head.get_local_maximum(ours, kernel=3) for _ in range(2)]
        assert best(peaks_of[0], 2) == [0, 2]
        assert best(peaks_of[1], 2) == [0, 4]
    assert corner_head.get_topk_from_heatmap is original


@pytest.mark.parametrize("theirs", [(0.9, 0.0, 0.5003, 0.0, 0.5), (0.4, 0.0, 0.5, 0.0, 0.5)])
def test_a_corner_that_is_not_among_the_best_is_refused(theirs: tuple[float, ...]) -> None:
    ours = heat(0.9, 0.0, 0.5, 0.0, 0.5002)
    with pytest.raises(Unproven, match="among the best in one of the two only"):
        judge_first(ours, heat(*theirs), 2)


def test_each_image_of_a_batch_has_its_own_peaks() -> None:
    spec = builtin_registry().get("cornernet", "mini")
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    reference = Reference(build_detector(spec))
    batch = collate([dataset.sample(0), dataset.sample(1)])
    raw = reference.raw(batch)
    for place, (image, expected) in enumerate(
        zip(alone(batch), reference.post_process(raw, batch, lowest_first=True), strict=True)
    ):
        own = {name: value[place : place + 1] for name, value in raw.items()}
        (result,) = _with_peaks(
            reference, own, image, [own[name] for name in reference.family.ties.peaks]
        )
        np.testing.assert_array_equal(result.boxes, expected.boxes)
        raised = own["tl_heat"] + np.float32(0.01) * np.random.default_rng(0).random(
            own["tl_heat"].shape, np.float32
        )
        assert _with_peaks(reference, own, image, [raised, own["br_heat"]]) == []
