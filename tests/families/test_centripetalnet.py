"""CentripetalNet against mmdet's own."""

from __future__ import annotations

from typing import Any

import pytest
from small_detectors import CanvasTests, built, centred

from pytest_onnxdet.families.registry import builtin_families


def config() -> dict[str, Any]:
    return {
        "type": "CornerNet",
        "backbone": {
            "type": "HourglassNet",
            "downsample_times": 2,
            "num_stacks": 1,
            "stage_channels": (8, 8, 12),
            "stage_blocks": (1, 1, 1),
            "feat_channel": 8,
            "norm_cfg": {"type": "BN"},
        },
        "neck": None,
        "bbox_head": {
            "type": "CentripetalHead",
            "num_classes": 2,
            "in_channels": 8,
            "num_feat_levels": 1,
            "corner_emb_channels": 0,
            "loss_heatmap": {"type": "GaussianFocalLoss", "alpha": 2.0, "gamma": 4.0},
            "loss_offset": {"type": "SmoothL1Loss"},
        },
        "test_cfg": {
            "corner_topk": 100,
            "local_maximum_kernel": 3,
            "distance_threshold": 0.5,
            "score_thr": 0.05,
            "max_per_img": 20,
            "nms": {"type": "soft_nms", "iou_threshold": 0.5, "method": "gaussian"},
        },
    }


PIPELINE = [
    {
        "type": "RandomCenterCropPad",
        "test_mode": True,
        "test_pad_mode": ["logical_or", 31],
        "test_pad_add_pix": 1,
    }
]


@pytest.fixture(scope="module")
def detector() -> Any:
    detector = built(config(), centred(), data={"test": {"pipeline": PIPELINE}})
    assert builtin_families().of(detector).name == "centripetalnet"
    return detector


class TestCentripetalNet(CanvasTests):
    """CentripetalNet."""
