"""Other forms of the graph's interface, for consumers of what the stock export tool wrote.

The contract has a second input, ``image_shape``, and masks per region. A consumer that was written
for MMDetection's own tool feeds one input and reads masks at the input's size; these wrappers turn
a deploy model into that, at a price: without ``image_shape`` padding counts as image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel

MASK_OUTPUTS = ("roi", "image")
THRESHOLD = 0.5


class SingleInput(nn.Module):
    """A deploy model that takes the whole input for image: ``image_shape`` is its (H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> Any:
        """What the model gives for float32 (N, 3, H, W) without padding."""
        size = torch._shape_as_tensor(input)[2:]
        return self.model(input, size[None].repeat(input.shape[0], 1))


class ImageMasks(nn.Module):
    """A mask model whose masks are bool (N, K, H, W): pasted at the network input's size."""

    def __init__(self, model: DeployModel, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.model = model
        self.threshold = threshold

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        """All but the masks as it is, and the pasted masks; empty slots have none."""
        dets, labels, masks, *more = self.model(input, image_shape)
        height, width = input.shape[2], input.shape[3]
        pasted = paste(masks, dets[..., :4], (height, width)) >= self.threshold
        return dets, labels, pasted & (labels >= 0)[..., None, None], *more


def paste(masks: Tensor, boxes: Tensor, size: tuple[Any, Any]) -> Tensor:
    """Region probabilities sampled at every pixel of the image, 0 outside of their boxes.

    Bilinear sampling is a product of one matrix for the rows and one for the columns. That gives
    mmdet's ``_do_paste_mask`` without its grid of two floats for each pixel and mask (780 MB for
    100 masks at 800 x 1216), and without GridSample, which ONNX has from opset 16 on.

    Args:
        masks: float32 (N, K, h, w).
        boxes: float32 (N, K, 4), corners in pixels of the image.
        size: H and W of the image.

    Returns:
        float32 (N, K, H, W).
    """
    rows = _weights(boxes[..., 1], boxes[..., 3], masks.shape[2], size[0])
    columns = _weights(boxes[..., 0], boxes[..., 2], masks.shape[3], size[1])
    return rows @ masks @ columns.transpose(2, 3)


def _weights(start: Tensor, end: Tensor, cells: int, pixels: Any) -> Tensor:
    """How much each cell of a region counts for each pixel along one axis: (N, K, pixels, cells).

    Args:
        start, end: float32 (N, K), the region's borders in pixels.
        cells: cells of the region's map.
        pixels: pixels of the image.
    """
    centre = torch.arange(pixels, device=start.device).to(start.dtype) + 0.5
    length = (end - start)[..., None]
    # A region without extent: mmdet sets the infinite position to the middle of the map.
    safe = torch.where(length == 0, 1.0, length)
    inside = torch.where(length == 0, 0.5, (centre - start[..., None]) / safe)
    at = inside * cells - 0.5
    cell = torch.arange(cells, device=start.device).to(start.dtype)
    return (1.0 - (at[..., None] - cell).abs()).clamp(min=0.0)


def adapt(
    module: nn.Module, outputs: list[str], *, single_input: bool, mask_output: str
) -> nn.Module:
    """A deploy model in the form that was asked for.

    Args:
        module: a deploy model, or its raw outputs.
        outputs: the names of what it gives.
        single_input: leave ``image_shape`` out.
        mask_output: ``roi`` or ``image``; without masks there is nothing to change.

    Raises:
        ValueError: an unknown ``mask_output``.
    """
    if mask_output not in MASK_OUTPUTS:
        raise ValueError(f"mask_output is {mask_output!r}; it is {' or '.join(MASK_OUTPUTS)}")
    if mask_output == "image" and "masks" in outputs:
        assert isinstance(module, DeployModel)
        cfg = module.detector.roi_head.test_cfg
        module = ImageMasks(module, float(cfg.get("mask_thr_binary", THRESHOLD)))
    return SingleInput(module) if single_input else module
