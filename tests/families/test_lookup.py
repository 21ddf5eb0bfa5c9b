"""Which detectors are taken: by class, where nothing that inference uses is overridden."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_onnxdet.data.batches import collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.classes import NotCalibratedError
from pytest_onnxdet.families.family import Family
from pytest_onnxdet.families.registry import (
    BUILTIN,
    FamilyRegistry,
    UnknownFamily,
    builtin_families,
    clips_boxes,
    own_code,
)
from pytest_onnxdet.models.build import build_detector, load_config, make_detector
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec, Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections

MINIS = builtin_registry()
#: Families and heads of mmdet's that the tests of refusals are about. Whatever is added to the
#: built-in ones, a family or a head, takes nothing from what these refuse.
HEADS = {
    "dense": ("RetinaHead", "FSAFHead", "SSDHead", "FCOSHead"),
    "two_stage": ("StandardRoIHead", "CascadeRoIHead"),
    "point_rend": ("PointRendRoIHead",),
}
TINY = {"model.backbone": {"_delete_": True, "type": "ResNet", "depth": 18, "base_channels": 4}}


def mini(name: str) -> Any:
    return build_detector(MINIS.get(name, "mini"))


def documented(config: str, **overrides: Any) -> Any:
    """The detector of one of mmdet's own configs, which nobody runs."""
    cfg = load_config(ModelSpec("any", config, overrides={**TINY, **overrides}))
    return make_detector(cfg, config).eval()


def few_families() -> FamilyRegistry:
    """The built-in families of ``HEADS``, with those heads alone."""
    builtin = builtin_families()
    return FamilyRegistry(
        replace(builtin.get(name), heads=tuple(f"mmdet.models.{head}" for head in heads))
        for name, heads in HEADS.items()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "config", "head"),
    [
        (
            "retinanet",
            "free_anchor/retinanet_free_anchor_r50_fpn_1x_coco.py",
            "FreeAnchorRetinaHead",
        ),
        ("retinanet", "pisa/pisa_retinanet_r50_fpn_1x_coco.py", "PISARetinaHead"),
        ("ssd", "pisa/pisa_ssd300_coco.py", "PISASSDHead"),
        ("faster_rcnn", "dynamic_rcnn/dynamic_rcnn_r50_fpn_1x_coco.py", "DynamicRoIHead"),
        ("mask_rcnn", "pisa/pisa_mask_rcnn_r50_fpn_1x_coco.py", "PISARoIHead"),
    ],
)
def test_heads_that_only_train_otherwise_are_lowered(name: str, config: str, head: str) -> None:
    """mmdet's own configs, thinned like the mini whose weights they take."""
    base = MINIS.get(name, "mini")
    spec = replace(base, config=config)
    detector: Any = build_detector(spec)
    assert type(getattr(detector, "roi_head", None) or detector.bbox_head).__name__ == head
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    batch = collate([dataset.sample(i) for i in range(2)])
    model = lower(detector)
    with torch.no_grad():
        values = model(torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape))
    outputs = dict(zip(model.outputs, (value.numpy() for value in values), strict=True))
    reference = Reference(detector).run(batch)
    assert all(len(one) for one in reference)
    result = compare_detections(reference, from_outputs(outputs, batch), Tolerance())
    assert result.ok, result.format()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("ghm/retinanet_ghm_r50_fpn_1x_coco.py", "dense"),
        ("libra_rcnn/libra_faster_rcnn_r50_fpn_1x_coco.py", "two_stage"),
    ],
)
def test_other_documented_configs(config: str, name: str) -> None:
    detector = documented(config)
    assert builtin_families().of(detector).name == name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "panoptic_fpn/panoptic_fpn_r50_fpn_1x_coco.py",
            "PanopticFPN with StandardRoIHead has no lowering: PanopticFPN overrides "
            "TwoStageDetector.simple_test",
        ),
        (
            "fast_rcnn/fast_rcnn_r50_fpn_1x_coco.py",
            "FastRCNN has no lowering: it has no proposal network",
        ),
        (
            "sparse_rcnn/sparse_rcnn_r50_fpn_1x_coco.py",
            "rpn_head is EmbeddingRPNHead, which has no lowering; these have one: RPNHead",
        ),
        (
            "double_heads/dh_faster_rcnn_r50_fpn_1x_coco.py",
            "DoubleHeadRoIHead overrides StandardRoIHead._bbox_forward",
        ),
        ("htc/htc_without_semantic_r50_fpn_1x_coco.py", "HybridTaskCascadeRoIHead overrides "),
        ("ms_rcnn/ms_rcnn_r50_fpn_1x_coco.py", "overrides StandardRoIHead.simple_test_mask"),
    ],
)
def test_what_is_refused_is_named(config: str, message: str) -> None:
    detector = documented(config)
    with pytest.raises(UnsupportedPart) as caught:
        lower(detector, families=few_families())
    assert message in str(caught.value)


def test_a_head_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    class OtherHead(nn.Module):
        pass

    detector = mini("retinanet")
    detector.bbox_head = OtherHead()
    with pytest.raises(UnsupportedPart) as caught:
        lower(detector)
    text, _, known = str(caught.value).partition(" has no lowering; these heads have: ")
    assert text == "RetinaNet with OtherHead"
    assert {"RetinaHead", "YOLOV3Head", "StandardRoIHead"} <= {*known.split(", ")}


def test_an_operator_without_a_lowering_is_refused_by_its_path() -> None:
    from mmcv.ops import PSAMask

    detector = documented("retinanet/retinanet_r50_fpn_1x_coco.py")
    detector.backbone.extra = PSAMask("collect", (3, 3))
    with pytest.raises(UnsupportedPart) as caught:
        lower(detector)
    assert "RetinaNet has a PSAMask at backbone.extra: its operator" in str(caught.value)


def test_a_head_of_ones_own_is_judged_by_what_it_overrides() -> None:
    from mmdet.models import RetinaHead

    class OtherLoss(RetinaHead):  # type: ignore[misc]
        def loss(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError

    class OtherBoxes(OtherLoss):
        def get_bboxes(self, *args: Any, **more: Any) -> Any:
            return super().get_bboxes(*args, **more)

    detector = mini("retinanet")
    detector.bbox_head.__class__ = OtherLoss
    assert builtin_families().of(detector).name == "dense"
    detector.bbox_head.__class__ = OtherBoxes
    with pytest.raises(UnsupportedPart) as caught:
        lower(detector)
    assert str(caught.value) == (
        "RetinaNet with OtherBoxes has no lowering: bbox_head is OtherBoxes: OtherBoxes overrides "
        "RetinaHead.get_bboxes, which inference uses and the lowering repeats"
    )


def test_a_class_that_only_has_the_name_is_refused() -> None:
    class RetinaHead(nn.Module):
        pass

    detector = mini("retinanet")
    detector.bbox_head = RetinaHead()
    with pytest.raises(UnsupportedPart, match="RetinaHead, which is another class"):
        lower(detector)


def test_the_detectors_class_counts_as_the_heads_does() -> None:
    from mmdet.models.detectors import RetinaNet

    class Distilled(RetinaNet):  # type: ignore[misc]
        def forward_train(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError

    class Sorted(Distilled):
        def simple_test(self, *args: Any, **more: Any) -> Any:
            return super().simple_test(*args, **more)

    detector = mini("retinanet")
    detector.__class__ = Distilled
    assert builtin_families().of(detector).name == "dense"
    detector.__class__ = Sorted
    with pytest.raises(UnsupportedPart, match=r"Sorted overrides SingleStageDetector\.simple_test"):
        lower(detector)


def test_what_was_put_on_the_object_counts_too() -> None:
    detector = mini("fcos")
    detector.bbox_head.get_bboxes = lambda *_, **__: []
    with pytest.raises(UnsupportedPart, match=r"overrides FCOSHead\.get_bboxes"):
        lower(detector)


@pytest.mark.parametrize(
    ("name", "path", "method", "message"),
    [
        ("retinanet", "bbox_head.bbox_coder", "decode", "box coder Mine .*BBoxCoder.decode"),
        ("retinanet", "bbox_head.prior_generator", "grid_priors", "prior generator Mine "),
        ("yolov3", "bbox_head.bbox_coder", "decode", "bbox_coder is Mine: .*YOLOBBoxCoder.decode"),
        ("cornernet", "bbox_head.br_pool.0", "forward", "br_pool.0 is Mine: .*BiCornerPool.forw"),
        ("faster_rcnn", "rpn_head", "_bbox_post_process", "rpn_head is Mine, .*RPNHead._bbox_p"),
        ("cascade_rcnn", "roi_head.bbox_head.1", "get_bboxes", r"bbox_head.1 is Mine: .*get_bbox"),
        ("mask_rcnn", "roi_head.mask_head", "get_seg_masks", "FCNMaskHead.get_seg_masks"),
        ("mask_rcnn", "roi_head.mask_roi_extractor", "forward", "mask_roi_extractor is Mine"),
        ("point_rend", "roi_head.point_head", "forward", "point_head is Mine: .*MaskPointHead.f"),
    ],
)
def test_each_part_that_is_repeated_is_checked(
    name: str, path: str, method: str, message: str
) -> None:
    detector = mini(name)
    part = detector
    for step in path.split("."):
        part = part[int(step)] if step.isdigit() else getattr(part, step)
    part.__class__ = type("Mine", (type(part),), {method: lambda self, *_, **__: None})
    with pytest.raises(UnsupportedPart, match=message):
        lower(detector)


def test_the_nearest_class_decides_and_a_name_is_taken_once() -> None:
    from mmdet.models import RetinaHead

    class Mine(RetinaHead):  # type: ignore[misc]
        def get_bboxes(self, *args: Any, **more: Any) -> Any:
            return super().get_bboxes(*args, **more)

    registry = builtin_families()
    dense = registry.get("dense")
    mine = replace(dense, name="mine", heads=(Mine,))
    detector = mini("retinanet")
    detector.bbox_head.__class__ = Mine
    with pytest.raises(UnsupportedPart, match=r"RetinaHead\.get_bboxes"):
        registry.of(detector)
    registry.register(mine)
    assert registry.of(detector) is mine
    assert registry.of(mini("fsaf")) is dense
    with pytest.raises(ValueError, match="registered already"):
        registry.register(replace(mine, name="dense"))
    registry.register(replace(mine, name="again"))
    with pytest.raises(ValueError, match="'mine' and 'again' both take Mine"):
        registry.of(detector)
    with pytest.raises(UnknownFamily, match=r"no family 'sparse'; there are: .*dense, .*mine"):
        registry.get("sparse")


def test_one_can_be_put_in_anothers_place() -> None:
    registry = builtin_families()
    fewer = replace(registry.get("dense"), heads=("mmdet.models.FCOSHead",))
    registry.replace(fewer)
    assert registry.of(mini("fcos")) is fewer
    with pytest.raises(UnsupportedPart, match="RetinaNet with RetinaHead has no lowering"):
        registry.of(mini("retinanet"))
    with pytest.raises(ValueError, match="no family 'other' to replace"):
        registry.replace(replace(fewer, name="other"))
    assert registry.names() == builtin_families().names()
    assert len(registry) == len(registry.names())
    with pytest.raises(ValueError, match="registered already"):
        FamilyRegistry([fewer], builtin=True)


def test_a_registry_loads_nothing_heavy_until_it_is_asked() -> None:
    code = (
        "import sys; from pytest_onnxdet import Family; "
        "from pytest_onnxdet.families.registry import builtin_families; "
        "print(*builtin_families().names(), [n for n in ('torch', 'mmdet') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *names, loaded = done.stdout.strip().split(" ", len(BUILTIN))
    assert names == [*BUILTIN] and loaded == "[]"


def test_code_of_ones_own_is_part_of_a_graphs_name() -> None:
    class Mine(type(builtin_families().get("dense"))):  # type: ignore[misc]
        pass

    detector = mini("retinanet")
    dense = builtin_families().get("dense")
    model = lower(detector)
    assert own_code(dense, model) == {}
    files = own_code(Mine("mine", dense.heads), model)
    assert list(files) == [__name__] and "class Mine" in files[__name__]


def test_random_weights_of_a_head_that_nobody_calibrates_are_refused() -> None:
    class Mine(Family):
        def lower(self, *_: Any) -> Any:
            raise NotImplementedError

    mine = Mine("mine", ("mmdet.models.RetinaHead",))
    with pytest.raises(NotCalibratedError, match="family 'mine' does not say how random weights"):
        mine.calibration(mini("retinanet"))


def test_whether_boxes_are_clipped_is_the_registered_familys_to_say() -> None:
    detector = mini("retinanet")
    dense = builtin_families().get("dense")
    assert clips_boxes(detector)
    assert not clips_boxes(detector, FamilyRegistry([replace(dense, clips=False)]))
    assert not builtin_families().get("grid").clips
