"""YOLACT against mmdet's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_detectors import BACKBONE, LOWERINGS, FamilyTests, built, images

from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.reference.detector import Reference

CLASSES, PROTOTYPES, SIDE = 3, 8, 128
CELLS = (16, 8, 4, 2, 1)


def config(sigmoid: bool = False, **settings: Any) -> dict[str, Any]:
    return {
        "type": "YOLACT",
        "backbone": BACKBONE,
        "neck": {
            "type": "FPN",
            "in_channels": [8, 16, 32, 64],
            "out_channels": 16,
            "start_level": 1,
            "add_extra_convs": "on_input",
            "num_outs": 5,
            "upsample_cfg": {"mode": "bilinear"},
        },
        "bbox_head": {
            "type": "YOLACTHead",
            "num_classes": CLASSES,
            "in_channels": 16,
            "feat_channels": 16,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "octave_base_scale": 3,
                "scales_per_octave": 1,
                "base_sizes": [8, 16, 32, 64, 128],
                "ratios": [0.5, 1.0, 2.0],
                "strides": [SIDE / cells for cells in CELLS],
                "centers": [(SIDE * 0.5 / cells, SIDE * 0.5 / cells) for cells in CELLS],
            },
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoder",
                "target_means": [0.0] * 4,
                "target_stds": [0.1, 0.1, 0.2, 0.2],
            },
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": sigmoid, "reduction": "none"},
            "loss_bbox": {"type": "SmoothL1Loss"},
            "num_head_convs": 1,
            "num_protos": PROTOTYPES,
            "use_ohem": True,
        },
        "mask_head": {
            "type": "YOLACTProtonet",
            "in_channels": 16,
            "num_protos": PROTOTYPES,
            "num_classes": CLASSES,
            "proto_channels": (16, 16, None, 16, PROTOTYPES),
            "proto_kernel_sizes": (3, 3, -2, 3, 1),
        },
        "segm_head": {
            "type": "YOLACTSegmHead",
            "num_classes": CLASSES,
            "in_channels": 16,
            "loss_segm": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        },
        "test_cfg": {
            "nms_pre": 100,
            "score_thr": 0.05,
            "iou_thr": 0.5,
            "top_k": 20,
            "max_per_img": 15,
            **settings,
        },
    }


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def detector(request: pytest.FixtureRequest) -> Any:
    detector = built(config(request.param == "sigmoid"))
    assert builtin_families().of(detector).name == "yolact"
    return detector


class TestYolact(FamilyTests):
    """YOLACT, by softmax and by sigmoid."""


def test_an_image_in_which_nothing_is_found_has_empty_slots() -> None:
    detector, batch = built(config(score_thr=0.05)), images()
    detector.bbox_head.test_cfg.score_thr = 0.999999
    assert [len(one) for one in Reference(detector).run(batch)] == [0, 0]
    for lowering in LOWERINGS:
        with torch.no_grad():
            dets, labels, masks = lower(detector, lowering)(
                torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape)
            )
        assert not dets.any()
        assert (labels == -1).all()
        assert masks.shape[1] == labels.shape[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iou_thr": 1.5}, r"model.test_cfg.iou_thr is 1.5"),
        ({"top_k": 0}, r"model.test_cfg.top_k is 0"),
        ({"nms_pre": 0.5}, r"model.test_cfg.nms_pre is 0.5"),
    ],
)
def test_settings_that_are_refused(change: dict[str, Any], message: str) -> None:
    detector = built(config())
    detector.bbox_head.test_cfg.update(change)
    with pytest.raises(UnsupportedPart, match=message):
        lower(detector)
