"""Features of regions: which level a region belongs to, and pooling it from there alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.classes import UnsupportedPart, objection, resolve
from pytest_onnxdet.families.ops.custom import roi_align

SINGLE_LEVEL = ("mmdet.models.roi_heads.roi_extractors.SingleRoIExtractor",)
#: It pools a region from all levels (GRoIE, arXiv:2004.13665).
GENERIC = ("mmdet.models.roi_heads.roi_extractors.GenericRoIExtractor",)
EXTRACTORS = (*SINGLE_LEVEL, *GENERIC)
#: What inference uses of an extractor of regions.
EXTRACTOR_METHODS = ("forward", "map_roi_levels", "roi_rescale")


def flatten_rois(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, K, 4) as rows (N * K, 4), and int64 (N * K,) the image of each row."""
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    image = image + torch.zeros_like(boxes[..., 0], dtype=torch.int64)
    return boxes.flatten(0, 1), image.flatten()


def roi_levels(boxes: Tensor, finest_scale: float, count: int) -> Tensor:
    """The feature level of each box, by its size (FPN, arXiv:1612.03144, equation 1).

    Args:
        boxes: float32 (R, 4), corners in network-input pixels.
        finest_scale: boxes below twice this size belong to level 0.
        count: number of levels.

    Returns:
        int64 (R,).
    """
    scale = torch.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(dim=1))
    level = torch.floor(torch.log2(scale / finest_scale + 1e-6))
    return level.clamp(min=0, max=count - 1).long()


def level_scales(extractor: Any) -> list[float]:
    """Feature pixels per input pixel of an extractor's levels.

    Raises:
        UnsupportedPart: neither ``SingleRoIExtractor`` nor ``GenericRoIExtractor`` of mmdet's, or
            its layers are not average ``RoIAlign``.
    """
    layers = extractor.roi_layers
    plain = all(pools_itself(layer) for layer in layers) or all(
        objection(layer, ("mmcv.ops.RoIAlign",), ("forward",)) is None and layer.pool_mode == "avg"
        for layer in layers
    )
    if not plain or objection(extractor, EXTRACTORS, EXTRACTOR_METHODS) is not None:
        raise UnsupportedPart(
            f"{type(extractor).__name__} with {type(layers[0]).__name__} has no lowering; "
            "SingleRoIExtractor and GenericRoIExtractor with average RoIAlign or DeformRoIPool have"
        )
    return [float(layer.spatial_scale) for layer in layers]


def pools_itself(layer: Any) -> bool:
    """Whether a pooling layer is called as it is, as deformable pooling (arXiv:1703.06211) is."""
    return isinstance(layer, resolve("mmcv.ops.DeformRoIPool"))


def pool_by_layer(layer: Any, maps: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
    """What a layer that pools itself makes of boxes (R, 4) of images (R,): (R, C, h, w).

    It is given one box more, of no extent, as mmcv's layers take no empty list.
    """
    rois = torch.cat([image[:, None].to(boxes), boxes], dim=1)
    result: Tensor = layer(maps, functional.pad(rois, (0, 0, 0, 1)))
    return result[:-1]


def pools_all_levels(extractor: Any, count: int) -> bool:
    """Whether a region takes its features of all of ``count`` levels, and not of its own alone."""
    return count > 1 and hasattr(extractor, "aggregation")


def joined_levels(extractor: Any, pooled: Sequence[Tensor]) -> Tensor:
    """A region's features of all levels in one, as ``GenericRoIExtractor`` joins them.

    Args:
        extractor: see :func:`pools_all_levels`.
        pooled: float32 (R, C, h, w) of each level, in one order of regions.

    Returns:
        float32 (R, C, h, w), or with the channels of all levels.
    """
    levels = [extractor.pre_module(level) for level in pooled] if extractor.with_pre else pooled
    if extractor.aggregation == "sum":
        result = sum(levels[1:], levels[0])
    else:
        result = torch.cat(list(levels), dim=1)
    return extractor.post_module(result) if extractor.with_post else result


def rescaled(boxes: Tensor, scale: float) -> Tensor:
    """Boxes (R, 4) grown about their centres by a factor, in the steps of mmdet's extractors."""
    if scale == 1:
        return boxes
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    size = (boxes[:, 2:] - boxes[:, :2]) * scale
    return torch.cat([centre - size * 0.5, centre + size * 0.5], dim=1)


def pool_rois(
    extractor: Any,
    features: tuple[Tensor, ...],
    boxes: Tensor,
    image: Tensor,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """RoI-align of every box from the level that it belongs to, or from all.

    Args:
        extractor: see :func:`level_scales`.
        features: float32 (N, C, H, W), finest level first.
        boxes: float32 (R, 4); ``image``: int64 (R,).
        scale: by which boxes are grown before they are pooled where there are several levels; the
            level is that of the box as it is.

    Returns:
        float32 (R, C, h, w), level after level; int64 (R,), the row of each box among them, or None
        where they are in the boxes' order. What the heads make of a region is a hundredth of its
        features, so that it is cheaper to bring back into order.
    """
    features = features[: extractor.num_inputs]
    layers, scales = extractor.roi_layers, level_scales(extractor)

    def pool(level: int, at: Tensor, of: Tensor) -> Tensor:
        layer = layers[level]
        if pools_itself(layer):
            return pool_by_layer(layer, features[level], at, of)
        return roi_align(
            features[level],
            at,
            of,
            layer.output_size,
            scales[level],
            layer.sampling_ratio,
            layer.aligned,
        )

    if len(features) == 1:
        return pool(0, boxes, image), None
    grown = rescaled(boxes, scale)
    if pools_all_levels(extractor, len(features)):
        each = [pool(level, grown, image) for level in range(len(features))]
        return joined_levels(extractor, each), None
    levels = roi_levels(boxes, extractor.finest_scale, len(features))
    pooled, rows = [], []
    for level in range(len(features)):
        row = torch.nonzero(levels == level)[:, 0]
        pooled.append(pool(level, grown[row], image[row]))
        rows.append(row)
    row = torch.cat(rows)
    back = torch.zeros_like(row).scatter(0, row, torch.arange(row.shape[0], device=row.device))
    return torch.cat(pooled), back


def sample_points(features: Tensor, boxes: Tensor, points: Tensor, scale: float) -> Tensor:
    """Bilinear features at points relative to boxes.

    The order of operations is mmcv's ``rel_roi_point_to_rel_img_point``.

    Args:
        features: float32 (N, C, H, W).
        boxes: float32 (N, K, 4), corners in network-input pixels.
        points: float32 (N, K, P, 2) or (P, 2), x and y between 0 and 1 within the box.
        scale: feature pixels per input pixel.

    Returns:
        float32 (N * K, C, P).
    """
    height, width = features.shape[-2], features.shape[-1]
    size = boxes[..., 2:] - boxes[..., :2]
    at = points * size[:, :, None] + boxes[:, :, None, :2]
    x, y = at[..., 0] / width * scale, at[..., 1] / height * scale
    grid = torch.stack([x, y], dim=-1) * 2.0 - 1.0
    sampled = functional.grid_sample(features, grid, align_corners=False)
    # The rows are counted by the boxes: the exporter takes grid_sample's traced shape for fixed.
    rows = boxes.shape[0] * boxes.shape[1]
    return sampled.permute(0, 2, 1, 3).reshape(rows, features.shape[1], points.shape[-2])


def point_layer(extractor: Any) -> Any:
    """The only pooling layer of PointRend's mask extractor.

    Raises:
        UnsupportedPart: not one level with an aligned ``SimpleRoIAlign``.
    """
    layer = extractor.roi_layers[0]
    simple = objection(layer, ("mmcv.ops.SimpleRoIAlign",), ("forward",)) is None
    if extractor.num_inputs != 1 or not simple or not layer.aligned:
        raise UnsupportedPart(
            f"{type(extractor).__name__} over {extractor.num_inputs} levels with "
            f"{type(layer).__name__} has no lowering; one level with aligned SimpleRoIAlign has"
        )
    return layer


def pool_points(extractor: Any, features: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """PointRend's coarse pooling: a regular grid of points in each box, on one level.

    Args:
        extractor: mmdet's ``GenericRoIExtractor`` over one level with ``SimpleRoIAlign``.
        features: float32 (N, C, H, W), finest level first.
        boxes: float32 (N, K, 4).

    Returns:
        float32 (N * K, C, h, w).
    """
    layer = point_layer(extractor)
    height, width = layer.output_size
    x = (torch.arange(width, device=boxes.device) + 0.5) / width
    y = (torch.arange(height, device=boxes.device) + 0.5) / height
    points = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)
    sampled = sample_points(features[0], boxes, points, layer.spatial_scale)
    return sampled.unflatten(2, (height, width))
