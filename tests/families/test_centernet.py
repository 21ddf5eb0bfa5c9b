"""CenterNet against mmdet's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_detectors import BACKBONE, CanvasTests, built, centred

from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.peaks import played_back_peaks
from pytest_onnxdet.reference.ties.suppression import Unproven


def config() -> dict[str, Any]:
    return {
        "type": "CenterNet",
        "backbone": {**BACKBONE, "out_indices": (2,)},
        "neck": {
            "type": "CTResNetNeck",
            "in_channel": 32,
            "num_deconv_filters": (16, 8),
            "num_deconv_kernels": (4, 4),
            "use_dcn": False,
        },
        "bbox_head": {
            "type": "CenterNetHead",
            "num_classes": 3,
            "in_channel": 8,
            "feat_channel": 8,
        },
        "test_cfg": {"topk": 25, "local_maximum_kernel": 3, "max_per_img": 100},
    }


@pytest.fixture(scope="module")
def detector() -> Any:
    detector = built(config(), centred())
    assert builtin_families().of(detector).name == "centernet"
    return detector


class TestCenterNet(CanvasTests):
    """CenterNet."""


def test_peaks_are_played_back(detector: Any) -> None:
    """With its own heat map mmdet finds the same; a far higher cell is no tie."""
    reference, batch = Reference(detector), centred()
    raw = reference.raw(batch)
    heat = torch.from_numpy(raw["center_heatmap"])
    maps = [heat[row : row + 1] for row in range(len(heat))]
    with played_back_peaks(maps):
        again = reference.post_process(raw, batch)
    assert [one.boxes.tolist() for one in again] == [
        one.boxes.tolist() for one in reference.post_process(raw, batch)
    ]
    other = maps[0].clone()
    other[0, 0, 3, 3] += 30
    with pytest.raises(Unproven), played_back_peaks([other, maps[1]]):
        reference.post_process(raw, batch)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("local_maximum_kernel", 4, "give an odd number"),
        ("topk", 0, r"test_cfg\.topk is 0"),
    ],
)
def test_settings(detector: Any, key: str, value: int, message: str) -> None:
    cfg = detector.bbox_head.test_cfg
    before = cfg[key]
    cfg[key] = value
    try:
        with pytest.raises(UnsupportedPart, match=message):
            lower(detector)
    finally:
        cfg[key] = before
