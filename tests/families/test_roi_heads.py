"""RoI heads of two-stage detectors, each as mmdet configures it, against mmdet's own detections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from thinned import calibrated, thinned, two_images
from torch import nn

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.grid import grid_boxes
from pytest_onnxdet.families.ops.buckets import decode_buckets
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections

pytestmark = pytest.mark.filterwarnings("ignore")

C4: dict[str, Any] = {
    "backbone": {
        "_delete_": True,
        "type": "ResNet",
        "depth": 18,
        "base_channels": 64,
        "num_stages": 1,
        "strides": (4,),
        "dilations": (1,),
        "out_indices": (0,),
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": False,
    },
    "rpn_head__in_channels": 64,
    "rpn_head__feat_channels": 16,
    "roi_head__bbox_roi_extractor__out_channels": 64,
    "roi_head__shared_head": {
        "_delete_": True,
        "type": "ResLayer",
        "depth": 18,
        "stage": 1,
        "norm_cfg": {"type": "BN", "requires_grad": False},
    },
    "roi_head__bbox_head__in_channels": 128,
}
STRUCTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "faster": ("faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py", {}),
    "cascade_mask": ("cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py", {}),
    "agnostic_masks": (
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py",
        {"roi_head__mask_head__class_agnostic": True},
    ),
    "coarse": (
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py",
        {
            "roi_head__mask_head": {
                "_delete_": True,
                "type": "CoarseMaskHead",
                "in_channels": 24,
                "conv_out_channels": 24,
                "fc_out_channels": 32,
                "num_classes": 3,
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
            }
        },
    ),
    "groie": ("groie/mask_rcnn_r50_fpn_groie_1x_coco.py", {}),
    "double": ("double_heads/dh_faster_rcnn_r50_fpn_1x_coco.py", {}),
    "sabl": ("sabl/sabl_faster_rcnn_r50_fpn_1x_coco.py", {}),
    "sabl_cascade": ("sabl/sabl_cascade_rcnn_r50_fpn_1x_coco.py", {}),
    "mask_scoring": ("ms_rcnn/ms_rcnn_r50_fpn_1x_coco.py", {}),
    "htc_plain": ("htc/htc_without_semantic_r50_fpn_1x_coco.py", {}),
    "htc": ("htc/htc_r50_fpn_1x_coco.py", {}),
    "scnet": ("scnet/scnet_r50_fpn_1x_coco.py", {}),
    "grid": ("grid_rcnn/grid_rcnn_r50_fpn_gn-head_2x_coco.py", {}),
    "c4": ("faster_rcnn/faster_rcnn_r50_caffe_c4_1x_coco.py", C4),
    "c4_mask": (
        "mask_rcnn/mask_rcnn_r50_caffe_c4_1x_coco.py",
        {**C4, "roi_head__mask_head__in_channels": 128},
    ),
    "deformable_pooling": ("dcn/faster_rcnn_r50_fpn_dpool_1x_coco.py", {}),
    "trident": (
        "tridentnet/tridentnet_r50_caffe_1x_coco.py",
        {
            **C4,
            "backbone": {
                **C4["backbone"],
                "type": "TridentResNet",
                "depth": 50,
                "base_channels": 4,
                "num_stages": 3,
                "strides": (1, 2, 2),
                "dilations": (1, 1, 1),
                "out_indices": (2,),
                "num_branch": 3,
                "test_branch_idx": 1,
                "trident_dilations": (1, 2, 3),
            },
        },
    ),
    "seesaw": (
        "seesaw_loss/cascade_mask_rcnn_r101_fpn_random_seesaw_loss_mstrain_2x_lvis_v1.py",
        {},
    ),
}


@dataclass
class Case:
    """A detector with two images, and what mmdet detects in them."""

    detector: Any
    batch: Batch

    def held(self, outputs: dict[str, Any]) -> None:
        """These outputs of a graph are mmdet's detections."""
        expected = Reference(self.detector).run(self.batch)
        assert all(len(one) for one in expected), [len(one) for one in expected]
        result = compare_detections(expected, from_outputs(outputs, self.batch), Tolerance())
        assert result.ok, result.format()


@pytest.fixture(scope="module", params=STRUCTURES)
def case(request: pytest.FixtureRequest) -> Case:
    config, overrides = STRUCTURES[request.param]
    detector = thinned(config, **overrides)
    batch = two_images(detector)
    return Case(calibrated(detector, batch), batch)


@pytest.mark.parametrize("lowering", ["onnxruntime", "tensorrt"])
def test_detections_are_mmdets(case: Case, lowering: str) -> None:
    model = lower(case.detector, lowering)
    with torch.no_grad():
        values = model(
            torch.from_numpy(case.batch.images), torch.from_numpy(case.batch.image_shape)
        )
    case.held({name: value.numpy() for name, value in zip(model.outputs, values, strict=True)})


@pytest.mark.parametrize(
    "lowering", ["onnxruntime", pytest.param("tensorrt", marks=pytest.mark.nightly)]
)
def test_the_graph_detects_the_same(case: Case, lowering: str, tmp_path: Path) -> None:
    """Exported for three images of another size, and run on these two."""
    height, width = case.batch.images.shape[2:]
    options = ExportOptions(batch=3, size=(height + 32, width + 64), lowering=lowering)
    path = tmp_path / "graph.onnx"
    info = export_detector(case.detector, options, path)
    with OnnxRuntimeBackend("cpu").prepare(Artifact(path, "x", False, info), threads=1) as session:
        case.held(session.run(case.batch))


def test_mmdets_post_processing_goes_on_from_the_raw_outputs(case: Case) -> None:
    """What proofs of ties rely on; and the raw graph's outputs are the reference's."""
    reference = Reference(case.detector)
    raw = reference.raw(case.batch)
    found, expected = reference.post_process(raw, case.batch), reference.run(case.batch)
    assert not compare_detections(expected, found, Tolerance()).faults
    inputs = (torch.from_numpy(case.batch.images), torch.from_numpy(case.batch.image_shape))
    with torch.no_grad():
        own = lower(case.detector).raw(*inputs)
    assert (own.pop("proposals")[..., 4] > 0).sum(dim=1).min() > 10
    assert own.keys() == raw.keys()
    for name, value in raw.items():
        torch.testing.assert_close(own[name], torch.from_numpy(value))


def test_buckets_are_decoded_as_mmdet_decodes_them() -> None:
    from mmdet.core.bbox.coder import BucketingBBoxCoder

    coder = BucketingBBoxCoder(num_buckets=14, scale_factor=1.7)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 5, 4, generator=generator) * 40
    boxes[..., 2:] += boxes[..., :2]
    classes, offsets = torch.randn(2, 2, 5, 28, generator=generator)
    shape = torch.tensor([[60, 70], [80, 50]])
    corners, confidence = decode_buckets(coder, boxes, classes, offsets, shape)
    for i in range(2):
        expected, sure = coder.decode(boxes[i], (classes[i], offsets[i]), shape[i].tolist())
        torch.testing.assert_close(corners[i], expected)
        torch.testing.assert_close(confidence[i], sure)


@pytest.mark.parametrize("points", [4, 9, 16])
def test_grid_points_vote_as_mmdets_do(points: int) -> None:
    from mmdet.models.roi_heads.mask_heads import GridHead

    norm = {"type": "GN", "num_groups": 2}
    head = GridHead(points, 1, 6, 4, point_feat_channels=2, norm_cfg=norm)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 3, 4, generator=generator) * 40
    boxes[..., 2:] += boxes[..., :2]
    heat = torch.randn(6, points, 12, 12, generator=generator)
    result = grid_boxes(head, boxes, heat)
    for i in range(2):
        dets = torch.cat([boxes[i], torch.ones(3, 1)], dim=1)
        meta = {"img_shape": (80, 80, 3)}
        expected = head.get_bboxes(dets, heat[3 * i : 3 * i + 3], [meta])
        torch.testing.assert_close(result[i], expected[:, :4])


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("trident", "test_branch_idx", -1, r"test_branch_idx is -1: of more than one image"),
        (
            "htc",
            "mask_info_flow",
            False,
            r"mask_head\.0 is HTCMaskHead and mask_info_flow is False",
        ),
        ("htc", "semantic_roi_extractor.roi_layers.0.output_size", (9, 9), "9 x 9, of which"),
        ("scnet", "feat_relay_head", None, "roi_head has no feat_relay_head"),
        ("grid", "shared_head", nn.Identity(), "roi_head.shared_head"),
        ("sabl", "bbox_head.loss_cls.custom_activation", True, "bbox_head: CrossEntropyLoss's"),
    ],
)
def test_what_has_no_lowering_is_refused_by_its_path(
    name: str, path: str, value: Any, message: str
) -> None:
    config, overrides = STRUCTURES[name]
    detector = thinned(config, **overrides)
    place, _, attribute = path.rpartition(".")
    setattr(detector.roi_head.get_submodule(place), attribute, value)
    with pytest.raises(UnsupportedPart, match=message):
        lower(detector)
