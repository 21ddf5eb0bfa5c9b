"""Masks pasted into images: mmdet's own, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_onnxdet.data.masks import paste_masks

#: On processors without fused products and sums PyTorch rounds each.
ROUNDING = 4e-6


def boxes(seed: int, kind: str) -> np.ndarray:
    """Boxes within, across and beyond the borders of images of up to 160 px."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-40, 200, (2, 12, 2))
    made = np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1).astype(np.float32)
    if kind == "whole":
        return np.round(made)
    if kind == "flat":
        made[:, 2] = made[:, 0]
    if kind == "points":
        made[:, 2:] = made[:, :2]
    return made


@pytest.mark.parametrize("kind", ["any", "whole", "flat", "points"])
@pytest.mark.parametrize("cells", [(1, 1), (7, 7), (28, 28), (14, 9)])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_masks_are_mmdets(kind: str, cells: tuple[int, int], threshold: float) -> None:
    torch = pytest.importorskip("torch")
    from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

    ensure_torchvision()
    heads = pytest.importorskip("mmdet.models.roi_heads.mask_heads.fcn_mask_head")
    for seed in range(6):
        rng = np.random.default_rng(seed)
        height, width = rng.integers(1, 160, 2).tolist()
        rois, probs = boxes(seed, kind), rng.random((12, *cells), np.float32)
        ours = paste_masks(probs, rois, (height, width), threshold)
        assert ours.shape == (12, height, width)
        for k, roi in enumerate(rois):
            wanted = np.full((height, width), -np.inf, np.float32)
            if roi[0] < width and roi[1] < height and (roi[2:] > 0).all():
                values, where = heads._do_paste_mask(
                    torch.from_numpy(probs[k : k + 1, None]), torch.from_numpy(rois[k : k + 1]),
                    height, width,
                )  # fmt: skip
                wanted[where] = values[0].numpy()
            differ = ours[k] != (wanted >= threshold)
            assert (np.abs(wanted[differ] - threshold) <= ROUNDING).all()


def test_no_masks_and_no_room() -> None:
    assert paste_masks(np.zeros((0, 7, 7), np.float32), np.zeros((0, 4)), (5, 6)).shape == (0, 5, 6)
    beyond = np.array([[50, 50, 60, 60], [-9, -9, -1, -1]], np.float32)
    assert not paste_masks(np.ones((2, 7, 7), np.float32), beyond, (40, 40)).any()


def test_a_full_mask_fills_its_box() -> None:
    box = np.array([[2, 3, 8, 10]], np.float32)
    (mask,) = paste_masks(np.ones((1, 7, 7), np.float32), box, (20, 20))
    wanted = np.zeros((20, 20), bool)
    wanted[3:10, 2:8] = True
    assert np.array_equal(mask, wanted)
