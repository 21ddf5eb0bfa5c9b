"""Deformable convolution against mmcv's compiled operator, in PyTorch and through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import exported, run
from torch import Tensor, nn

from pytest_onnxdet.families.ops import deform
from pytest_onnxdet.families.ops.custom import translations
from pytest_onnxdet.families.ops.opset import NeedsOpset
from pytest_onnxdet.families.ops.replaced import FUNCTIONS, METHODS, replaced

#: Input and output channels, kernel, stride, padding, dilation, groups, deform_groups.
SETTINGS = [
    (4, 6, 3, 1, 1, 1, 1, 1),
    (4, 6, 3, 2, 1, 1, 1, 1),
    (4, 4, 3, 1, 2, 2, 2, 1),
    (8, 4, 3, 1, 1, 1, 1, 4),
    (8, 8, 3, 2, 0, 1, 4, 2),
    (4, 4, 1, 1, 0, 1, 4, 4),
    (2, 3, (3, 5), (1, 2), (1, 2), (1, 1), 1, 2),
]
SIZES = [(1, 9, 12), (2, 7, 7), (3, 16, 5)]
FREE = {0: {0: "n", 2: "h", 3: "w"}}


def randomised(layer: nn.Module, spread: float) -> nn.Module:
    """The layer with random parameters; offsets reach some cells beyond the borders."""
    generator = torch.Generator().manual_seed(0)
    for name, value in layer.named_parameters():
        scale = spread if "offset" in name else 0.3
        value.data = torch.randn(value.shape, generator=generator) * scale
    return layer.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_deformable_convolution_is_mmcvs(
    settings: tuple[Any, ...], modulated: bool, tmp_path: Path
) -> None:
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    inputs, outputs, kernel, stride, padding, dilation, groups, deform_groups = settings
    kind = ModulatedDeformConv2dPack if modulated else DeformConv2dPack
    if modulated and isinstance(stride, tuple):
        pytest.skip("mmcv's modulated layer takes one number for both axes")
    layer = kind(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        deform_groups=deform_groups,
    )
    layer = randomised(layer, 0.8)
    session = exported(layer, (torch.rand(1, inputs, 8, 8),), tmp_path, FREE)
    for n, h, w in SIZES:
        x = torch.randn(n, inputs, h, w, generator=torch.Generator().manual_seed(h))
        with torch.no_grad():
            expected = layer(x)
            with replaced(17):
                own = layer(x)
        np.testing.assert_allclose(own.numpy(), expected.numpy(), rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(run(session, x)[0], expected.numpy(), rtol=1e-5, atol=2e-5)


class Offsets(nn.Module):
    """mmcv's layer with offsets from outside, as RepPoints uses it, below its kernel's size too."""

    def __init__(self) -> None:
        from mmcv.ops import DeformConv2d

        super().__init__()
        self.layer = randomised(DeformConv2d(2, 3, 3, padding=1), 1.0)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        result: Tensor = self.layer(x, offset)
        return result


@pytest.mark.filterwarnings("ignore")
def test_maps_smaller_than_the_kernel_and_samples_on_the_border(tmp_path: Path) -> None:
    module = Offsets()
    example = (torch.rand(1, 2, 2, 2), torch.rand(1, 18, 2, 2))
    session = exported(module, example, tmp_path, {**FREE, 1: FREE[0]})
    for h, w in [(2, 2), (1, 1), (2, 5), (6, 7)]:
        generator = torch.Generator().manual_seed(h)
        x = torch.randn(2, 2, h, w, generator=generator)
        # Whole and half cells: on cells, on the border, a cell outside, and far outside.
        offset = torch.randint(-6, 7, (2, 18, h, w), generator=generator) / 2
        with torch.no_grad():
            expected = module(x, offset).numpy()
        np.testing.assert_allclose(run(session, x, offset)[0], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore")
def test_offsets_of_a_finer_level_are_read_as_mmcv_reads_them(tmp_path: Path) -> None:
    from mmcv.ops import ModulatedDeformConv2d

    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = randomised(ModulatedDeformConv2d(2, 3, 3, padding=1), 1.0)

        def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
            result: Tensor = self.layer(x, offset, mask)
            return result

    module = Coarse()
    example = (torch.rand(1, 2, 4, 4), torch.rand(1, 18, 8, 8), torch.rand(1, 9, 8, 8))
    session = exported(module, example, tmp_path, dict.fromkeys(range(3), FREE[0]))
    for h, w in [(4, 4), (3, 7), (1, 2)]:
        generator = torch.Generator().manual_seed(h)
        x = torch.randn(2, 2, h, w, generator=generator)
        offset = torch.randn(2, 18, 2 * h, 2 * w, generator=generator)
        mask = torch.rand(2, 9, 2 * h, 2 * w, generator=generator)
        with torch.no_grad():
            expected = module(x, offset, mask).numpy()
        np.testing.assert_allclose(run(session, x, offset, mask)[0], expected, 1e-5, 2e-5)


@pytest.mark.filterwarnings("ignore")
def test_layers_in_a_row_stay_dynamic(tmp_path: Path) -> None:
    from mmcv.ops import ModulatedDeformConv2dPack

    layers = [ModulatedDeformConv2dPack(4, 4, 3, stride=s, padding=1) for s in (1, 2, 1)]
    module = randomised(nn.Sequential(*layers), 0.3)
    session = exported(module, (torch.rand(1, 4, 8, 8),), tmp_path, FREE)
    x = torch.randn(2, 4, 9, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(run(session, x)[0], expected, rtol=1e-4, atol=2e-5)


def test_mmcv_is_as_before_after_an_export_even_one_that_fails() -> None:
    from pytest_onnxdet.families.classes import resolve

    def state() -> list[Any]:
        base = torch.autograd.Function.__mro__[1]
        methods = [place.rpartition(".") for place in METHODS]
        own = [vars(resolve(owner)).get(name) for owner, _, name in methods]
        return [*own, "apply" in vars(base), base.apply]

    before = state()
    with pytest.raises(ZeroDivisionError), translations(17):
        assert state() != before
        raise ZeroDivisionError
    assert state() == before
    assert all(callable(resolve(place).apply) for place in FUNCTIONS)


def test_other_functions_are_left_as_they_are() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * 2

    x = torch.ones(2, requires_grad=True)
    with replaced(17):
        y = Twice.apply(x)
        y.sum().backward()
    assert y.tolist() == [2, 2] and x.grad is not None and x.grad.tolist() == [2, 2]


def test_an_opset_without_grid_sample_is_named() -> None:
    from mmcv.ops import DeformConv2dPack

    layer = DeformConv2dPack(2, 2, 3, padding=1)
    with torch.no_grad(), replaced(15), pytest.raises(NeedsOpset, match="GridSample") as error:
        layer(torch.zeros(1, 2, 4, 4))
    assert error.value.min_opset == deform.MIN_OPSET
