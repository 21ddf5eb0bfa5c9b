"""Numbers that boxes are made of: those that no detector was trained with are refused by name."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.registry import builtin_registry

LOWERINGS = ("onnxruntime", "tensorrt")


def overridden(model: str, overrides: dict[str, Any]) -> Any:
    """A mini with other settings and fresh weights."""
    spec = builtin_registry().get(model)
    return build_detector(replace(spec, weights=None, overrides={**spec.overrides, **overrides}))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        (
            "retinanet",
            "bbox_head.bbox_coder.target_stds",
            [0.0, 1, 1, 1],
            "no detector was trained",
        ),
        ("faster_rcnn", "roi_head.bbox_head.bbox_coder.target_stds", [1, 1, 1], "four numbers"),
        ("faster_rcnn", "rpn_head.bbox_coder.target_means", [float("nan")] * 4, "four numbers"),
        ("retinanet", "bbox_head.bbox_coder.clip_border", "nope", "give True or False"),
        ("fsaf", "bbox_head.bbox_coder.normalizer", 0.0, "no detector was trained with a 0"),
        ("retinanet", "bbox_head.bbox_coder.ctr_clamp", "a", "give a number of pixels"),
        ("fcos", "bbox_head.bbox_coder.clip_border", "no", "give True or False"),
    ],
)
def test_a_coder_that_no_detector_was_trained_with(
    model: str, key: str, value: Any, said: str, lowering: str
) -> None:
    overrides = {f"model.{key}": value}
    if model == "fcos":
        overrides["model.bbox_head.bbox_coder.type"] = "DistancePointBBoxCoder"
    with pytest.raises(UnsupportedPart, match=f"^model.{re.escape(key)} is .*{said}"):
        lower(overridden(model, overrides), lowering)


def test_of_a_cascade_the_stage_is_named() -> None:
    detector = overridden("cascade_rcnn", {})
    detector.roi_head.bbox_head[2].bbox_coder.stds = (0, 0, 0, 0)
    path = r"^model\.roi_head\.bbox_head\[2\]\.bbox_coder\.target_stds is \(0, 0, 0, 0\)"
    with pytest.raises(UnsupportedPart, match=path):
        lower(detector)


@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        ("retinanet", "bbox_head.anchor_generator.strides", [8, 16, 0, 64, 128], "above 0"),
        ("faster_rcnn", "rpn_head.anchor_generator.ratios", [1.0, 0.0], "anchors without a size"),
        ("faster_rcnn", "rpn_head.anchor_generator.scales", [0], "anchors without a size"),
        ("fcos", "bbox_head.strides", [8, 16, -32, 64, 128], "above 0"),
    ],
)
def test_a_generator_of_priors_without_a_size(model: str, key: str, value: Any, said: str) -> None:
    place = re.escape(f"model.{key.rpartition('.')[0].partition('.')[0]}.prior_generator")
    with pytest.raises(UnsupportedPart, match=f"^{place} .*{said}"):
        lower(overridden(model, {f"model.{key}": value}))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("retinanet", "bbox_head.anchor_generator.strides"),
        ("faster_rcnn", "rpn_head.anchor_generator.strides"),
    ],
)
@pytest.mark.parametrize("count", [1, 6])
def test_strides_of_another_number_than_the_levels(
    model: str, key: str, count: int, lowering: str
) -> None:
    detector = overridden(model, {f"model.{key}": [8, 16, 32, 64, 128, 256][:count]})
    head = getattr(detector, key.partition(".")[0])
    with pytest.raises(AssertionError):  # mmdet's
        head.prior_generator.grid_priors([(2, 2)] * 5, device="cpu")
    said = f"AnchorGenerator has {count} strides .* for 5 levels of the head's outputs"
    with pytest.raises(UnsupportedPart, match=said):
        lower(detector, lowering)(torch.zeros(1, 3, 96, 96), torch.tensor([[96, 96]]))
