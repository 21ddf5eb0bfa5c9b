"""MaskFormer and Mask2Former, finding instances, against mmdet's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_detectors import BACKBONE, FamilyTests, built, images, require_narrow_scores

from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.reference.detector import Reference

CLASSES, WIDTH, QUERIES = 3, 16, 12
NORM = {"type": "GN", "num_groups": 4}
POSITION = {"type": "SinePositionalEncoding", "num_feats": WIDTH // 2, "normalize": True}
ATTENTION = {
    "type": "MultiheadAttention",
    "embed_dims": WIDTH,
    "num_heads": 4,
    "dropout_layer": None,
    "batch_first": False,
}
FEED = {
    "type": "FFN",
    "embed_dims": WIDTH,
    "feedforward_channels": 32,
    "num_fcs": 2,
    "ffn_drop": 0.0,
    "act_cfg": {"type": "ReLU", "inplace": True},
}


def layers(kind: str, count: int, layer: str, order: tuple[str, ...], attention: Any) -> Any:
    one = {
        "type": layer,
        "attn_cfgs": attention,
        "ffn_cfgs": FEED,
        "operation_order": order,
    }
    if layer == "DetrTransformerDecoderLayer":
        one["feedforward_channels"] = 32
    made: dict[str, Any] = {"type": kind, "num_layers": count, "transformerlayers": one}
    return made | ({"return_intermediate": True} if "Decoder" in kind else {})


ENCODER_ORDER = ("self_attn", "norm", "ffn", "norm")
DEFORMABLE = {
    "type": "MultiScaleDeformableAttention",
    "embed_dims": WIDTH,
    "num_heads": 4,
    "num_levels": 3,
    "num_points": 2,
    "dropout": 0.0,
    "batch_first": False,
}


def pixel_decoder(kind: str) -> dict[str, Any]:
    decoder: dict[str, Any] = {"type": kind, "norm_cfg": NORM, "act_cfg": {"type": "ReLU"}}
    if kind == "PixelDecoder":
        return decoder
    deformable = kind == "MSDeformAttnPixelDecoder"
    decoder["positional_encoding"] = POSITION
    decoder["encoder"] = layers(
        "DetrTransformerEncoder",
        2 if deformable else 1,
        "BaseTransformerLayer",
        ENCODER_ORDER,
        DEFORMABLE if deformable else ATTENTION,
    )
    return decoder | ({"num_outs": 3} if deformable else {})


def config(decoder: str, stuff: int = 0, **settings: Any) -> dict[str, Any]:
    second = decoder == "MSDeformAttnPixelDecoder"
    classes = CLASSES + stuff
    order = ("cross_attn", "norm", "self_attn", "norm", "ffn", "norm")
    head: dict[str, Any] = {
        "type": "Mask2FormerHead" if second else "MaskFormerHead",
        "in_channels": [8, 16, 32, 64],
        "feat_channels": WIDTH,
        "out_channels": WIDTH,
        "num_things_classes": CLASSES,
        "num_stuff_classes": stuff,
        "num_queries": QUERIES,
        "pixel_decoder": pixel_decoder(decoder),
        "enforce_decoder_input_project": False,
        "positional_encoding": POSITION,
        "transformer_decoder": layers(
            "DetrTransformerDecoder", 3, "DetrTransformerDecoderLayer", order, ATTENTION
        ),
        "loss_cls": {"type": "CrossEntropyLoss", "class_weight": [1.0] * classes + [0.1]},
        "loss_mask": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_dice": {"type": "DiceLoss", "use_sigmoid": True, "naive_dice": True},
    }
    if second:
        head |= {"num_transformer_feat_level": 3, "strides": [4, 8, 16, 32]}
    return {
        "type": "Mask2Former" if second else "MaskFormer",
        "backbone": BACKBONE,
        "panoptic_head": head,
        "panoptic_fusion_head": {
            "type": "MaskFormerFusionHead",
            "num_things_classes": CLASSES,
            "num_stuff_classes": stuff,
        },
        "test_cfg": {
            "panoptic_on": False,
            "semantic_on": False,
            "instance_on": True,
            "max_per_image": 10,
            **settings,
        },
    }


DECODERS = {
    "MSDeformAttnPixelDecoder": "mask2former",
    "TransformerEncoderPixelDecoder": "maskformer",
    "PixelDecoder": "maskformer",
}


@pytest.fixture(scope="module", params=DECODERS)
def detector(request: pytest.FixtureRequest) -> Any:
    detector = built(config(request.param))
    assert builtin_families().of(detector).name == DECODERS[request.param]
    return detector


class TestQueryMasks(FamilyTests):
    """MaskFormer's and Mask2Former's pixel decoders."""


def test_boxes_and_scores_are_made_with_the_masks(detector: Any) -> None:
    """The graph has classes' scores and no boxes; the detections have mmdet's."""
    batch = images()
    with torch.no_grad():
        values = lower(detector)(
            torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape)
        )
    outputs = {
        name: value.numpy() for name, value in zip(("dets", "labels", "masks"), values, strict=True)
    }
    assert not outputs["dets"][..., :4].any()
    maps = builtin_families().of(detector).image_maps(detector)
    found = from_outputs(outputs, batch, maps=maps)
    for ours, mmdets in zip(found, Reference(detector).run(batch), strict=True):
        assert ours.boxes.any()
        np.testing.assert_array_equal(ours.boxes, mmdets.boxes)
        np.testing.assert_allclose(ours.scores, mmdets.scores, atol=1e-5)


def test_scores_lie_within_what_pixels_at_the_threshold_leave_open(detector: Any) -> None:
    require_narrow_scores(detector, images())


def test_what_is_refused_is_named() -> None:
    families = builtin_families()
    with pytest.raises(UnsupportedPart, match=r"num_stuff_classes is 2: panoptic segmentation"):
        families.of(built_panoptic())
    detector = built(config("PixelDecoder"))
    detector.panoptic_fusion_head.test_cfg.instance_on = False
    with pytest.raises(UnsupportedPart, match=r"model.test_cfg.instance_on is not set"):
        families.of(detector)
    detector.panoptic_fusion_head.test_cfg.update(instance_on=True, max_per_image=100)
    with pytest.raises(UnsupportedPart, match=r"test_cfg.max_per_image is 100.* from 1 to 36"):
        lower(detector)


def built_panoptic() -> Any:
    """A detector of things and stuff, uncalibrated."""
    import mmcv
    from mmdet.models import build_detector

    return build_detector(mmcv.ConfigDict(config("PixelDecoder", stuff=2))).eval()
