"""Deformable DETR, plain, with box refinement and in two stages, against mmdet's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_detectors import BACKBONE, FamilyTests, built, images

from pytest_onnxdet.families import UnsupportedPart
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.proof import alternatives
from pytest_onnxdet.verify.compare import compare_detections

#: With which of the head's two switches.
KINDS = {
    "plain": {},
    "refined": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "as_two_stage": True},
}


def config(kind: str, **head: Any) -> dict[str, Any]:
    # mmdet fixes the width of what it embeds of a proposal.
    width = 256 if "as_two_stage" in KINDS[kind] else 32
    own = {
        "type": "MultiScaleDeformableAttention",
        "embed_dims": width,
        "num_heads": 4,
        "num_levels": 3,
        "num_points": 3,
    }
    rest = {"ffn_cfgs": {"type": "FFN", "embed_dims": width, "feedforward_channels": 48}}
    encoder_layer = {
        "type": "BaseTransformerLayer",
        "attn_cfgs": own,
        "operation_order": ("self_attn", "norm", "ffn", "norm"),
        **rest,
    }
    decoder_layer = {
        "type": "DetrTransformerDecoderLayer",
        "attn_cfgs": [{"type": "MultiheadAttention", "embed_dims": width, "num_heads": 4}, own],
        "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
        "feedforward_channels": 48,
        **rest,
    }
    transformer: dict[str, Any] = {
        "type": "DeformableDetrTransformer",
        "num_feature_levels": 3,
        "encoder": {
            "type": "DetrTransformerEncoder",
            "num_layers": 2,
            "transformerlayers": encoder_layer,
        },
        "decoder": {
            "type": "DeformableDetrTransformerDecoder",
            "num_layers": 2,
            "return_intermediate": True,
            "transformerlayers": decoder_layer,
        },
    }
    if "as_two_stage" in KINDS[kind]:
        transformer["two_stage_num_proposals"] = 30
    return {
        "type": "DeformableDETR",
        "backbone": {**BACKBONE, "out_indices": (1, 2)},
        "neck": {
            "type": "ChannelMapper",
            "in_channels": [16, 32],
            "kernel_size": 1,
            "out_channels": width,
            "act_cfg": None,
            "norm_cfg": {"type": "GN", "num_groups": 4},
            "num_outs": 3,
        },
        "bbox_head": {
            "type": "DeformableDETRHead",
            "num_query": 30,
            "num_classes": 4,
            "in_channels": width,
            "transformer": transformer,
            "positional_encoding": {
                "type": "SinePositionalEncoding",
                "num_feats": width // 2,
                "normalize": True,
                "offset": -0.5,
            },
            "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
            **KINDS[kind],
            **head,
        },
        "test_cfg": {"max_per_img": 20},
    }


@pytest.fixture(scope="module", params=KINDS)
def detector(request: pytest.FixtureRequest) -> Any:
    detector = built(config(request.param))
    assert builtin_families().of(detector).name == "deformable_detr"
    return detector


class TestDeformableDetr(FamilyTests):
    """Deformable DETR's kinds."""


def test_refusals(detector: Any) -> None:
    head = detector.bbox_head
    refined, head.with_box_refine = head.with_box_refine, False
    try:
        if head.as_two_stage:
            with pytest.raises(UnsupportedPart, match="without with_box_refine"):
                builtin_families().of(detector)
    finally:
        head.with_box_refine = refined
    attention = detector.bbox_head.transformer.encoder.layers[1].attentions[0]
    attention.batch_first = True
    try:
        with pytest.raises(UnsupportedPart, match=r"encoder\.layers\.1\.attentions\.0 is .*batch"):
            builtin_families().of(detector)
    finally:
        attention.batch_first = False


def test_tokens_that_tie_for_the_last_place_are_proven() -> None:
    """The backend's choice of queries is mmdet's where rounding allows it, and nowhere else."""
    reference, batch = Reference(built(config("two_stage"))), images()
    raw = reference.raw(batch)
    name, count = reference.family.first_choice(reference.detector) or ("", 0)
    order = np.argsort(-raw[name][0, :, 0], kind="stable")
    last, following = order[count - 1], order[count]
    for apart, proven in ((1e-6, True), (0.01, False)):
        ours, theirs = (raw[name].copy() for _ in range(2))
        ours[0, following] = ours[0, last] - apart
        theirs[0, last], theirs[0, following] = ours[0, following], ours[0, last]
        (other, _) = reference.post_process({**raw, name: theirs}, batch, lowest_first=True)
        own = {**raw, name: ours}
        (mine, _) = reference.post_process(own, batch, lowest_first=True)
        assert not compare_detections([mine], [other], Tolerance()).ok
        found = alternatives(
            reference, batch, 0, other, own, {**raw, name: theirs}, None, Tolerance()
        )
        assert any(compare_detections([one], [other], Tolerance()).ok for one in found) is proven
