"""Detectors with layers that only trace otherwise, whole: mmdet's detections at another size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from thinned import BACKBONE, STAGES, calibrated, thinned, two_images

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections

pytestmark = pytest.mark.filterwarnings("ignore")
FASTER = "faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py"
RETINA = "retinanet/retinanet_r50_fpn_1x_coco.py"
INPUTS = {"neck__in_channels": list(STAGES)}


def deformable(kind: str) -> dict[str, Any]:
    dcn = {"type": kind, "deform_groups": 1, "fallback_on_stride": False}
    stages = (False, True, True, True)
    backbone = {**BACKBONE, "depth": 50, "base_channels": 2, "dcn": dcn, "stage_with_dcn": stages}
    return {"backbone": backbone, **INPUTS}


STRUCTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "dcn": (FASTER, deformable("DCN")),
    "dcn_v2": (FASTER, deformable("DCNv2")),
    "swin": (
        RETINA,
        {
            "backbone": {
                "_delete_": True,
                "type": "SwinTransformer",
                "embed_dims": 8,
                "depths": (2, 2, 2, 2),
                "num_heads": (1, 2, 2, 2),
                "window_size": 4,
            },
            **INPUTS,
        },
    ),
    "pvt_v2": (
        RETINA,
        {
            "backbone": {
                "_delete_": True,
                "type": "PyramidVisionTransformerV2",
                "embed_dims": 8,
                "num_layers": (1, 1, 1, 1),
                "num_heads": (1, 2, 4, 8),
                "sr_ratios": (8, 4, 2, 1),
                "mlp_ratios": (2, 2, 2, 2),
            },
            **INPUTS,
        },
    ),
    "carafe": ("carafe/faster_rcnn_r50_fpn_carafe_1x_coco.py", {}),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(
    "lowering", ["onnxruntime", pytest.param("tensorrt", marks=pytest.mark.nightly)]
)
def test_the_graph_detects_what_mmdet_detects(name: str, lowering: str, tmp_path: Path) -> None:
    config, overrides = copy.deepcopy(STRUCTURES[name])
    detector = thinned(config, **overrides)
    batch = two_images(detector)
    calibrated(detector, batch)
    height, width = batch.images.shape[2:]
    options = ExportOptions(batch=3, size=(height + 32, width + 64), lowering=lowering)
    path = tmp_path / "graph.onnx"
    info = export_detector(detector, options, path)
    with OnnxRuntimeBackend("cpu").prepare(Artifact(path, "x", False, info), threads=1) as session:
        outputs = session.run(batch)
    expected = Reference(detector).run(batch)
    assert all(len(one) for one in expected)
    result = compare_detections(expected, from_outputs(outputs, batch), Tolerance())
    assert result.ok, result.format()
