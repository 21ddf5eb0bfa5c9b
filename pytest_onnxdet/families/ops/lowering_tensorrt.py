"""The ``tensorrt`` lowering: operators that its builder takes, sizes known when it builds.

There is no NonMaxSuppression, NonZero or RoiAlign here, and every TopK has a constant K of at most
3,840. What the ``onnxruntime`` lowering leaves out because it is not there stays in as slots of
score 0. The results are the same, with one limit: suppression looks at the best 3,840 (box, class)
pairs of an image that are above the score threshold. A detector that has more, and whose best 3,840
leave fewer than ``max_per_img``, would find fewer. Where ``max_per_img`` keeps all, an image has
3,840 slots at most.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.core.limits import MAX_TOPK
from pytest_onnxdet.families.ops.boxes import UnsupportedPart, quotient, shared_length, take_rows
from pytest_onnxdet.families.ops.corners import SCANS
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.ops.rois import (
    joined_levels,
    level_scales,
    pool_by_layer,
    pools_all_levels,
    pools_itself,
    rescaled,
    roi_levels,
)

# Doubling steps of a running maximum where the size is not known: heat maps of up to 1,024 cells.
SCAN_STEPS = 10


@torch.jit.script
def _greedy(suppresses: Tensor, candidate: Tensor) -> Tensor:
    # A box is kept if no kept box suppresses it. Starting from all candidates, each round decides
    # the boxes whose suppressors are decided, so the rounds end at the greedy choice.
    keep = candidate
    changed = True
    while changed:
        hit = torch.matmul(keep[:, None], suppresses)[:, 0]
        decided = candidate * (hit < 0.5).to(candidate.dtype)
        changed = bool((decided != keep).any())
        keep = decided
    return keep


class TensorRTLowering(Lowering):
    """Everything in operators that build ahead of time, with constant sizes."""

    name = "tensorrt"

    def top(
        self, scores: Tensor, limit: int, floor: float, min_slots: int = 0
    ) -> tuple[Tensor, Tensor]:
        values = torch.where(scores > floor, scores, 0.0)
        if limit <= 0:
            columns = torch.arange(scores.shape[1], device=scores.device)[None]
            return values, columns + torch.zeros_like(scores, dtype=torch.int64)
        return self._topk(values, self.bounded(limit, "nms_pre"))

    def bounded(self, count: int, key: str) -> int:
        if count > MAX_TOPK:
            raise UnsupportedPart(
                f"TensorRT's TopK takes at most {MAX_TOPK} entries and {count} are asked for: "
                f"lower {key} in the config's test_cfg"
            )
        return count

    def _topk(self, scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """The best ``limit`` of scores (N, P), a constant number also where P is not known."""
        if self.fixed_shape:
            best: tuple[Tensor, Tensor] = torch.topk(
                scores, min(limit, int(scores.shape[1])), dim=1
            )
            return best
        values, index = torch.topk(functional.pad(scores, (0, limit)), limit, dim=1)
        last = torch.ones_like(index) * (scores.shape[1] - 1)
        index = torch.where(index > last, last, index)  # Min takes int64 from opset 12 on only
        # No more slots than there are entries: what follows compares all pairs of them.
        return values[:, : scores.shape[1]], index[:, : scores.shape[1]]

    def compact(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return self._topk(scores, MAX_TOPK)

    def pool_rois(
        self,
        extractor: Any,
        features: tuple[Tensor, ...],
        boxes: Tensor,
        image: Tensor,
        scale: float = 1.0,
    ) -> tuple[Tensor, None]:
        features = features[: extractor.num_inputs]
        scales = level_scales(extractor)
        n, every = features[0].shape[0], pools_all_levels(extractor, len(features))
        scale = scale if len(features) > 1 else 1.0
        rows = rescaled(boxes, scale).unflatten(0, (n, -1))
        levels = None
        if len(features) > 1 and not every:
            levels = roi_levels(boxes, extractor.finest_scale, len(features)).unflatten(0, (n, -1))
        layer = extractor.roi_layers[0]
        height, width = layer.output_size
        pooled = []
        for level, (maps, per_pixel) in enumerate(zip(features, scales, strict=True)):
            if pools_itself(layer):
                pooled.append(
                    _by_layer(extractor.roi_layers[level], maps, rows, image, levels, level)
                )
                continue
            scaled = rows * per_pixel - (0.5 if layer.aligned else 0.0)
            left, top, right, bottom = scaled.unbind(dim=2)
            across = axis_weights(left, right, width, maps.shape[3], layer, scale)
            down = axis_weights(top, bottom, height, maps.shape[2], layer, scale)
            if levels is not None:
                down = down * (levels == level).to(maps.dtype)[..., None, None]
            # mmdet's heads view the features of a region as one row.
            pooled.append(_weighted(maps, down, across).flatten(0, 1).contiguous())
        if every:
            return joined_levels(extractor, pooled), None
        return sum(pooled[1:], pooled[0]), None

    def present(self, scores: Tensor, min_slots: int) -> tuple[Tensor, Tensor]:
        return self._topk(scores, MAX_TOPK)

    def filled(self, scores: Tensor, limit: int, min_slots: int) -> tuple[Tensor, Tensor]:
        return self._topk(scores, self._slots(limit))

    def greedy(
        self,
        boxes: Tensor,
        scores: Tensor,
        iou_threshold: float,
        limit: int,
        limit_per_class: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        columns = scores.shape[2]
        score, pair = self._topk(scores.flatten(1), MAX_TOPK)
        label = quotient(pair, columns)
        column = pair - label * columns
        rows, at = (boxes.flatten(1, 2), pair) if boxes.dim() == 4 else (boxes, column)
        score, labels, index = self.greedy_pairs(
            take_rows(rows, at), score, label, 0, iou_threshold, limit, limit_per_class, min_slots
        )
        return score, labels, torch.gather(at, 1, index)

    def greedy_pairs(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        classes: int,
        iou_threshold: float,
        limit: int,
        limit_per_class: int,
        min_slots: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x1, y1, x2, y2 = boxes.unbind(dim=2)
        shared = shared_length(x1, x2) * shared_length(y1, y2)
        area = (x2 - x1) * (y2 - y1)
        overlap = shared / (area[:, :, None] + area[:, None] - shared)
        order = torch.arange(boxes.shape[1], device=boxes.device)
        first = (scores[:, :, None] > scores[:, None]) | (
            (scores[:, :, None] == scores[:, None]) & (order[:, None] < order[None])
        )
        same = labels[:, :, None] == labels[:, None]
        suppresses = (overlap > iou_threshold) & first & same
        keep = _greedy(suppresses.to(boxes.dtype), (scores > 0).to(boxes.dtype))
        if limit_per_class > 0 and not 0 < limit <= limit_per_class:
            better = (first & same).to(boxes.dtype)
            rank = torch.matmul(keep[:, None], better)[:, 0]
            keep = keep * (rank < limit_per_class).to(keep.dtype)
        score, index = self._topk(scores * keep, self._slots(limit))
        return score, torch.where(score > 0, torch.gather(labels, 1, index), -1), index

    def _slots(self, limit: int) -> int:
        """Slots for the kept boxes of an image: all that suppression looks at have one."""
        return self.bounded(limit, "max_per_img") if limit > 0 else MAX_TOPK

    def corner_pool(self, values: Tensor, mode: str) -> Tensor:
        if self.fixed_shape:
            return super().corner_pool(values, mode)
        axis, backwards = SCANS[mode]
        lowest = torch.finfo(values.dtype).min
        size = values.shape[axis]
        for step in (1 << i for i in range(SCAN_STEPS)):
            before, after = (0, step) if backwards else (step, 0)
            pads = (before, after) if axis == 3 else (0, 0, before, after)
            shifted = functional.pad(values, pads, value=lowest)
            shifted = shifted.narrow(axis, step if backwards else 0, size)
            values = torch.maximum(values, shifted)
        return values


def axis_weights(
    start: Tensor, end: Tensor, bins: int, cells: Any, layer: Any, scale: float = 1.0
) -> Tensor:
    """How much each cell of one axis adds to each bin of a region.

    RoIAlign (arXiv:1703.06870, section 3) averages bilinear samples at n points of each bin and
    axis, n = ceil(extent / bins) where the sampling ratio is 0. Bilinear weights are a product of
    one factor per axis, so the average over the n x n points is a product of two matrices of these
    weights with the feature map between them.

    Args:
        start, end: float32 (N, K), the region's extent in cells; no wider than ``scale`` times the
            map, as boxes are clipped to the image before they are grown and pooled.
        bins: of the axis.
        cells: of the axis.
        layer: mmcv's ``RoIAlign``.
        scale: by which boxes are grown.

    Returns:
        float32 (N, K, bins, cells).
    """
    extent = end - start
    if not layer.aligned:
        extent = extent.clamp(min=1)
    step = (extent / bins)[..., None, None]
    if layer.sampling_ratio > 0:
        samples = layer.sampling_ratio
        count = torch.tensor(float(samples), dtype=step.dtype, device=step.device)
    else:
        wide = cells if scale == 1 else _whole(cells * math.ceil(scale * 100), 100) + 1
        samples = _whole(wide + bins, bins)
        count = torch.ceil(step)
    sample = torch.arange(samples, device=start.device)[None, None, None].to(start.dtype)
    bin_ = torch.arange(bins, device=start.device)[None, None, :, None].to(start.dtype)
    at = start[..., None, None] + bin_ * step + (sample + 0.5) * step / count.clamp(min=1)
    inside = (sample < count) & (at >= -1) & (at <= cells)
    # A number: of a tensor of as many, the exporter may take the traced shape for fixed.
    last = torch.as_tensor(cells - 1, dtype=at.dtype, device=at.device)
    at = torch.minimum(at.clamp(min=0), last)
    cell = torch.arange(cells, device=start.device).to(start.dtype)
    near = (1 - (at[..., None] - cell).abs()).clamp(min=0)
    near = near * inside[..., None].to(near.dtype)
    return near.sum(dim=3) / count.clamp(min=1)


def _by_layer(
    layer: Any, maps: Tensor, rows: Tensor, image: Tensor, levels: Tensor | None, level: int
) -> Tensor:
    """Regions (N, K, 4) pooled by a layer itself; those of another level have no extent, and 0."""
    if levels is None:
        return pool_by_layer(layer, maps, rows.flatten(0, 1), image)
    own = (levels == level).to(maps.dtype).flatten()
    pooled = pool_by_layer(layer, maps, rows.flatten(0, 1) * own[:, None], image)
    return pooled * own[:, None, None, None]


def _whole(number: Any, by: int) -> Any:
    """Whole quotient of a size, as a number or being traced."""
    return quotient(number, by) if torch.is_tensor(number) else number // by


def _weighted(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """down · map · acrossᵀ for each region: (N, C, H, W) to (N, K, C, bins down, bins across)."""
    n, channels = maps.shape[0], maps.shape[1]
    k, wide = across.shape[1], across.shape[2]
    rows = torch.matmul(maps.flatten(1, 2), across.flatten(1, 2).transpose(1, 2))
    rows = rows.unflatten(1, (channels, -1)).unflatten(3, (-1, wide))
    rows = rows.permute(0, 3, 2, 1, 4).flatten(3)
    pooled = torch.matmul(down, rows)
    return pooled.reshape(n, k, down.shape[2], channels, wide).permute(0, 1, 3, 2, 4)
