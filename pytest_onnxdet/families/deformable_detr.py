"""Deformable DETR (arXiv:2010.04159): plain, with box refinement, and in two stages.

Padding masks, valid ratios and reference points follow from ``image_shape``, for each image of a
batch by itself. In two stages the queries are the encoder's best tokens; all that follows depends
on which those are, so the encoder's scores and boxes are the raw outputs, as proposals are
elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features, outputs_replaced
from pytest_onnxdet.families.classes import Kind, UnsupportedPart
from pytest_onnxdet.families.detr import DetrDetector, DetrFamily, padding_mask
from pytest_onnxdet.families.family import Need, Part, Ties
from pytest_onnxdet.families.ops.attention import (
    DEFORMABLE,
    GRID_SAMPLE_OPSET,
    LAYERS,
    Pyramid,
    check_attentions,
    deformable_attention,
    is_deformable,
    run_layer,
)
from pytest_onnxdet.families.ops.boxes import take_rows
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.models.calibrate import Calibration, Target

TRANSFORMER = "mmdet.models.utils.transformer"
EMBEDDED = 128  # features of a proposal's position, which mmdet's transformer fixes
SMALLEST, LARGEST = 0.01, 0.99  # shares of the image in which a token's own box may lie


class DeformableDetrDetector(DetrDetector):
    """mmdet's ``DeformableDETRHead`` over maps of several levels."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        if not self.detector.bbox_head.as_two_stage:
            return super().raw(input, image_shape)
        scores, boxes, _ = self._proposals(*self._encoded(input, image_shape))
        return {"enc_cls_score": scores, "enc_bbox_pred": boxes}

    def _heads(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Tensor]:
        head = self.detector.bbox_head
        transformer = head.transformer
        memory, pyramid = self._encoded(input, image_shape)
        n = memory.shape[0]
        if head.as_two_stage:
            scores, boxes, _ = self._proposals(memory, pyramid)
            count = transformer.two_stage_num_proposals
            count = self.lowering.bounded(count, "two_stage_num_proposals")
            _, token = torch.topk(scores[..., 0], count, dim=1)
            references = take_rows(boxes, token)
            embedding = transformer.pos_trans_norm(transformer.pos_trans(_embedded(references)))
            position, query = embedding.split(memory.shape[2], dim=2)
        else:
            embedding = head.query_embedding.weight[None] + torch.zeros_like(memory[:, :1, :1])
            position, query = embedding.split(head.embed_dims, dim=2)
            references = transformer.reference_points(position).sigmoid()
        query, position, memory = (one.permute(1, 0, 2) for one in (query, position, memory))
        query, references = self._decoded(query, position, memory, references, pyramid)
        query = query.permute(1, 0, 2)
        boxes = _moved(head.reg_branches[-1 - head.as_two_stage](query), references)
        scores = head.cls_branches[-1 - head.as_two_stage](query)
        return scores.reshape(n, -1, scores.shape[2]), boxes

    def _encoded(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, Pyramid]:
        """The encoder's tokens float32 (N, S, C), and the maps that they are of."""
        head = self.detector.bbox_head
        transformer = head.transformer
        maps = features(self.detector, input)
        size = (input.shape[2], input.shape[3])
        masks = [padding_mask(image_shape, size, level) for level in maps]
        pyramid = Pyramid(maps, masks, self.lowering.fixed_shape)
        positions = [
            head.positional_encoding(mask).flatten(2).transpose(1, 2) + embedding
            for mask, embedding in zip(masks, transformer.level_embeds, strict=True)
        ]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        tokens, position = tokens.permute(1, 0, 2), torch.cat(positions, dim=1).permute(1, 0, 2)
        references = pyramid.references()

        def attend(_: str, attention: Any, query: Tensor, before: Tensor | None) -> Tensor:
            return deformable_attention(
                attention, query, query, before, position, references, pyramid
            )

        for layer in transformer.encoder.layers:
            tokens = run_layer(layer, tokens, attend)
        if getattr(transformer.encoder, "post_norm", None) is not None:
            tokens = transformer.encoder.post_norm(tokens)
        return tokens.permute(1, 0, 2), pyramid

    def _proposals(self, memory: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder alone detects, token by token.

        Returns:
            float32 (N, S, 1) logits of the first class, which stands for all; float32 (N, S, 4)
            boxes as centre and size in shares of the image; bool (N, S, 1), which tokens may be
            proposals: of all others the box is (1, 1, 1, 1), as in mmdet.
        """
        head = self.detector.bbox_head
        transformer = head.transformer
        rows = []
        for level in range(len(pyramid.sizes)):
            at = pyramid.centres(level) / pyramid.extents[:, level, None]
            rows.append(torch.cat([at, torch.ones_like(at) * 0.05 * 2.0**level], dim=-1))
        own = torch.cat(rows, dim=1)
        valid = ((own > SMALLEST) & (own < LARGEST)).all(dim=-1) & ~pyramid.padding
        valid = valid[..., None]
        own = torch.where(valid, own, 0.5)
        tokens = transformer.enc_output(torch.where(valid, memory, 0.0))
        tokens = transformer.enc_output_norm(tokens)
        deltas = head.reg_branches[-1](tokens) + torch.log(own / (1 - own))
        boxes = torch.where(valid, deltas.sigmoid(), 1.0)
        return head.cls_branches[-1](tokens)[..., :1], boxes, valid

    def _decoded(
        self,
        query: Tensor,
        position: Tensor,
        memory: Tensor,
        references: Tensor,
        pyramid: Pyramid,
    ) -> tuple[Tensor, Tensor]:
        """The decoder's queries (Q, N, C), and the references (N, Q, 2 or 4) of the last layer."""
        head = self.detector.bbox_head
        layers = head.transformer.decoder.layers
        for number, layer in enumerate(layers):
            valid = pyramid.valid.repeat(1, 1, references.shape[-1] // 2)
            points = references[:, :, None] * valid[:, None]

            def attend(
                step: str,
                attention: Any,
                query: Tensor,
                before: Tensor | None,
                points: Tensor = points,
            ) -> Tensor:
                if is_deformable(attention):
                    value = memory if step == "cross_attn" else query
                    return deformable_attention(
                        attention, query, value, before, position, points, pyramid
                    )
                result: Tensor = attention(
                    query, query, query, before, query_pos=position, key_pos=position
                )
                return result

            query = run_layer(layer, query, attend)
            if head.with_box_refine and number < len(layers) - 1:
                deltas = head.reg_branches[number](query.permute(1, 0, 2))
                references = _moved(deltas, references)
        return query, references


def _moved(deltas: Tensor, references: Tensor) -> Tensor:
    """Boxes, float32 (N, Q, 4) centre and size, from references' logits and what is added to them.

    Args:
        deltas: float32 (N, Q, 4).
        references: float32 (N, Q, 2) points or (N, Q, 4) boxes, in shares.
    """
    from mmdet.models.utils.transformer import inverse_sigmoid

    start = inverse_sigmoid(references)
    if references.shape[-1] == 2:
        moved = torch.cat([deltas[..., :2] + start, deltas[..., 2:]], dim=-1)
    else:
        moved = deltas + start
    return moved.sigmoid()


def _embedded(boxes: Tensor) -> Tensor:
    """Sines and cosines of boxes (N, Q, 4) in shares, as mmdet embeds them: (N, Q, 512)."""
    step = torch.arange(EMBEDDED, dtype=torch.float32)
    step = 10000 ** (2 * torch.div(step, 2, rounding_mode="floor") / EMBEDDED)
    # By way of numpy, so that a tracer sees a constant and not how it was made.
    angle = (boxes * (2 * torch.pi))[..., None] / torch.from_numpy(step.numpy()).to(boxes.device)
    pairs = torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=4)
    return pairs.flatten(2)


@dataclass(frozen=True, eq=False)
class DeformableDetrFamily(DetrFamily):
    """Families of a head that :class:`DeformableDetrDetector` lowers."""

    operators: tuple[Kind, ...] = DEFORMABLE

    def check(self, detector: nn.Module) -> None:
        super().check(detector)
        for part in ("encoder", "decoder"):
            check_attentions(detector, f"bbox_head.transformer.{part}.layers")
        head = self.head(detector)
        if head.as_two_stage and not head.with_box_refine:
            raise UnsupportedPart(
                "bbox_head.as_two_stage without with_box_refine has no lowering: mmdet's "
                "transformer has no branches for the encoder's boxes then, and fails"
            )

    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        return DeformableDetrDetector(detector, lowering, limits)

    def queries(self, head: Any) -> int:
        """In two stages the transformer says how many."""
        if head.as_two_stage:
            return int(head.transformer.two_stage_num_proposals)
        return super().queries(head)

    def first_choice(self, detector: nn.Module) -> tuple[str, int] | None:
        """In two stages the encoder's tokens that become queries."""
        head = self.head(detector)
        return ("enc_cls_score", self.queries(head)) if head.as_two_stage else None

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The last decoder layer's logits and boxes; in two stages the encoder's."""
        model: Any = detector
        logits, boxes, encoded, regions = model.bbox_head(model.extract_feat(images), metas)
        if model.bbox_head.as_two_stage:
            return {"enc_cls_score": encoded[..., :1], "enc_bbox_pred": regions}
        return {"cls_score": logits[-1], "bbox_pred": boxes[-1]}

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        return [[raw["cls_score"]], [raw["bbox_pred"]], None, None]

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """In two stages the detector's results, with the encoder's scores given."""
        head = self.head(detector)
        if not head.as_two_stage:
            return super().post_process(detector, raw, images, metas)
        with contextlib.ExitStack() as stack:
            scores = raw["enc_cls_score"]
            stack.enter_context(outputs_replaced(head.cls_branches[-1], scores))
            results: list[Any] = detector(
                img=[images], img_metas=[list(metas)], return_loss=False, rescale=True
            )
        return results

    def min_opset(self, detector: nn.Module, lowering: str) -> Need:
        return Need(GRID_SAMPLE_OPSET, "GridSample exists only from opset 16 on")

    def calibration(self, detector: nn.Module) -> Calibration:
        """Attention first, which starts the same for every query; then branches, in their order."""
        head = self.head(detector)
        attentions = [m for m in head.modules() if is_deformable(m)]
        looks = [
            target
            for attention in attentions
            for target in (
                Target(attention.sampling_offsets, 2.0),
                Target(attention.attention_weights),
            )
        ]
        regressions = list(dict.fromkeys(branch[-1] for branch in head.reg_branches))
        scores = list(dict.fromkeys(head.cls_branches))
        passes = [looks]
        if head.as_two_stage:
            # Of the first class alone; tokens that may be no proposals are blank, and all alike.
            first = Target(scores.pop(), 2.0, period=head.cls_out_channels, rising=True)
            passes.append([first, Target(regressions.pop(), 0.5)])
        passes.append(
            [
                *(Target(layer, 1.5, 0.02, -1.0) for layer in scores),
                *(Target(layer, 1.0) for layer in regressions),
            ]
        )
        blank = [head.transformer.enc_output] if head.as_two_stage else []
        return Calibration(passes, unbiased=blank)


DEFORMABLE_DETR = DeformableDetrFamily(
    name="deformable_detr",
    heads=("mmdet.models.DeformableDETRHead",),
    parts=(
        Part(
            "bbox_head.transformer",
            (f"{TRANSFORMER}.DeformableDetrTransformer",),
            (
                "forward",
                "gen_encoder_output_proposals",
                "get_reference_points",
                "get_valid_ratio",
                "get_proposal_pos_embed",
            ),
        ),
        Part(
            "bbox_head.transformer.encoder",
            (
                f"{TRANSFORMER}.DetrTransformerEncoder",
                "mmcv.cnn.bricks.transformer.TransformerLayerSequence",
            ),
        ),
        Part(
            "bbox_head.transformer.decoder",
            (f"{TRANSFORMER}.DeformableDetrTransformerDecoder",),
        ),
        Part("bbox_head.transformer.encoder.layers", LAYERS),
        Part("bbox_head.transformer.decoder.layers", LAYERS),
    ),
    ties=Ties(order=True, suppression=False),
    uncapped="Deformable DETR's detections are its queries, cut at test_cfg.max_per_img",
)
