"""What follows from an image's own size: DETR's padding mask, CornerNet's border."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pytest_onnxdet.families import lower
from pytest_onnxdet.families.detr import padding_mask
from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.registry import builtin_registry


@pytest.mark.parametrize("size", [(160, 160), (800, 1216), (97, 61), (333, 500)])
def test_detrs_padding_mask_is_what_mmdet_interpolates(size: tuple[int, int]) -> None:
    height, width = size
    shapes = torch.tensor(
        [[h, w] for h in (1, height // 3, height - 1, height) for w in (1, width // 2, width)]
    )
    drawn = torch.ones(len(shapes), height, width)
    for i, (h, w) in enumerate(shapes.tolist()):
        drawn[i, :h, :w] = 0
    for stride in (16, 32):
        cells = (-(-height // stride), -(-width // stride))
        expected = functional.interpolate(drawn[None], size=cells).to(torch.bool)[0]
        result = padding_mask(shapes, size, torch.zeros(1, 1, *cells))
        assert torch.equal(result, expected)


@pytest.mark.parametrize("mode", [("logical_or", 31), ("logical_or", 127), ("size_divisor", 32)])
def test_cornernets_border_is_what_its_pipeline_pads(mode: tuple[str, int]) -> None:
    from mmdet.datasets.pipelines import RandomCenterCropPad

    detector: Any = build_detector(builtin_registry().get("cornernet", "mini"))
    for outer in detector.cfg.data.test.pipeline:
        for step in outer.get("transforms", [outer]):
            if step["type"] == "RandomCenterCropPad":
                step["test_pad_mode"] = list(mode)
    model: Any = lower(detector)
    pad = RandomCenterCropPad(
        crop_size=None, ratios=None, border=None, test_mode=True, test_pad_mode=mode,
        mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True,
    )  # fmt: skip
    for height, width in ((90, 200), (127, 128), (31, 33), (64, 96), (101, 63)):
        image = np.ones((height, width, 3), np.float32)
        padded = pad({"img": image, "img_shape": image.shape, "bbox_fields": []})
        left, top = padded["border"][2], padded["border"][0]
        result = model._border(torch.tensor([[height, width]]))[0].tolist()
        assert result == [left, top], (height, width)
