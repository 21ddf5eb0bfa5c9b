"""Batch-first priors, box decoding and clipping.

The arithmetic repeats mmdet's box coders operation by operation, so that eager results agree to
the last bit wherever the order of operations allows; the difference is a batch dimension, and
limits that are tensors (each image has its own size) instead of Python numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class UnsupportedPart(Exception):
    """A detector uses a part that has no lowering; the message names it and what is supported."""


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each image.

    Args:
        values: (N, P, ...) .
        index: int64 (N, K), row numbers below P.

    Returns:
        (N, K, ...).
    """
    # One Gather, and no Reshape of what may be empty: ONNX reads a 0 there as "copy this size".
    start = torch.arange(values.shape[0], device=index.device)[:, None] * values.shape[1]
    return values.flatten(0, 1)[index + start]


def priors_at(generator: Any, level: int, size: tuple[Any, Any], index: Tensor) -> Tensor:
    """The priors with the given numbers, computed without laying out the whole grid.

    Args:
        generator: mmdet's ``AnchorGenerator`` (or a subclass) or ``MlvlPointGenerator``.
        level: feature level.
        size: the level's height and width.
        index: int64 (N, K), numbers in the order of ``grid_priors``.

    Returns:
        float32 (N, K, 4) anchors as corners, or (N, K, 2) points, in network-input pixels.
    """
    from mmdet.core.anchor import AnchorGenerator, MlvlPointGenerator

    stride_w, stride_h = generator.strides[level]
    if isinstance(generator, AnchorGenerator):
        base = generator.base_anchors[level].to(index.device)
        count = base.shape[0]
        cell = torch.div(index, count, rounding_mode="floor")
        row = torch.div(cell, size[1], rounding_mode="floor")
        x = (cell - row * size[1]).to(base.dtype) * stride_w
        y = row.to(base.dtype) * stride_h
        shift = torch.stack([x, y, x, y], dim=-1)
        if count == 1:
            return base[0] + shift
        return base[index - cell * count] + shift
    if isinstance(generator, MlvlPointGenerator):
        row = torch.div(index, size[1], rounding_mode="floor")
        column = index - row * size[1]
        x = (column.to(torch.float32) + generator.offset) * stride_w
        y = (row.to(torch.float32) + generator.offset) * stride_h
        return torch.stack([x, y], dim=-1)
    raise UnsupportedPart(
        f"the prior generator {type(generator).__name__} has no lowering; "
        "AnchorGenerator and MlvlPointGenerator have"
    )


def clip(boxes: Tensor, image_shape: Tensor) -> Tensor:
    """Boxes limited to their images.

    Args:
        boxes: float32 (N, ..., 4), corners.
        image_shape: int64 (N, 2), height and width before padding.

    Returns:
        float32 (N, ..., 4).
    """
    limit = image_shape.to(boxes.dtype).flip(1).repeat(1, 2)
    limit = limit[:, None] if boxes.dim() == 3 else limit[:, None, None]
    return torch.minimum(boxes.clamp(min=0), limit)


def decode(coder: Any, priors: Tensor, predictions: Tensor, image_shape: Tensor) -> Tensor:
    """Box predictions as corners, clipped where the coder clips.

    Args:
        coder: one of mmdet's ``DeltaXYWHBBoxCoder``, ``TBLRBBoxCoder``,
            ``DistancePointBBoxCoder``.
        priors: float32 (N, ..., 4) or (N, ..., 2).
        predictions: float32 (N, ..., 4), as the head's regression branch gives them.
        image_shape: int64 (N, 2).

    Returns:
        float32 (N, ..., 4) in network-input pixels.

    Raises:
        UnsupportedPart: another coder.
    """
    name = type(coder).__name__
    if name not in _DECODERS:
        raise UnsupportedPart(f"the box coder {name} has no lowering; {', '.join(_DECODERS)} have")
    boxes = _DECODERS[name](coder, priors, predictions)
    return clip(boxes, image_shape) if coder.clip_border else boxes


def _decode_delta(coder: Any, priors: Tensor, deltas: Tensor) -> Tensor:
    """(dx, dy, dw, dh) of Girshick et al., https://arxiv.org/abs/1311.2524, appendix C."""
    means = torch.tensor(coder.means, dtype=deltas.dtype, device=deltas.device)
    stds = torch.tensor(coder.stds, dtype=deltas.dtype, device=deltas.device)
    deltas = deltas * stds + means
    shift, stretch = deltas[..., :2], deltas[..., 2:]
    centre = (priors[..., :2] + priors[..., 2:]) * 0.5
    size = priors[..., 2:] - priors[..., :2]
    shift = size * shift
    most = abs(math.log(16 / 1000))
    if coder.add_ctr_clamp:
        shift = shift.clamp(min=-coder.ctr_clamp, max=coder.ctr_clamp)
        stretch = stretch.clamp(max=most)
    else:
        stretch = stretch.clamp(min=-most, max=most)
    centre = centre + shift
    size = size * stretch.exp()
    return torch.cat([centre - size * 0.5, centre + size * 0.5], dim=-1)


def _decode_tblr(coder: Any, priors: Tensor, distances: Tensor) -> Tensor:
    """Distances to top, bottom, left, right in units of the prior (FSAF, arXiv:1903.00621)."""
    normalizer = coder.normalizer
    if not isinstance(normalizer, float):
        normalizer = torch.tensor(normalizer, dtype=distances.dtype, device=distances.device)
    distances = distances * normalizer
    centre = (priors[..., :2] + priors[..., 2:]) / 2
    size = priors[..., 2:] - priors[..., :2]
    vertical = size[..., 1:] * distances[..., :2]
    horizontal = size[..., :1] * distances[..., 2:]
    return torch.cat(
        [
            centre[..., :1] - horizontal[..., :1],
            centre[..., 1:] - vertical[..., :1],
            centre[..., :1] + horizontal[..., 1:],
            centre[..., 1:] + vertical[..., 1:],
        ],
        dim=-1,
    )


def _decode_distance(_: Any, points: Tensor, distances: Tensor) -> Tensor:
    """Distances to left, top, right, bottom in pixels (FCOS, arXiv:1904.01355)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


_DECODERS = {
    "DeltaXYWHBBoxCoder": _decode_delta,
    "TBLRBBoxCoder": _decode_tblr,
    "DistancePointBBoxCoder": _decode_distance,
}
