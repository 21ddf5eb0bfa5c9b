"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159), and layers that use it.

mmcv's layer reads the maps' sizes as Python numbers. Here they may be sizes that are being traced,
so that a graph takes inputs of any size. Sampling is GridSample in both lowerings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.classes import UnsupportedPart, at_path, objection
from pytest_onnxdet.families.ops.boxes import quotient, stacked

DEFORMABLE = ("mmcv.ops.MultiScaleDeformableAttention",)
ATTENTIONS = (*DEFORMABLE, "mmcv.cnn.bricks.transformer.MultiheadAttention")
LAYERS = ("mmcv.cnn.bricks.transformer.BaseTransformerLayer",)
#: GridSample is in ONNX from this opset on.
GRID_SAMPLE_OPSET = 16


class Pyramid:
    """Maps of several sizes as one row of tokens, level after level.

    Args:
        maps: float32 (N, C, h, w), one for each level.
        padding: bool (N, h, w) of each level, true in padding.
        fixed_shape: take sizes for numbers, which a graph bakes.

    Attributes:
        sizes: height and width of each level.
        padding: bool (N, S), of all tokens.
        valid: float32 (N, levels, 2), the shares of columns and of rows that are no padding.
    """

    def __init__(
        self, maps: Sequence[Tensor], padding: Sequence[Tensor], fixed_shape: bool
    ) -> None:
        sizes: list[tuple[Any, Any]] = [(level.shape[2], level.shape[3]) for level in maps]
        if fixed_shape:
            sizes = [(int(height), int(width)) for height, width in sizes]
        self.sizes = sizes
        self.device = maps[0].device
        self.padding = torch.cat([mask.flatten(1) for mask in padding], dim=1)
        self.extents = torch.stack([_extent(mask) for mask in padding], dim=1)
        wide = stacked([side for height, width in sizes for side in (width, height)], self.device)
        self.widths = wide.reshape(-1, 2)
        self.valid = self.extents / self.widths

    def centres(self, level: int) -> Tensor:
        """The centres of a level's cells, float32 (h * w, 2), x and y in cells."""
        height, width = self.sizes[level]
        cell = torch.arange(height * width, device=self.device)
        row = quotient(cell, width)
        return torch.stack([cell - row * width, row], dim=-1).to(torch.float32) + 0.5

    def references(self) -> Tensor:
        """Where each token looks on each level: float32 (N, S, levels, 2), x and y.

        They count in shares of a level's map, padding included.
        """
        own = [
            self.centres(level) / (self.valid[:, level] * self.widths[level])[:, None]
            for level in range(len(self.sizes))
        ]
        return torch.cat(own, dim=1)[:, :, None] * self.valid[:, None]


def _extent(padding: Tensor) -> Tensor:
    """Of bool (N, h, w) how many columns and rows are no padding: float32 (N, 2)."""
    inside = (~padding).to(torch.float32)
    return torch.stack([inside[:, 0].sum(dim=1), inside[:, :, 0].sum(dim=1)], dim=1)


def deformable_attention(
    attention: Any,
    query: Tensor,
    value: Tensor,
    identity: Tensor | None,
    query_pos: Tensor | None,
    references: Tensor,
    pyramid: Pyramid,
) -> Tensor:
    """What mmcv's ``MultiScaleDeformableAttention`` gives.

    Args:
        attention: the layer.
        query: float32 (Q, N, C).
        value: float32 (S, N, C), all tokens of ``pyramid``.
        identity: what is added to the result; None: ``query``.
        query_pos: is added to ``query`` before it is looked at, or None.
        references: float32 (N, Q, levels, 2) points or (N, Q, levels, 4) boxes as centre and size,
            in shares of a level's map.
        pyramid: sizes and padding of the tokens.

    Returns:
        float32 (Q, N, C).
    """
    identity = query if identity is None else identity
    query = query if query_pos is None else query + query_pos
    query = query.permute(1, 0, 2)
    values = attention.value_proj(value.permute(1, 0, 2))
    values = torch.where(pyramid.padding[..., None], 0.0, values)
    heads, levels, points = attention.num_heads, attention.num_levels, attention.num_points
    offsets = attention.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
    weights = attention.attention_weights(query).unflatten(2, (heads, levels * points)).softmax(-1)
    if references.shape[-1] == 2:
        normalizer = pyramid.widths[None, None, None, :, None].to(offsets.dtype)
        at = references[:, :, None, :, None] + offsets / normalizer
    else:
        boxes = references[:, :, None, :, None]
        at = boxes[..., :2] + offsets / points * boxes[..., 2:] * 0.5
    grid = 2 * at - 1
    sampled, start = [], list(accumulate((h * w for h, w in pyramid.sizes), initial=0))
    for level, (height, width) in enumerate(pyramid.sizes):
        own = values[:, start[level] : start[level + 1]].transpose(1, 2)
        own = own.reshape(-1, attention.embed_dims // heads, height, width)
        where = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(functional.grid_sample(own, where, align_corners=False))
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None]
    # By the queries' own count: the exporter takes grid_sample's traced shape for fixed.
    result = (torch.cat(sampled, dim=-1) * shares).sum(-1)
    result = result.reshape(query.shape[0], attention.embed_dims, query.shape[1])
    return attention.output_proj(result.transpose(1, 2)).permute(1, 0, 2) + identity


#: One attention of a layer: (its number, the layer, query, what is added), in the layers' order.
Attend = Callable[[str, Any, Tensor, Tensor | None], Tensor]


def run_layer(layer: Any, query: Tensor, attend: Attend) -> Tensor:
    """What mmcv's ``BaseTransformerLayer`` gives, with attentions that the caller computes.

    Args:
        layer: the layer.
        query: float32 (Q, N, C).
        attend: of ``self_attn`` or ``cross_attn``, the attention's module, the query and what is
            added to the result (None: the query itself).
    """
    attentions, norms, ffns = iter(layer.attentions), iter(layer.norms), iter(layer.ffns)
    identity = query
    for step in layer.operation_order:
        before = identity if layer.pre_norm else None
        if step == "norm":
            query = next(norms)(query)
        elif step == "ffn":
            query = next(ffns)(query, before)
        else:
            query = identity = attend(step, next(attentions), query, before)
    return query


def is_deformable(attention: Any) -> bool:
    """Whether an attention is one of :data:`DEFORMABLE`, and computes what that does."""
    return objection(attention, DEFORMABLE, ("forward",)) is None


def check_attentions(detector: Any, path: str) -> None:
    """Refuses layers with attentions of another kind.

    Args:
        detector: which has the layers.
        path: of a list of :data:`LAYERS`.

    Raises:
        UnsupportedPart: the message names the attention's path and class.
    """
    for place, layer in at_path(detector, path):
        for number, attention in enumerate(layer.attentions):
            why = objection(attention, ATTENTIONS, ("forward",))
            if why is None and attention.batch_first and is_deformable(attention):
                why = "batch_first, with which mmdet's transformer fails"
            if why is not None:
                raise UnsupportedPart(
                    f"{place}.attentions.{number} is {type(attention).__name__}, "
                    f"which has no lowering: {why}"
                )
