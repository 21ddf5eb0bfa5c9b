"""What makes each documented config a mini: data only, merged as ``Config.merge_from_dict``.

Detector, heads, coders and test_cfg stay the documented ones, so that a graph exercises the
same code. Thinned are the backbone (ResNet-18, a few channels, no pretrained start, nothing
frozen), the necks and heads; anchors follow the size of the drawn shapes; the test pipeline
resizes to about 128 to 160 px, by a factor that is not 1, so that rescaling matters.
"""

from __future__ import annotations

import math
from typing import Any

from pytest_onnxdet.models.mini.parts import (
    NUM_CLASSES,
    SCALE,
    STAGES,
    TWO_STAGE_FPN,
    attention,
    dense_head,
    feed_forward,
    resnet,
)


# Sampling fewer regions only makes training quicker; it is no part of the test path.
def _rpn(style: str = "pytorch") -> dict[str, Any]:
    return {
        "model.backbone": resnet(style),
        "model.neck.in_channels": list(STAGES),
        "model.neck.out_channels": TWO_STAGE_FPN,
        "model.rpn_head.in_channels": TWO_STAGE_FPN,
        "model.rpn_head.feat_channels": TWO_STAGE_FPN,
        "model.rpn_head.anchor_generator.scales": [5],
        "model.roi_head.bbox_roi_extractor.out_channels": TWO_STAGE_FPN,
        "model.train_cfg.rpn.sampler.num": 64,
        "model.train_cfg.rpn_proposal.nms_pre": 500,
        "model.train_cfg.rpn_proposal.max_per_img": 200,
        **SCALE,
    }


def _box_head(at: str) -> dict[str, Any]:
    return {
        f"{at}.in_channels": TWO_STAGE_FPN,
        f"{at}.fc_out_channels": 96,
        f"{at}.num_classes": NUM_CLASSES,
    }


def _standard_roi() -> dict[str, Any]:
    return {
        **_box_head("model.roi_head.bbox_head"),
        "model.train_cfg.rcnn.sampler.num": 48,
    }


def _cascade_roi() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for stage in range(3):
        merged |= _box_head(f"model.roi_head.bbox_head.{stage}")
        merged[f"model.train_cfg.rcnn.{stage}.sampler.num"] = 48
    return merged


def _mask_head() -> dict[str, Any]:
    return {
        "model.roi_head.mask_roi_extractor.out_channels": TWO_STAGE_FPN,
        "model.roi_head.mask_head.num_convs": 2,
        "model.roi_head.mask_head.in_channels": TWO_STAGE_FPN,
        "model.roi_head.mask_head.conv_out_channels": TWO_STAGE_FPN,
        "model.roi_head.mask_head.num_classes": NUM_CLASSES,
    }


def _detr() -> dict[str, Any]:
    width, queries = 64, 12
    encoder = "model.bbox_head.transformer.encoder"
    decoder = "model.bbox_head.transformer.decoder"
    return {
        # Stride 16 for the documented 32: 5 x 4 positions would be too few for six shapes.
        "model.backbone": resnet(out_indices=(3,), strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        "model.bbox_head.num_classes": NUM_CLASSES,
        "model.bbox_head.in_channels": STAGES[-1],
        "model.bbox_head.num_query": queries,
        f"{encoder}.num_layers": 2,
        f"{encoder}.transformerlayers.attn_cfgs": [attention(width)],
        f"{encoder}.transformerlayers.ffn_cfgs": feed_forward(width, 256),
        f"{encoder}.transformerlayers.feedforward_channels": 256,
        f"{encoder}.transformerlayers.ffn_dropout": 0.0,
        f"{decoder}.num_layers": 2,
        f"{decoder}.transformerlayers.attn_cfgs": attention(width),
        f"{decoder}.transformerlayers.ffn_cfgs": feed_forward(width, 256),
        f"{decoder}.transformerlayers.feedforward_channels": 256,
        f"{decoder}.transformerlayers.ffn_dropout": 0.0,
        # Finer and coarser waves that differ over 10 cells; the documented ones are for 40, and
        # 10 of 16 would be all but constant.
        "model.bbox_head.positional_encoding.num_feats": width // 2,
        "model.bbox_head.positional_encoding.scale": 4 * math.pi,
        "model.bbox_head.positional_encoding.temperature": 100,
        # No more detections than queries can be asked for; documented: 100 of 100.
        "model.test_cfg.max_per_img": queries,
        **SCALE,
    }


#: Of the documented twelve.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "retinanet": {
        "config": "retinanet/retinanet_r50_fpn_1x_coco.py",
        "masks": False,
        "overrides": {
            "model.backbone": resnet(),
            **dense_head(**{"anchor_generator.octave_base_scale": 2}),
        },
    },
    "fcos": {
        "config": "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco.py",
        "masks": False,
        "overrides": {
            "model.backbone": resnet("caffe"),
            **dense_head(
                # 48 channels do not divide by the documented 32 groups.
                norm_cfg={"type": "GN", "num_groups": 8, "requires_grad": True},
                # Training only: which level learns which size.
                regress_ranges=((-1, 24), (24, 48), (48, 96), (96, 192), (192, 1e8)),
            ),
        },
    },
    "fsaf": {
        "config": "fsaf/fsaf_r50_fpn_1x_coco.py",
        "masks": False,
        "overrides": {"model.backbone": resnet(), **dense_head()},
    },
    "ssd": {
        "config": "ssd/ssd300_coco.py",
        "masks": False,
        "overrides": {
            # VGG-16's widths are fixed in code (26 M parameters). Stages 2 and 3 of a thin
            # ResNet-18 give the same two maps, 38 and 19 wide for the documented 300 px.
            "model.backbone": resnet(base=16, num_stages=3, out_indices=(1, 2))
            | {"strides": (1, 2, 2), "dilations": (1, 1, 1)},
            "model.neck.in_channels": (32, 64),
            "model.neck.out_channels": (32, 64, 64, 64, 64, 64),
            "model.bbox_head.in_channels": (32, 64, 64, 64, 64, 64),
            "model.bbox_head.num_classes": NUM_CLASSES,
        },
    },
    "yolov3": {
        "config": "yolo/yolov3_d53_mstrain-608_273e_coco.py",
        "masks": False,
        "overrides": {
            # Darknet-53's widths are fixed in code (41 M parameters). The last three stages
            # of a thin ResNet-18 have the same strides: 8, 16, 32.
            "model.backbone": resnet(out_indices=(1, 2, 3)),
            "model.neck.in_channels": [STAGES[3], STAGES[2], STAGES[1]],
            "model.neck.out_channels": [48, 32, 24],
            "model.bbox_head.num_classes": NUM_CLASSES,
            "model.bbox_head.in_channels": [48, 32, 24],
            "model.bbox_head.out_channels": [96, 64, 48],
            "model.bbox_head.anchor_generator.base_sizes": [
                [(64, 64), (84, 84), (110, 110)],
                [(30, 30), (40, 40), (52, 52)],
                [(14, 14), (18, 18), (24, 24)],
            ],
            "data.test.pipeline.1.img_scale": (160, 160),
        },
    },
    "faster_rcnn": {
        "config": "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py",
        "masks": False,
        "overrides": {**_rpn(), **_standard_roi()},
    },
    "cascade_rcnn": {
        "config": "cascade_rcnn/cascade_rcnn_r50_fpn_1x_coco.py",
        "masks": False,
        "overrides": {**_rpn(), **_cascade_roi()},
    },
    "mask_rcnn": {
        "config": "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py",
        "masks": True,
        "overrides": {**_rpn(), **_standard_roi(), **_mask_head()},
    },
    "cascade_mask_rcnn": {
        "config": "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py",
        "masks": True,
        "overrides": {**_rpn(), **_cascade_roi(), **_mask_head()},
    },
    "cornernet": {
        "config": "cornernet/cornernet_hourglass104_mstest_8x6_210e_coco.py",
        "masks": False,
        # A small map has fewer peaks than the 100 corners that are taken: cells of score 0 fill up,
        # and which of them torch.topk takes is left open. 13 of 72 images are seen.
        "tied_images": 0.25,
        "overrides": {
            # One hourglass with three downsamplings for the documented two with five.
            "model.backbone.downsample_times": 3,
            "model.backbone.num_stacks": 1,
            "model.backbone.stage_channels": [32, 48, 64, 64],
            "model.backbone.stage_blocks": [1, 1, 1, 1],
            "model.backbone.feat_channel": 32,
            "model.bbox_head.num_classes": NUM_CLASSES,
            "model.bbox_head.in_channels": 32,
            "model.bbox_head.num_feat_levels": 1,
            "data.test.pipeline.1.scale_factor": 0.8,
            # Documented: True. Averaging over a flipped copy happens between two runs of the
            # network, outside of what one graph computes.
            "data.test.pipeline.1.flip": False,
            # 4 x 2^3 - 1 for three downsamplings, as 127 = 4 x 2^5 - 1 is for five.
            "data.test.pipeline.1.transforms.1.test_pad_mode": ["logical_or", 31],
        },
    },
    "detr": {
        "config": "detr/detr_r50_8x2_150e_coco.py",
        "masks": False,
        "overrides": _detr(),
    },
    "point_rend": {
        "config": "point_rend/point_rend_r50_caffe_fpn_mstrain_1x_coco.py",
        "masks": True,
        # Of each mask the 784 least certain points of up to 50,176 are refined, and the 784th and
        # the next may be equally certain. 18 of 72 images are seen.
        "tied_images": 0.35,
        "overrides": {
            **_rpn("caffe"),
            **_standard_roi(),
            "model.roi_head.mask_roi_extractor.out_channels": TWO_STAGE_FPN,
            "model.roi_head.mask_head.in_channels": TWO_STAGE_FPN,
            "model.roi_head.mask_head.conv_out_channels": TWO_STAGE_FPN,
            "model.roi_head.mask_head.fc_out_channels": 96,
            "model.roi_head.mask_head.num_classes": NUM_CLASSES,
            "model.roi_head.point_head.in_channels": TWO_STAGE_FPN,
            "model.roi_head.point_head.fc_channels": 64,
            "model.roi_head.point_head.num_classes": NUM_CLASSES,
        },
    },
}
