"""SOLO, Decoupled SOLO (and light) and SOLOv2 against mmdet's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_detectors import (
    BACKBONE,
    LOWERINGS,
    FamilyTests,
    built,
    images,
    require_eager,
    require_narrow_scores,
)
from torch.nn import functional

from pytest_onnxdet.data.image_maps import IMAGE_MAPS_NAME, ImageMaps, image_maps
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.ops.matrix_nms import matrix_nms
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.families.solo import coordinates
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.contract import contract_faults

CLASSES = 3
NORM = {"type": "GN", "num_groups": 4}
FEATURE = {
    "feat_channels": 16,
    "start_level": 0,
    "end_level": 3,
    "out_channels": 16,
    "mask_stride": 4,
    "norm_cfg": NORM,
}
HEADS = {
    "SOLOHead": "solo",
    "DecoupledSOLOHead": "decoupled_solo",
    "DecoupledSOLOLightHead": "decoupled_solo",
    "SOLOV2Head": "solov2",
}


def config(head: str, **settings: Any) -> dict[str, Any]:
    mask_head: dict[str, Any] = {
        "type": head,
        "num_classes": CLASSES,
        "in_channels": 16,
        "stacked_convs": 2,
        "feat_channels": 16,
        "strides": [8, 8, 16, 32, 32],
        "scale_ranges": ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
        "num_grids": [8, 7, 5, 4, 3],
        "cls_down_index": 0,
        "loss_mask": {"type": "DiceLoss", "use_sigmoid": True},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
        "norm_cfg": NORM,
    }
    if head == "SOLOV2Head":
        mask_head["mask_feature_head"] = dict(FEATURE)
    return {
        "type": "SOLOv2" if head == "SOLOV2Head" else "SOLO",
        "backbone": BACKBONE,
        "neck": {
            "type": "FPN",
            "in_channels": [8, 16, 32, 64],
            "out_channels": 16,
            "num_outs": 5,
        },
        "mask_head": mask_head,
        "test_cfg": {
            "nms_pre": 50,
            "score_thr": 0.1,
            "mask_thr": 0.5,
            "filter_thr": 0.05,
            "kernel": "gaussian",
            "sigma": 2.0,
            "max_per_img": 20,
            **settings,
        },
    }


@pytest.fixture(scope="module", params=HEADS)
def detector(request: pytest.FixtureRequest) -> Any:
    detector = built(config(request.param))
    assert builtin_families().of(detector).name == HEADS[request.param]
    return detector


class TestSolo(FamilyTests):
    """SOLO's kinds."""


def test_scores_lie_within_what_pixels_at_the_threshold_leave_open(detector: Any) -> None:
    require_narrow_scores(detector, images())


@pytest.mark.filterwarnings("ignore")
def test_the_graph_says_how_its_masks_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    detector = built(config("SOLOV2Head", mask_thr=0.4))
    info = export_detector(detector, ExportOptions(shape="dynamic", size=(96, 128)), path)
    graph = onnx.load(str(path))
    maps = ImageMaps(enlarged=4, threshold=0.4)
    assert image_maps(info) == maps
    written = {entry.key: entry.value for entry in graph.metadata_props}
    assert ImageMaps.read(written[IMAGE_MAPS_NAME]) == maps
    assert contract_faults(graph, info) == []


def test_other_settings() -> None:
    """A linear decay, no threshold after it, and few places."""
    settings: dict[str, Any] = {"kernel": "linear", "filter_thr": 0.0, "max_per_img": 3}
    detector = built(config("SOLOHead", nms_pre=10, **settings))
    for lowering in LOWERINGS:
        require_eager(detector, images(), lowering)
    detector.mask_head.test_cfg.max_per_img = -1
    require_eager(detector, images(), "onnxruntime")


def test_an_image_in_which_nothing_is_found_has_empty_slots(detector: Any) -> None:
    batch = images()
    layer = detector.mask_head.conv_cls
    before = layer.bias.detach().clone()
    with torch.no_grad():
        layer.bias -= 50.0
        try:
            for lowering in LOWERINGS:
                feeds = torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape)
                dets, labels, masks = lower(detector, lowering)(*feeds)
                assert not dets.any()
                assert (labels == -1).all()
                assert masks.shape[1] == labels.shape[1]
            assert [len(one) for one in Reference(detector).run(batch)] == [0, 0]
        finally:
            layer.bias.copy_(before)


@pytest.mark.parametrize(
    ("head", "change", "message"),
    [
        ("SOLOHead", {"kernel": "box"}, r"model.test_cfg.kernel is 'box'"),
        ("SOLOHead", {"score_thr": -0.1}, r"model.test_cfg.score_thr is -0.1"),
        ("SOLOHead", {"mask_thr": 1.0}, r"model.test_cfg.mask_thr is 1.0"),
        ("SOLOV2Head", {"nms_pre": "all"}, r"model.test_cfg.nms_pre is 'all'"),
    ],
)
def test_settings_that_are_refused(head: str, change: dict[str, Any], message: str) -> None:
    detector = built(config(head))
    detector.mask_head.test_cfg.update(change)
    with pytest.raises(UnsupportedPart, match=message):
        lower(detector)


def test_larger_dynamic_kernels_are_refused_by_name() -> None:
    detector = built(config("SOLOV2Head"))
    detector.mask_head.dynamic_conv_size = 3
    with pytest.raises(UnsupportedPart, match=r"model.mask_head.dynamic_conv_size is 3"):
        lower(detector)
    detector = built(config("SOLOHead"))
    detector.mask_head.cls_down_index = 2
    with pytest.raises(UnsupportedPart, match=r"cls_down_index is 2 of 2 layers"):
        lower(detector)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms_is_mmdets(kernel: str) -> None:
    from mmdet.core import mask_matrix_nms

    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 12, 8, 9, generator=generator) > torch.rand(2, 12, 1, 1)
    labels = torch.randint(0, 2, (2, 12), generator=generator)
    scores = torch.rand(2, 12, generator=generator).sort(dim=1, descending=True).values
    scores[1, 9:] = 0.0  # empty slots
    flat = masks.flatten(2).float()
    ours = matrix_nms(flat, flat.sum(dim=2), labels, scores, kernel, 2.0)
    for image, count in enumerate((12, 9)):
        wanted, *_, order = mask_matrix_nms(
            masks[image, :count], labels[image, :count], scores[image, :count], kernel=kernel
        )
        torch.testing.assert_close(ours[image, order], wanted)
    assert not ours[1, 9:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4), (33, 50)])
def test_coordinates_are_mmdets(size: tuple[int, int]) -> None:
    from mmdet.core.utils import generate_coordinate

    feat = torch.rand(2, 3, *size)
    torch.testing.assert_close(
        coordinates(feat), generate_coordinate(feat.shape, "cpu"), rtol=0, atol=2e-7
    )


def test_masks_are_enlarged_cut_and_resized_as_mmdet_does() -> None:
    """Bit for bit but for pixels within rounding of the threshold."""
    generator = torch.Generator().manual_seed(0)
    for (height, width), inner, size in (
        ((30, 41), (101, 163), (150, 211)),
        ((30, 41), (120, 164), (60, 77)),
        ((48, 30), (190, 111), (300, 171)),
    ):
        maps = functional.avg_pool2d(
            torch.rand(4, height, width, generator=generator), 5, stride=1, padding=2
        )
        enlarged = functional.interpolate(maps[None], scale_factor=4, mode="bilinear")
        cut = enlarged[:, :, : inner[0], : inner[1]]
        wanted = functional.interpolate(cut, size=size, mode="bilinear")[0].numpy()
        frame = ImageMaps(enlarged=4, threshold=0.5).frame(
            (height, width), (4 * height, 4 * width), inner
        )
        ours = frame.paste(maps.numpy(), size)
        near = np.abs(wanted - 0.5) < 1e-6
        assert ours.any()
        assert not ours.all()
        assert ((ours == (wanted > 0.5)) | near).all()
