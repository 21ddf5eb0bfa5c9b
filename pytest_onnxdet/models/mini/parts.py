"""What the thinned parts of several minis have in common."""

from __future__ import annotations

from typing import Any

NUM_CLASSES = 3
BASE = 12  # channels of the backbone's first stage; they double with each stage
STAGES = (BASE, BASE * 2, BASE * 4, BASE * 8)
FPN = 48
TWO_STAGE_FPN = 32
SCALE = {"data.test.pipeline.1.img_scale": (160, 128)}


def resnet(style: str = "pytorch", base: int = BASE, **more: Any) -> dict[str, Any]:
    """A thin ResNet-18 in the place of the documented backbone."""
    return {
        "_delete_": True,
        "type": "ResNet",
        "depth": 18,
        "base_channels": base,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": -1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": False,
        "style": style,
        "init_cfg": None,
        **more,
    }


def dense_head(**more: Any) -> dict[str, Any]:
    """Overrides of a one-stage head on an FPN of ``FPN`` channels."""
    return {
        "model.neck.in_channels": list(STAGES),
        "model.neck.out_channels": FPN,
        "model.bbox_head.num_classes": NUM_CLASSES,
        "model.bbox_head.in_channels": FPN,
        "model.bbox_head.feat_channels": FPN,
        "model.bbox_head.stacked_convs": 2,
        **{f"model.bbox_head.{key}": value for key, value in more.items()},
        **SCALE,
    }


def attention(width: int) -> dict[str, Any]:
    """Attention of 8 heads between ``width`` channels."""
    return {"type": "MultiheadAttention", "embed_dims": width, "num_heads": 8, "dropout": 0.0}


def feed_forward(width: int, channels: int) -> dict[str, Any]:
    """The two layers after an attention, ``channels`` between them."""
    return {
        "type": "FFN",
        "embed_dims": width,
        "feedforward_channels": channels,
        "num_fcs": 2,
        "ffn_drop": 0.0,
        "act_cfg": {"type": "ReLU", "inplace": True},
    }
