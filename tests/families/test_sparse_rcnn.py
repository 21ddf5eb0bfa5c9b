"""Sparse R-CNN and QueryInst against mmdet's own."""

from __future__ import annotations

from typing import Any

import pytest
from small_detectors import BACKBONE, FamilyTests, built, images
from torch import Tensor

from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.levels import Decisions, played_back_levels
from pytest_onnxdet.reference.ties.proof import alternatives
from pytest_onnxdet.reference.ties.replace import overridden
from pytest_onnxdet.verify.compare import compare_detections

STAGES, WIDTH, CLASSES = 2, 16, 4


def extractor(size: int) -> dict[str, Any]:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 2},
        "out_channels": WIDTH,
        "featmap_strides": [4, 8, 16],
        "finest_scale": 14,
    }


def dynamic_conv(size: int, project: bool) -> dict[str, Any]:
    return {
        "type": "DynamicConv",
        "in_channels": WIDTH,
        "feat_channels": 8,
        "out_channels": WIDTH,
        "input_feat_shape": size,
        "with_proj": project,
    }


def config(masks: bool, sigmoid: bool = True) -> dict[str, Any]:
    box_head = {
        "type": "DIIHead",
        "num_classes": CLASSES,
        "num_ffn_fcs": 2,
        "num_heads": 4,
        "num_cls_fcs": 1,
        "num_reg_fcs": 2,
        "feedforward_channels": 32,
        "in_channels": WIDTH,
        "dynamic_conv_cfg": dynamic_conv(5, True),
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True}
        if sigmoid
        else {"type": "CrossEntropyLoss"},
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "clip_border": False,
            "target_means": [0.0, 0.0, 0.0, 0.0],
            "target_stds": [0.5, 0.5, 1.0, 1.0],
        },
    }
    mask_head = {
        "type": "DynamicMaskHead",
        "dynamic_conv_cfg": dynamic_conv(6, False),
        "num_convs": 1,
        "num_classes": CLASSES,
        "roi_feat_size": 6,
        "in_channels": WIDTH,
        "conv_out_channels": 8,
        "norm_cfg": {"type": "BN"},
        "loss_mask": {"type": "DiceLoss", "loss_weight": 8.0, "activate": False},
    }
    roi_head: dict[str, Any] = {
        "type": "SparseRoIHead",
        "num_stages": STAGES,
        "stage_loss_weights": [1] * STAGES,
        "proposal_feature_channel": WIDTH,
        "bbox_roi_extractor": extractor(5),
        "bbox_head": [box_head] * STAGES,
    }
    if masks:
        roi_head["mask_roi_extractor"] = extractor(6)
        roi_head["mask_head"] = [mask_head] * STAGES
    return {
        "type": "QueryInst" if masks else "SparseRCNN",
        "backbone": {**BACKBONE, "out_indices": (0, 1, 2)},
        "neck": {
            "type": "FPN",
            "in_channels": [8, 16, 32],
            "out_channels": WIDTH,
            "num_outs": 3,
        },
        "rpn_head": {
            "type": "EmbeddingRPNHead",
            "num_proposals": 20,
            "proposal_feature_channel": WIDTH,
        },
        "roi_head": roi_head,
        "test_cfg": {"rpn": None, "rcnn": {"max_per_img": 15, "mask_thr_binary": 0.5}},
    }


@pytest.fixture(scope="module", params=["boxes", "softmax", "masks"])
def detector(request: pytest.FixtureRequest) -> Any:
    detector = built(config(request.param == "masks", sigmoid=request.param != "softmax"))
    assert builtin_families().of(detector).name == "sparse_rcnn"
    return detector


class TestSparseRcnn(FamilyTests):
    """Sparse R-CNN, and QueryInst's masks."""


def test_unbounded_samples_are_refused_for_tensorrt(detector: Any) -> None:
    layer = detector.roi_head.bbox_roi_extractor[0].roi_layers[0]
    layer.sampling_ratio = 0
    try:
        with pytest.raises(UnsupportedPart, match="sampling_ratio 0 of boxes that are not clipped"):
            lower(detector, "tensorrt")
        lower(detector, "onnxruntime")
    finally:
        layer.sampling_ratio = 2


def test_more_detections_than_pairs_are_refused(detector: Any) -> None:
    cfg = detector.roi_head.test_cfg
    cfg.max_per_img = 20 * CLASSES + 1
    try:
        with pytest.raises(
            UnsupportedPart, match=r"rcnn\.max_per_img is 81 and there are 80 pairs"
        ):
            lower(detector)
    finally:
        cfg.max_per_img = 15


def test_a_region_at_a_levels_border_is_proven(detector: Any) -> None:
    """What mmdet finds with the level beside a region's own is among the alternatives."""
    reference, batch = Reference(detector), images()
    (first, _) = alone(batch)
    extractor = detector.roi_head.bbox_roi_extractor[1]
    before, original, seen = extractor.finest_scale, extractor.map_roi_levels, []

    def watched(rois: Tensor, count: int) -> Tensor:
        seen.append(rois)
        return original(rois, count)

    with overridden(extractor, map_roi_levels=watched):
        reference.run(first)
    sizes = seen[0][:, 3:] - seen[0][:, 1:3]
    try:
        for size in sizes:  # the border through each region's size: some are not detected
            extractor.finest_scale = float(size.prod().sqrt()) / 2
            own = reference.run(first)
            with played_back_levels(detector, Decisions((True,))):
                other = reference.run(first)
            if not compare_detections(own, other, Tolerance()).ok:
                break
        else:
            pytest.fail("no region's level decides anything")
        raw = reference.raw(batch)
        found = alternatives(reference, batch, 0, other[0], raw, None, None, Tolerance())
        assert any(compare_detections([one], other, Tolerance()).ok for one in found)
    finally:
        extractor.finest_scale = before
