"""The range of PointRend's masks holds what any choice among equals gives, and no more."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pytest_onnxdet.data.batches import Batches
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.points import SLACK, choices


def test_every_logit_within_the_bounds_chooses_the_sure_and_none_but_the_possible():
    random = torch.Generator().manual_seed(0)
    low = torch.randn(4, 30, generator=random)
    high = low + 0.2 * torch.rand(4, 30, generator=random)
    sure, possible = choices(low, high, 10, slack=0.0)
    assert (sure <= possible).all() and sure.any() and not possible.all()
    assert (sure.sum(1) <= 10).all() and (possible.sum(1) >= 10).all()
    for _ in range(300):
        logits = low + (high - low) * torch.rand(4, 30, generator=random)
        taken = torch.zeros_like(sure).scatter(1, torch.topk(-logits.abs(), 10, dim=1).indices, 1)
        assert (sure <= taken).all() and (taken <= possible).all()


def test_points_are_told_apart_from_twice_the_slack_on():
    near, far = torch.tensor([[1.0, 1 + SLACK, 3]]), torch.tensor([[1.0, 1 + 3 * SLACK, 3]])
    assert choices(near, near, 1)[1].tolist() == [[True, True, False]]
    assert not choices(near, near, 1)[0].any()
    assert choices(far, far, 1)[0].tolist() == choices(far, far, 1)[1].tolist()


def test_all_points_are_taken_where_there_are_no_more():
    logits = torch.zeros(2, 5)
    assert all(one.all() for one in choices(logits, logits, 5))


@pytest.fixture(scope="module")
def refined():
    """Detections of two images by the PointRend mini, and its mask head's points."""
    spec = builtin_registry().get("point_rend", "mini")
    detector = build_detector(spec)
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    batch = next(iter(Batches(dataset, 2)))
    return Reference(detector).run(batch, mask_ranges=True)


def test_the_range_holds_mmdets_masks_and_is_narrow(refined):
    open_pixels = total = 0
    for image in refined:
        assert image.mask_range is not None and image.mask_probs is not None
        low, high = image.mask_range[:, 0], image.mask_range[:, 1]
        # Each point is computed in another order of rows here: float32's last digits differ.
        assert (low - 1e-5 <= image.mask_probs).all() and (image.mask_probs <= high + 1e-5).all()
        open_pixels += int((high - low > 1e-3).sum())
        total += low.size
    assert total > 0
    assert open_pixels < 0.001 * total


def test_a_mask_without_the_last_refinement_is_outside(refined):
    for image in refined:
        half = torch.from_numpy(image.mask_probs)[None, :, ::2, ::2]
        coarse = functional.interpolate(half, scale_factor=2, mode="bilinear")[0].numpy()
        beyond = np.maximum(image.mask_range[:, 0] - coarse, coarse - image.mask_range[:, 1])
        assert beyond.max() > 0.01


def test_without_being_asked_nothing_is_watched(refined):
    spec = builtin_registry().get("point_rend", "mini")
    detector = build_detector(spec)
    reference = Reference(detector)
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    assert reference.run(next(iter(Batches(dataset, 1))))[0].mask_range is None
    assert "_mask_point_forward_test" not in vars(detector.roi_head)
