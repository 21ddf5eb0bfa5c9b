"""What makes minis of detectors beyond the documented twelve, chosen for breadth; data only.

No anchors (YOLOX), scores of two layers (ATSS), attention that samples (Deformable DETR) and masks
of the whole image without boxes (SOLOv2).
"""

from __future__ import annotations

from typing import Any

from pytest_onnxdet.models.mini.parts import (
    FPN,
    NUM_CLASSES,
    SCALE,
    STAGES,
    attention,
    dense_head,
    feed_forward,
    resnet,
)


def _deformable_detr() -> dict[str, Any]:
    # Proposals are told apart by 4 x 128 numbers, fixed in code: the width is the documented 256.
    width, queries, levels = 256, 12, 3
    sampling = {
        "type": "MultiScaleDeformableAttention",
        "embed_dims": width,
        "num_heads": 4,
        "num_levels": levels,
        "num_points": 2,
        "dropout": 0.0,
    }
    layer = {"ffn_cfgs": feed_forward(width, 64), "feedforward_channels": 64, "ffn_dropout": 0.0}
    transformer = "model.bbox_head.transformer"
    encoder, decoder = f"{transformer}.encoder", f"{transformer}.decoder"
    return {
        "model.backbone": resnet(num_stages=3, out_indices=(1, 2))
        | {"strides": (1, 2, 2), "dilations": (1, 1, 1)},
        "model.neck.in_channels": list(STAGES[1:3]),
        "model.neck.norm_cfg.num_groups": 8,
        "model.neck.num_outs": levels,
        "model.bbox_head.num_classes": NUM_CLASSES,
        "model.bbox_head.num_query": queries,
        f"{transformer}.num_feature_levels": levels,
        f"{transformer}.two_stage_num_proposals": queries,
        f"{encoder}.num_layers": 1,
        f"{encoder}.transformerlayers.attn_cfgs": sampling,
        **{f"{encoder}.transformerlayers.{key}": value for key, value in layer.items()},
        f"{decoder}.num_layers": 1,
        f"{decoder}.transformerlayers.attn_cfgs": [attention(width), sampling],
        **{f"{decoder}.transformerlayers.{key}": value for key, value in layer.items()},
        # No more detections than queries can be asked for; documented: 100 of 300.
        "model.test_cfg.max_per_img": queries,
        **SCALE,
    }


WIDER: dict[str, dict[str, Any]] = {
    "yolox": {
        "config": "yolox/yolox_s_8x8_300e_coco.py",
        "masks": False,
        "overrides": {
            # Training resizes at random: not to the documented 480 to 800 px.
            "model.input_size": (160, 160),
            "model.random_size_range": (5, 5),
            "model.backbone.widen_factor": 0.125,
            "model.neck.in_channels": [32, 64, 128],
            "model.neck.out_channels": 32,
            "model.bbox_head.num_classes": NUM_CLASSES,
            "model.bbox_head.in_channels": 32,
            "model.bbox_head.feat_channels": 32,
            "data.test.pipeline.1.img_scale": (160, 160),
        },
    },
    "atss": {
        "config": "atss/atss_r50_fpn_1x_coco.py",
        "masks": False,
        "overrides": {
            "model.backbone": resnet(),
            # 48 channels do not divide by the 32 groups that the head has unless it is told.
            **dense_head(
                norm_cfg={"type": "GN", "num_groups": 8, "requires_grad": True},
                **{"anchor_generator.octave_base_scale": 4},
            ),
        },
    },
    "deformable_detr": {
        "config": "deformable_detr/deformable_detr_twostage_refine_r50_16x2_50e_coco.py",
        "masks": False,
        "overrides": _deformable_detr(),
    },
    "solov2": {
        "config": "solov2/solov2_r50_fpn_1x_coco.py",
        "masks": True,
        "overrides": {
            "model.backbone": resnet(num_stages=3, out_indices=(0, 1, 2))
            | {"strides": (1, 2, 2), "dilations": (1, 1, 1)},
            "model.neck.in_channels": list(STAGES[:3]),
            "model.neck.out_channels": FPN,
            "model.mask_head.num_classes": NUM_CLASSES,
            "model.mask_head.in_channels": FPN,
            "model.mask_head.feat_channels": FPN,
            "model.mask_head.stacked_convs": 2,
            # Training only: which level learns which size.
            "model.mask_head.scale_ranges": ((1, 24), (16, 40), (32, 64), (48, 112), (96, 2048)),
            # Documented: up to 40 cells a side, of images five times as large.
            "model.mask_head.num_grids": [20, 16, 12, 8, 6],
            "model.mask_head.norm_cfg": {"type": "GN", "num_groups": 8, "requires_grad": True},
            "model.mask_head.mask_feature_head.feat_channels": 32,
            "model.mask_head.mask_feature_head.out_channels": 32,
            "model.mask_head.mask_feature_head.norm_cfg.num_groups": 8,
            **SCALE,
        },
    },
}
