"""MaskFormer (arXiv:2107.06278) for instances: a query gives a class and, with a feature, a mask.

mmdet enlarges the masks' logits to the input's size, cuts off the padding and resizes them to the
original size. What is above 0 is the mask; its box is the smallest around it, and the class's score
is multiplied by the mean probability of the mask's pixels there. A graph does not know the original
size: it gives the logits as they are, classes' scores, and no boxes, and whoever makes masks of
the maps makes boxes and scores with them.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.core.patching import overridden
from pytest_onnxdet.data.image_maps import ImageMaps
from pytest_onnxdet.families.base import DeployModel, Limits, features, outputs_replaced
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.detr import padding_mask
from pytest_onnxdet.families.family import Family, MapNote, Part, Ties
from pytest_onnxdet.families.ops.boxes import quotient, take_rows
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.ops.noted import Steps, steps_of
from pytest_onnxdet.families.settings import TEST_CFG, require_count
from pytest_onnxdet.models.calibrate import Calibration, Target

PLUGINS = "mmdet.models.plugins"
FUSION = "panoptic_fusion_head"
#: mmdet's default of ``max_per_image``.
PLACES = 100


class QueryMaskDetector(DeployModel):
    """What MaskFormer and Mask2Former have in common: what becomes of queries."""

    outputs: ClassVar[tuple[str, ...]] = ("dets", "labels", "masks")

    @abstractmethod
    def queries(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N, Q, C + 1), background last, and mask logits (N, Q, h, w)."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        scores, masks = self.queries(input, image_shape)
        return {"cls_score": scores, "mask_pred": masks}

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        logits, masks = self.queries(input, image_shape)
        fusion = self.detector.panoptic_fusion_head
        limit = self.limits.max_per_img
        if limit is None or limit <= 0:
            limit = fusion.test_cfg.get("max_per_image", PLACES)
        limit = self.lowering.bounded(limit, "max_per_image")
        scores = logits.softmax(dim=-1)[..., :-1].flatten(1)
        score, pair = torch.topk(scores, limit, dim=1)
        query = quotient(pair, fusion.num_classes)
        label = pair - query * fusion.num_classes
        boxes = torch.zeros_like(score)[..., None].repeat(1, 1, 4)
        dets = torch.cat([boxes, score[..., None]], dim=2)
        return dets, label, take_rows(masks, query)


def masks_of(embedding: Tensor, feature: Tensor) -> Tensor:
    """Mask logits (N, Q, h, w) of embeddings (N, Q, C) and a feature (N, C, h, w)."""
    height, width = feature.shape[2], feature.shape[3]
    return torch.matmul(embedding, feature.flatten(2)).reshape(feature.shape[0], -1, height, width)


class MaskFormerDetector(QueryMaskDetector):
    """``MaskFormerHead`` with a plain pixel decoder, or one with an encoder of the last map."""

    def queries(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Tensor]:
        head = self.detector.panoptic_head
        feats = features(self.detector, input)
        mask = padding_mask(image_shape, (input.shape[2], input.shape[3]), feats[-1])
        feature, memory = self._pixels(feats, mask)
        memory = head.decoder_input_proj(memory).flatten(2).permute(2, 0, 1)
        position = head.decoder_pe(mask).flatten(2).permute(2, 0, 1)
        embedded = head.query_embed.weight[:, None] + torch.zeros_like(memory[:1, :, :1])
        decoded = head.transformer_decoder(
            query=torch.zeros_like(embedded),
            key=memory,
            value=memory,
            key_pos=position,
            query_pos=embedded,
            key_padding_mask=mask.flatten(1),
        )
        last = decoded[-1].transpose(0, 1)
        return head.cls_embed(last), masks_of(head.mask_embed(last), feature)

    def _pixels(self, feats: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """The feature that masks are made of (N, C, h, w), and the map that queries look at."""
        decoder = self.detector.panoptic_head.pixel_decoder
        memory = feats[-1]
        if hasattr(decoder, "encoder"):
            position = decoder.positional_encoding(mask).flatten(2).permute(2, 0, 1)
            tokens = decoder.encoder(
                query=decoder.encoder_in_proj(memory).flatten(2).permute(2, 0, 1),
                key=None,
                value=None,
                query_pos=position,
                query_key_padding_mask=mask.flatten(1),
            )
            height, width = memory.shape[2], memory.shape[3]
            memory = tokens.permute(1, 2, 0).reshape(
                memory.shape[0], decoder.encoder_embed_dims, height, width
            )
            last = decoder.encoder_out_proj(memory)
        else:
            last = decoder.last_feat_conv(memory)
        for level in range(decoder.num_inputs - 2, -1, -1):
            own = decoder.lateral_convs[level](feats[level])
            size = (own.shape[2], own.shape[3])
            last = decoder.output_convs[level](
                own + functional.interpolate(last, size=size, mode="nearest")
            )
        return decoder.mask_feature(last), memory


@dataclass(frozen=True, eq=False)
class QueryMaskFamily(Family):
    """Families of a head that a :class:`QueryMaskDetector` lowers."""

    def check(self, detector: nn.Module) -> None:
        super().check(detector)
        fusion: Any = getattr(detector, FUSION)
        head = self.head(detector)
        if head.num_stuff_classes > 0:
            raise UnsupportedPart(
                f"model.panoptic_head.num_stuff_classes is {head.num_stuff_classes}: panoptic "
                "segmentation has no lowering, as its result is a map of segments and no "
                "detections; with 0 the detector finds instances"
            )
        if not fusion.test_cfg.get("instance_on", False):
            raise UnsupportedPart(
                f"{TEST_CFG}.instance_on is not set: mmdet finds no instances then, and fails; "
                "set it to True"
            )

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        model: Any = detector
        fusion, head = model.panoptic_fusion_head, self.head(detector)
        pairs = head.num_queries * fusion.num_classes
        require_count(
            fusion.test_cfg.get("max_per_image", PLACES),
            TEST_CFG,
            "max_per_image",
            most=pairs,
            why=f"there are {head.num_queries} queries of {fusion.num_classes} classes",
        )
        return self.deploy(detector, lowering, limits)

    @abstractmethod
    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        """The deploy model of a detector whose settings have a lowering."""

    def image_maps(self, detector: nn.Module) -> ImageMaps | None:
        return ImageMaps(threshold=0.0, logits=True, boxed=True, weighted=True)

    @contextlib.contextmanager
    def noted_maps(self, detector: nn.Module) -> Iterator[list[MapNote]]:
        """What the head enlarges last is all queries' maps; top-k chooses among them by image."""
        model: Any = detector
        notes, low = list[MapNote](), list[Tensor]()
        classes = model.panoptic_fusion_head.num_classes

        def enlarged(_: Any, seen: Steps) -> None:
            low[:] = seen.interpolated[-1].unbind(0)

        def chosen(result: Any, seen: Steps) -> None:
            labels = result[0]
            query = torch.div(seen.best[0], classes, rounding_mode="floor")
            notes.append(MapNote(labels, low.pop(0)[query]))

        with (
            steps_of(self.head(detector), "simple_test", enlarged),
            steps_of(model.panoptic_fusion_head, "instance_postprocess", chosen),
        ):
            yield notes

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The last decoder layer's class and mask logits."""
        model: Any = detector
        scores, masks = self.head(detector)(model.extract_feat(images), list(metas))
        return {"cls_score": scores[-1], "mask_pred": masks[-1]}

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """The detector's own test with the head's outputs given, and no features computed."""
        model: Any = detector
        size = tuple(images.shape[2:])
        given = ([raw["cls_score"]], [raw["mask_pred"]])
        with (
            overridden(model, extract_feat=lambda _: ()),
            outputs_replaced(self.head(detector), given),
        ):
            results: list[Any] = model.simple_test(
                images, [{**meta, "batch_input_shape": size} for meta in metas], rescale=True
            )
        return results

    def final_cut(self, detector: nn.Module) -> tuple[int, int] | None:
        return None

    def calibration(self, detector: nn.Module) -> Calibration:
        head = self.head(detector)
        return Calibration([[Target(head.cls_embed, 2.0), Target(head.mask_embed[-1], 1.0)]])


@dataclass(frozen=True, eq=False)
class MaskFormerFamily(QueryMaskFamily):
    """Families of a head that :class:`MaskFormerDetector` lowers."""

    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        return MaskFormerDetector(detector, lowering, limits)


#: Which of equal scores comes first, and which pixels are above 0.
QUERY_TIES = Ties(order=True, suppression=False, pixels=True)
MASK_DETECTORS = ("mmdet.models.detectors.MaskFormer",)
FUSION_PART = Part(
    FUSION,
    ("mmdet.models.seg_heads.panoptic_fusion_heads.MaskFormerFusionHead",),
    ("simple_test", "instance_postprocess"),
)
UNCAPPED = "MaskFormer's detections are its queries, cut at test_cfg.max_per_image"
MASKFORMER = MaskFormerFamily(
    name="maskformer",
    heads=("mmdet.models.MaskFormerHead",),
    head_path="panoptic_head",
    head_methods=("forward", "simple_test"),
    detectors=MASK_DETECTORS,
    parts=(
        FUSION_PART,
        Part(
            "panoptic_head.pixel_decoder",
            (
                f"{PLUGINS}.pixel_decoder.TransformerEncoderPixelDecoder",
                f"{PLUGINS}.pixel_decoder.PixelDecoder",
            ),
        ),
    ),
    ties=QUERY_TIES,
    uncapped=UNCAPPED,
)
