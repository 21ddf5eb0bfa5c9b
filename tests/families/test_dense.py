"""Dense heads on tiny detectors: eager against mmdet, and their graphs on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.reference.detector import Reference
from tiny_detectors import NORM, Tiny, dense_overrides, tiny

LOWERINGS = ("onnxruntime", "tensorrt")
GN = {"norm_cfg": NORM}
#: By family: one of mmdet's configs, and what is changed in its head beside widths.
HEADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "atss": ("dense", "atss/atss_r50_fpn_1x_coco.py", GN),
    "ddod": ("dense", "ddod/ddod_r50_fpn_1x_coco.py", {**GN, "use_dcn": False}),
    "gfl": ("gfl", "gfl/gfl_r50_fpn_1x_coco.py", GN),
    "fovea": ("fovea", "foveabox/fovea_r50_fpn_4x4_1x_coco.py", {}),
    "autoassign": ("dense", "autoassign/autoassign_r50_fpn_8x2_1x_coco.py", GN),
}


@pytest.fixture(scope="module", params=HEADS)
def head(request: pytest.FixtureRequest) -> tuple[str, Tiny]:
    family, config, more = HEADS[request.param]
    return family, tiny(config, dense_overrides(**more))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_detections_are_mmdets(head: tuple[str, Tiny], lowering: str, tmp_path: Path) -> None:
    """In PyTorch, and as a dynamic graph on ONNX Runtime."""
    family, one = head
    assert builtin_families().of(one.detector).name == family
    one.held(one.eager(lowering))
    one.held(from_outputs(one.graph(tmp_path / "graph.onnx", lowering), one.batch))


@pytest.mark.filterwarnings("ignore")
def test_raw_outputs_are_mmdets(head: tuple[str, Tiny], tmp_path: Path) -> None:
    """By name, and mmdet's post-processing of them gives mmdet's detections."""
    _, one = head
    expected = one.raw()
    outputs = one.graph(tmp_path / "raw.onnx", "onnxruntime", raw=True)
    assert list(outputs) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    with torch.no_grad():
        one.held(Reference(one.detector).post_process(expected, one.batch))
