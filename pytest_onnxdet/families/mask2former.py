"""Mask2Former (arXiv:2112.01527) for instances: queries that look where their last mask was.

The pixel decoder is deformable attention over three levels. What becomes of queries is as in
MaskFormer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import Kind
from pytest_onnxdet.families.family import Need, Part
from pytest_onnxdet.families.maskformer import (
    FUSION_PART,
    MASK_DETECTORS,
    PLUGINS,
    QUERY_TIES,
    UNCAPPED,
    QueryMaskDetector,
    QueryMaskFamily,
    masks_of,
)
from pytest_onnxdet.families.ops.attention import (
    DEFORMABLE,
    GRID_SAMPLE_OPSET,
    LAYERS,
    Pyramid,
    check_attentions,
    deformable_attention,
    run_layer,
)
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid

_PIXELS = "panoptic_head.pixel_decoder"


class Mask2FormerDetector(QueryMaskDetector):
    """``Mask2FormerHead`` with ``MSDeformAttnPixelDecoder``."""

    def queries(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Tensor]:
        head = self.detector.panoptic_head
        feature, levels = self._pixels(features(self.detector, input))
        count = head.num_transformer_feat_level
        keys, positions = [], []
        for place in range(count):
            level = head.decoder_input_projs[place](levels[place]).flatten(2).permute(2, 0, 1)
            keys.append(level + head.level_embed.weight[place])
            encoding = head.decoder_positional_encoding(_no_padding(levels[place]))
            positions.append(encoding.flatten(2).permute(2, 0, 1))
        own = torch.zeros_like(keys[0][:1, :, :1])
        query = head.query_feat.weight[:, None] + own
        embedded = head.query_embed.weight[:, None] + own
        scores, masks, hidden = self._looked(query, feature, levels[0])
        for number, layer in enumerate(head.transformer_decoder.layers):
            place = number % count
            # A query that would see nothing sees all.
            hidden = hidden & ~hidden.all(dim=-1, keepdim=True)
            query = layer(
                query=query,
                key=keys[place],
                value=keys[place],
                query_pos=embedded,
                key_pos=positions[place],
                attn_masks=[hidden, None],
                query_key_padding_mask=None,
                key_padding_mask=None,
            )
            scores, masks, hidden = self._looked(query, feature, levels[(number + 1) % count])
        return scores, masks

    def _looked(
        self, query: Tensor, feature: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What queries (Q, N, C) give: class logits, mask logits, and where they do not look next.

        Returns:
            float32 (N, Q, C + 1), float32 (N, Q, h, w), bool (N * heads, Q, cells of ``level``).
        """
        head = self.detector.panoptic_head
        decoded = head.transformer_decoder.post_norm(query).transpose(0, 1)
        masks = masks_of(head.mask_embed(decoded), feature)
        size = (level.shape[2], level.shape[3])
        small = functional.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        hidden = sigmoid(small.flatten(2)) < 0.5
        hidden = hidden[:, None].repeat(1, head.num_heads, 1, 1).flatten(0, 1)
        return head.cls_embed(decoded), masks, hidden

    def _pixels(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The feature that masks are made of, and the maps that queries look at, coarsest first."""
        decoder = self.detector.panoptic_head.pixel_decoder
        count = decoder.num_encoder_levels
        maps = list(feats[::-1][:count])
        blank = [_no_padding(level) for level in maps]
        pyramid = Pyramid(maps, blank, self.lowering.fixed_shape)
        tokens, positions, centres = [], [], []
        for place, level in enumerate(maps):
            tokens.append(decoder.input_convs[place](level).flatten(2).permute(2, 0, 1))
            encoding = decoder.postional_encoding(blank[place])
            encoding = decoder.level_encoding.weight[place][:, None, None] + encoding
            positions.append(encoding.flatten(2).permute(2, 0, 1))
            stride = decoder.point_generator.strides[decoder.num_input_levels - 1 - place][0]
            centres.append(pyramid.centres(place) * stride / (pyramid.widths[place] * stride))
        # Each token looks at its own place on every level.
        at = torch.cat(centres)[None, :, None].repeat(1, 1, count, 1)
        memory, position = torch.cat(tokens), torch.cat(positions)

        def attend(_: str, attention: Any, query: Tensor, before: Tensor | None) -> Tensor:
            return deformable_attention(attention, query, query, before, position, at, pyramid)

        for layer in decoder.encoder.layers:
            memory = run_layer(layer, memory, attend)
        if getattr(decoder.encoder, "post_norm", None) is not None:
            memory = decoder.encoder.post_norm(memory)
        memory, start = memory.permute(1, 2, 0), 0
        levels: list[Tensor] = []
        for height, width in pyramid.sizes:
            part = memory[:, :, start : start + height * width]
            levels.append(part.reshape(memory.shape[0], memory.shape[1], height, width))
            start = start + height * width
        rest = range(decoder.num_input_levels - count - 1, -1, -1)
        for level in rest:
            own = decoder.lateral_convs[level](feats[level])
            size = (own.shape[2], own.shape[3])
            above = functional.interpolate(
                levels[-1], size=size, mode="bilinear", align_corners=False
            )
            levels.append(decoder.output_convs[level](own + above))
        return decoder.mask_feature(levels[-1]), levels[: decoder.num_outs]


def _no_padding(level: Tensor) -> Tensor:
    """bool (N, h, w) of a map (N, C, h, w), all false: mmdet masks no padding here."""
    return torch.zeros_like(level[:, 0]) > 0


@dataclass(frozen=True, eq=False)
class Mask2FormerFamily(QueryMaskFamily):
    """Families of a head that :class:`Mask2FormerDetector` lowers."""

    operators: tuple[Kind, ...] = DEFORMABLE

    def check(self, detector: nn.Module) -> None:
        super().check(detector)
        check_attentions(detector, f"{_PIXELS}.encoder.layers")
        check_attentions(detector, "panoptic_head.transformer_decoder.layers")

    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        return Mask2FormerDetector(detector, lowering, limits)

    def min_opset(self, detector: nn.Module, lowering: str) -> Need:
        return Need(GRID_SAMPLE_OPSET, "GridSample exists only from opset 16 on")


MASK2FORMER = Mask2FormerFamily(
    name="mask2former",
    heads=("mmdet.models.Mask2FormerHead",),
    head_path="panoptic_head",
    head_methods=("forward", "forward_head", "simple_test"),
    detectors=MASK_DETECTORS,
    parts=(
        FUSION_PART,
        Part(_PIXELS, (f"{PLUGINS}.msdeformattn_pixel_decoder.MSDeformAttnPixelDecoder",)),
        Part(f"{_PIXELS}.encoder.layers", LAYERS),
        Part("panoptic_head.transformer_decoder.layers", LAYERS),
    ),
    ties=QUERY_TIES,
    uncapped=UNCAPPED,
)
