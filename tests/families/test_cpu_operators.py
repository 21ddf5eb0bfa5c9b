"""Operators that mmcv has for a GPU alone: their definitions, and those exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import exported, run
from torch import Tensor, nn

from pytest_onnxdet.models.cpu_operators import (
    carafe,
    definitions,
    deform_roi_pool,
    give_cpu_code,
    masked_conv2d,
)

FREE = {0: {0: "n", 2: "h", 3: "w"}}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kernel", "groups", "scale"), [(3, 1, 2), (5, 2, 2), (1, 1, 3), (3, 4, 1)]
)
def test_carafe_is_the_papers_formula(kernel: int, groups: int, scale: int) -> None:
    features = drawn(2, 4, 3, 5)
    masks = drawn(2, groups * kernel**2, 3 * scale, 5 * scale, seed=1)
    expected = np.zeros((2, 4, 3 * scale, 5 * scale))
    reach = kernel // 2
    # Equation 2: of each target cell, over its source's neighbourhood N(x, k).
    for image, channel, y, x in np.ndindex(*expected.shape):
        group = channel // (4 // groups)
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                row, column = y // scale + i, x // scale + j
                if 0 <= row < 3 and 0 <= column < 5:
                    tap = (group * kernel + i + reach) * kernel + j + reach
                    weight = masks[image, tap, y, x]
                    expected[image, channel, y, x] += features[image, channel, row, column] * weight
    result = carafe(features, masks, kernel, groups, scale)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)


REGIONS = torch.tensor(
    [
        [0, 3.0, 4.0, 30.0, 41.0],
        [1, -6.0, 2.0, 10.0, 90.0],
        [1, 40.0, 40.0, 64.0, 66.0],
        [0, 5.0, 5.0, 5.0, 5.0],
        [0, 0.0, 0.0, 79.0, 79.0],
    ]
)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("size", [(3, 3), (2, 4)])
def test_deformable_pooling_is_roi_align_of_moved_regions(
    size: tuple[int, int], sampling_ratio: int
) -> None:
    from mmcv.ops import roi_align

    features, regions, gamma = drawn(2, 3, 20, 20), REGIONS, 0.1

    def aligned(rois: Tensor) -> Tensor:
        result: Tensor = roi_align(features, rois, size, 0.25, sampling_ratio, "avg", True)
        return result

    still = deform_roi_pool(features, regions, None, size, 0.25, sampling_ratio, gamma)
    torch.testing.assert_close(still, aligned(regions), rtol=1e-5, atol=1e-5)
    offset = drawn(len(regions), 2, *size, seed=2)
    result = deform_roi_pool(features, regions, offset, size, 0.25, sampling_ratio, gamma)
    extent = regions[:, 3:] - regions[:, 1:3]
    for row, column in np.ndindex(*size):
        by = gamma * extent * offset[:, :, row, column]
        moved = regions + torch.cat([torch.zeros(len(by), 1), by, by], dim=1)
        expected = aligned(moved)[..., row, column]
        torch.testing.assert_close(result[..., row, column], expected, rtol=1e-4, atol=1e-4)


def test_a_masked_convolution_is_one_at_the_masks_cells() -> None:
    features, weight, bias = drawn(1, 4, 5, 6), drawn(3, 4, 3, 3, seed=1), drawn(3, seed=2)
    mask = drawn(1, 5, 6, seed=3) > 0
    result = masked_conv2d(features, mask, weight, bias, 1)
    whole = nn.functional.conv2d(features, weight, bias, padding=1)
    assert torch.equal(result, whole * mask[:, None])
    with pytest.raises(ValueError, match="a stride of 1"):
        masked_conv2d(features, mask, weight, bias, 1, 2)
    with pytest.raises(ValueError, match="of 2 images has 1 masks"):
        masked_conv2d(features.repeat(2, 1, 1, 1), mask, weight, bias, 1)


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        give_cpu_code(self)

    def forward(self, *args: Any) -> Tensor:
        result: Tensor = self.layer(*args)
        return result


@pytest.mark.filterwarnings("ignore")
def test_carafe_exports(tmp_path: Path) -> None:
    from mmcv.ops import CARAFEPack

    torch.manual_seed(0)
    pack = CARAFEPack(8, 2, up_group=2, compressed_channels=4)
    nn.init.normal_(pack.content_encoder.weight)
    module = Wrapped(pack).eval()
    with torch.no_grad():
        session = exported(module, (drawn(1, 8, 6, 6),), tmp_path, FREE)
        for n, height, width in [(2, 5, 9), (1, 8, 3)]:
            x = drawn(n, 8, height, width, seed=n)
            np.testing.assert_allclose(run(session, x)[0], module(x).numpy(), 1e-5, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
def test_deformable_pooling_exports(kind: str, tmp_path: Path) -> None:
    import mmcv.ops

    layer = getattr(mmcv.ops, kind)((3, 3), 3, deform_fc_channels=8, spatial_scale=0.25)
    for number, value in enumerate(layer.parameters()):
        value.data = 0.5 * drawn(*value.shape, seed=number)
    module = Wrapped(layer).eval()
    free = {**FREE, 1: {0: "regions"}}
    with torch.no_grad():
        session = exported(module, (drawn(1, 3, 8, 8), REGIONS[:1]), tmp_path, free)
        for count in (5, 2):
            features, regions = drawn(2, 3, 20, 20), REGIONS[:count]
            expected = module(features, regions).numpy()
            assert expected.shape == (count, 3, 3, 3)
            outputs = run(session, features, regions)[0]
            np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_criss_cross_attention_exports(tmp_path: Path) -> None:
    from mmcv.ops import CrissCrossAttention

    torch.manual_seed(0)
    module = CrissCrossAttention(16).eval()
    module.gamma.scale.data += 1
    with torch.no_grad():
        session = exported(module, (drawn(1, 16, 6, 6),), tmp_path, FREE)
        for n, height, width in [(2, 5, 9), (1, 8, 3)]:
            x = drawn(n, 16, height, width, seed=n)
            np.testing.assert_allclose(run(session, x)[0], module(x).numpy(), 1e-5, 1e-5)


def test_copies_compute_by_themselves_and_mmcv_is_as_before() -> None:
    from mmcv.ops import CARAFE

    x, masks = drawn(1, 2, 3, 3), drawn(1, 9, 6, 6)
    before = [function.apply for function in definitions()]
    module = Wrapped(CARAFE(3, 1, 2))
    other = copy.deepcopy(module)
    other.layer.group_size = 2
    assert other.layer.forward.__self__ is other.layer
    assert torch.equal(module(x, masks), carafe(x, masks, 3, 1, 2))
    twice = torch.cat([masks, masks], dim=1)
    assert torch.equal(other(x, twice), carafe(x, twice, 3, 2, 2))
    assert [function.apply for function in definitions()] == before
    with pytest.raises(RuntimeError, match="cpu"):
        CARAFE(3, 1, 2)(x, masks)
