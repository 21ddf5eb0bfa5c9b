"""Proposal networks, alone and before a second stage, against mmdet and on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import CLASSES, NECK, Tiny, dense_overrides, tiny

from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.base import split_raw
from pytest_onnxdet.families.proposals import proposal_network
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.reference.detector import Reference

LOWERINGS = ("onnxruntime", "tensorrt")
BODY = {k: v for k, v in dense_overrides().items() if "bbox_head" not in k}
PLAIN = {"model.rpn_head.in_channels": NECK, "model.rpn_head.feat_channels": NECK}
SOFTMAX = {
    "model.rpn_head.loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False},
    "model.rpn_head.anchor_generator.scales": [4, 8],
}
C4 = {
    "model.backbone": {
        "_delete_": True,
        "type": "ResNet",
        "depth": 18,
        "base_channels": 4,
        "num_stages": 3,
        "strides": (1, 2, 2),
        "dilations": (1, 1, 1),
        "out_indices": (2,),
        "norm_eval": False,
    },
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "data.test.pipeline.1.img_scale": (128, 96),
}
GUIDED = {**PLAIN, "model.rpn_head.deform_groups": 2}
STAGES = {
    f"model.rpn_head.stages.{number}.{key}": NECK
    for number in (0, 1)
    for key in ("in_channels", "feat_channels")
}
REGIONS = {
    "model.roi_head.bbox_roi_extractor.out_channels": NECK,
    "model.roi_head.bbox_head.in_channels": NECK,
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.roi_head.bbox_head.num_classes": len(CLASSES),
}
FASTER = {**BODY, **REGIONS}
FEW = {"model.test_cfg.rpn.max_per_img": 60, "model.test_cfg.rpn.nms_pre": 100}
#: By name: the family, one of mmdet's configs, and its overrides.
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "rpn": ("rpn", "rpn/rpn_r50_fpn_1x_coco.py", {**BODY, **PLAIN, **FEW}),
    "softmax": ("rpn", "rpn/rpn_r50_fpn_1x_coco.py", {**BODY, **PLAIN, **SOFTMAX, **FEW}),
    "c4": ("rpn", "rpn/rpn_r50_caffe_c4_1x_coco.py", {**C4, **FEW}),
    "soft": (
        "rpn",
        "rpn/rpn_r50_fpn_1x_coco.py",
        {**BODY, **PLAIN, **FEW, "model.test_cfg.rpn.nms": {"type": "soft_nms"}},
    ),
    "guided": (
        "rpn",
        "guided_anchoring/ga_rpn_r50_fpn_1x_coco.py",
        {**BODY, **GUIDED, **FEW, "model.test_cfg.rpn.nms_post": 30},
    ),
    "guided_across": (
        "rpn",
        "guided_anchoring/ga_rpn_r50_fpn_1x_coco.py",
        {**BODY, **GUIDED, **FEW, "model.test_cfg.rpn.nms_across_levels": True},
    ),
    "cascade": ("rpn", "cascade_rpn/crpn_r50_caffe_fpn_1x_coco.py", {**BODY, **STAGES, **FEW}),
    "ga_faster": (
        "two_stage",
        "guided_anchoring/ga_faster_r50_fpn_1x_coco.py",
        {**FASTER, **GUIDED, **FEW},
    ),
    "crpn_faster": (
        "two_stage",
        "cascade_rpn/crpn_faster_rcnn_r50_caffe_fpn_1x_coco.py",
        {**FASTER, **STAGES, **FEW},
    ),
    "faster_soft": (
        "two_stage",
        "faster_rcnn/faster_rcnn_r50_fpn_soft_nms_1x_coco.py",
        {**FASTER, **PLAIN, **FEW},
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, Tiny]:
    family, config, overrides = NETWORKS[request.param]
    return family, tiny(config, overrides)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_detections_are_mmdets(network: tuple[str, Tiny], lowering: str, tmp_path: Path) -> None:
    """In PyTorch, and as a dynamic graph on ONNX Runtime."""
    family, one = network
    assert builtin_families().of(one.detector).name == family
    one.held(one.eager(lowering))
    one.held(from_outputs(one.graph(tmp_path / "graph.onnx", lowering), one.batch))


@pytest.mark.filterwarnings("ignore")
def test_raw_outputs_are_mmdets(network: tuple[str, Tiny], tmp_path: Path) -> None:
    """By name, with the proposals; mmdet's post-processing of them gives mmdet's detections."""
    _, one = network
    expected = one.raw()
    outputs, proposals = split_raw(one.graph(tmp_path / "raw.onnx", "onnxruntime", raw=True))
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    assert proposals is not None and ((proposals[..., 4] > 0) == (proposals[..., 5] >= 0)).all()
    with torch.no_grad():
        one.held(Reference(one.detector).post_process(expected, one.batch))


def test_proposals_are_detections_of_one_class() -> None:
    rows = np.array([[1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0.9]], np.float32)
    read = Detections.from_mmdet(rows)
    assert read.labels.tolist() == [0, 0] and read.scores.tolist() == rows[::-1, 4].tolist()
    assert len(Detections.from_mmdet(rows[:0])) == 0


@pytest.mark.filterwarnings("ignore")
def test_older_keys_of_networks_that_read_them() -> None:
    from mmcv import ConfigDict

    _, config, overrides = NETWORKS["cascade"]
    one = tiny(config, overrides)
    detector: Any = one.detector
    old = ConfigDict(nms_pre=100, max_num=20, nms_thr=0.7, min_bbox_size=0)
    detector.rpn_head.test_cfg = old
    settings = proposal_network(detector.rpn_head).settings()
    assert settings.nms == {"type": "nms", "iou_threshold": 0.7} and settings.max_per_img == 20
    one.held(one.eager())
    assert max(len(found) for found in one.detections) == 20
    old["max_per_img"] = 30
    with pytest.raises(UnsupportedPart, match="max_num and max_per_img differ"):
        lower(detector)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("guided", {"use_sigmoid_cls": False}, "GARPNHead with softmax scores"),
        ("guided", {"num_base_priors": 3}, "3 square anchors of a place"),
        ("rpn", {"simple_test_rpn": lambda *_: None}, "overrides RPNHead.simple_test_rpn"),
    ],
)
def test_what_is_not_repeated_is_refused(name: str, change: dict[str, Any], said: str) -> None:
    _, config, overrides = NETWORKS[name]
    detector: Any = tiny(config, overrides).detector
    for key, value in change.items():
        setattr(detector.rpn_head, key, value)
    with pytest.raises(UnsupportedPart, match=said):
        lower(detector)
