"""Dense heads on tiny detectors: eager against mmdet, and their graphs on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_detectors import NECK, NORM, Tiny, dense_overrides, tiny

from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.reference.detector import Reference

LOWERINGS = ("onnxruntime", "tensorrt")
GN = {"norm_cfg": NORM}
#: By family: one of mmdet's configs, and what is changed in its head beside widths.
HEADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "atss": ("dense", "atss/atss_r50_fpn_1x_coco.py", GN),
    "ddod": ("dense", "ddod/ddod_r50_fpn_1x_coco.py", {**GN, "use_dcn": False}),
    "gfl": ("gfl", "gfl/gfl_r50_fpn_1x_coco.py", GN),
    "fovea": ("fovea", "foveabox/fovea_r50_fpn_4x4_1x_coco.py", {}),
    "sabl": ("sabl", "sabl/sabl_retinanet_r50_fpn_1x_coco.py", {}),
    "paa": ("paa", "paa/paa_r50_fpn_1x_coco.py", GN),
    "paa_unvoted": ("paa", "paa/paa_r50_fpn_1x_coco.py", {**GN, "score_voting": False}),
    "yolox": (
        "yolox",
        "yolox/yolox_s_8x8_300e_coco.py",
        {
            "model.backbone.widen_factor": 0.125,
            "model.neck.in_channels": [32, 64, 128],
            "model.neck.out_channels": 16,
            "model.bbox_head.num_classes": 3,
            "model.bbox_head.in_channels": 16,
            "model.bbox_head.feat_channels": 16,
            "data.test.pipeline.1.img_scale": (128, 128),
        },
    ),
    "yolof": (
        "dense",
        "yolof/yolof_r50_c5_8x8_1x_coco.py",
        {
            **{k: v for k, v in dense_overrides().items() if k.startswith("data")},
            "model.backbone": {
                "_delete_": True,
                "type": "ResNet",
                "depth": 18,
                "base_channels": 4,
                "out_indices": (3,),
            },
            "model.neck.in_channels": 32,
            "model.neck.out_channels": 16,
            "model.neck.block_mid_channels": 8,
            "model.bbox_head.num_classes": 3,
            "model.bbox_head.in_channels": 16,
        },
    ),
    "retina_sepbn": ("dense", "nas_fpn/retinanet_r50_fpn_crop640_50e_coco.py", {}),
    "fcos_normed": (
        "dense",
        "fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco.py",
        GN,
    ),
    "vfnet": ("dense", "vfnet/vfnet_r50_fpn_1x_coco.py", GN),
    "tood": ("tood", "tood/tood_r50_fpn_1x_coco.py", {**GN, "stacked_convs": 2}),
    "tood_anchors": (
        "tood",
        "tood/tood_r50_fpn_anchor_based_1x_coco.py",
        {**GN, "stacked_convs": 2},
    ),
    "fovea_aligned": (
        "fovea",
        "foveabox/fovea_align_r50_fpn_gn-head_4x4_2x_coco.py",
        {**GN, "deform_groups": 2},
    ),
    "reppoints": (
        "reppoints",
        "reppoints/reppoints_moment_r50_fpn_1x_coco.py",
        {**GN, "point_feat_channels": NECK},
    ),
    "reppoints_grid": (
        "reppoints",
        "reppoints/reppoints_moment_r50_fpn_1x_coco.py",
        {**GN, "point_feat_channels": NECK, "use_grid_points": True, "transform_method": "minmax"},
    ),
    "guided": (
        "guided",
        "guided_anchoring/ga_retinanet_r50_fpn_1x_coco.py",
        {"deform_groups": 2},
    ),
    "nasfcos": ("dense", "nas_fcos/nas_fcos_nashead_r50_caffe_fpn_gn-head_4x4_1x_coco.py", GN),
    "legacy": ("dense", "legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py", {}),
    "autoassign": ("dense", "autoassign/autoassign_r50_fpn_8x2_1x_coco.py", GN),
}

#: Heads that detect as another does, or other settings of one: compared in PyTorch alone.
ALIKE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ld": ("gfl", "ld/ld_r18_gflv1_r101_fpn_coco_1x.py", GN),
    "lad": ("paa", "lad/lad_r50_paa_r101_fpn_coco_1x.py", GN),
    "free_anchor": ("dense", "free_anchor/retinanet_free_anchor_r50_fpn_1x_coco.py", {}),
    "pisa": ("dense", "pisa/pisa_retinanet_r50_fpn_1x_coco.py", {}),
    "ghm": ("dense", "ghm/retinanet_ghm_r50_fpn_1x_coco.py", {}),
    "ascend": ("dense", "retinanet/ascend_retinanet_r18_fpn_1x8_1x_coco.py", {}),
    "reppoints_partial": (
        "reppoints",
        "reppoints/reppoints_moment_r50_fpn_1x_coco.py",
        {**GN, "point_feat_channels": NECK, "transform_method": "partial_minmax"},
    ),
    "sabl_unclipped": (
        "sabl",
        "sabl/sabl_retinanet_r50_fpn_1x_coco.py",
        {"bbox_coder.clip_border": False},
    ),
    "ssdlite": (
        "dense",
        "ssd/ssdlite_mobilenetv2_scratch_600e_coco.py",
        {
            "model.backbone.widen_factor": 0.1,
            "model.neck.in_channels": (16, 1280),
            "model.neck.out_channels": (16, 1280, 32, 32, 32, 32),
            "model.bbox_head.in_channels": (16, 1280, 32, 32, 32, 32),
            "model.bbox_head.num_classes": 3,
        },
    ),
    "ascend_ssd": (
        "dense",
        "ssd/ascend_ssd300_coco.py",
        {"model.bbox_head.num_classes": 3},
    ),
}


def overrides(more: dict[str, Any]) -> dict[str, Any]:
    """Overrides of a whole config, or of a head."""
    whole = any(key.startswith("model.") for key in more)
    return more if whole else dense_overrides(**more)


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest) -> tuple[str, Tiny]:
    family, config, more = HEADS[request.param]
    return family, tiny(config, overrides(more))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_detections_are_mmdets(head: tuple[str, Tiny], lowering: str, tmp_path: Path) -> None:
    """In PyTorch, and as a dynamic graph on ONNX Runtime."""
    family, one = head
    assert builtin_families().of(one.detector).name == family
    one.held(one.eager(lowering))
    one.held(from_outputs(one.graph(tmp_path / "graph.onnx", lowering), one.batch))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ALIKE)
def test_heads_that_detect_alike(name: str) -> None:
    family, config, more = ALIKE[name]
    one = tiny(config, overrides(more))
    assert builtin_families().of(one.detector).name == family
    for lowering in LOWERINGS:
        one.held(one.eager(lowering))


@pytest.mark.filterwarnings("ignore")
def test_raw_outputs_are_mmdets(head: tuple[str, Tiny], tmp_path: Path) -> None:
    """By name, and mmdet's post-processing of them gives mmdet's detections."""
    _, one = head
    expected = one.raw()
    outputs = one.graph(tmp_path / "raw.onnx", "onnxruntime", raw=True)
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        allowed = 2e-4 * np.abs(value).max()
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=allowed, err_msg=name)
    with torch.no_grad():
        one.held(Reference(one.detector).post_process(expected, one.batch))
