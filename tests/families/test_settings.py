"""test_cfg as mmdet reads it: what is not positive keeps all, or is refused by the key's path."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pytest_onnxdet.core.notes import Note
from pytest_onnxdet.families import UnsupportedPart, lower
from pytest_onnxdet.families.settings import SUCCESSORS, require_settings, suppression
from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.registry import builtin_registry

LOWERINGS = ("onnxruntime", "tensorrt")
TEST = "model.test_cfg."


def changed(model: str, **settings: Any) -> Any:
    """A mini with other settings; ``__`` stands for a dot."""
    spec = builtin_registry().get(model)
    more = {TEST + key.replace("__", "."): value for key, value in settings.items()}
    return build_detector(replace(spec, overrides={**spec.overrides, **more}))


def noise(size: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, size, size, generator=generator), torch.tensor([[size, size]])


def found(detector: Any, lowering: str) -> torch.Tensor:
    """Detections (M, 6) of noise: corners, score, label."""
    with torch.no_grad():
        dets, labels = lower(detector, lowering)(*noise())[:2]
    used = labels[0] >= 0
    return torch.cat([dets[0, used], labels[0, used, None].to(dets.dtype)], dim=1)


def in_mmdet(detector: Any) -> torch.Tensor:
    """The same of mmdet's own detector, class by class."""
    image, shape = noise()
    height, width = shape[0].tolist()
    meta = {
        "img_shape": (height, width, 3),
        "ori_shape": (height, width, 3),
        "scale_factor": np.ones(4, np.float32),
        "pad_shape": (height, width, 3),
        "batch_input_shape": (height, width),
        "flip": False,
    }
    with torch.no_grad():
        result = detector(img=[image], img_metas=[[meta]], return_loss=False, rescale=True)[0]
    boxes = result[0] if isinstance(result, tuple) else result
    return torch.cat(
        [
            torch.cat([torch.as_tensor(b), torch.full((len(b), 1), float(label))], dim=1)
            for label, b in enumerate(boxes)
        ]
    )


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn", "yolov3"])
def test_max_per_img_that_keeps_all(model: str, value: int, lowering: str) -> None:
    """`multiclass_nms` cuts where its number is positive, and only there."""
    low: dict[str, Any] = {"score_thr": 0.001}
    if model == "yolov3":
        low["conf_thr"] = 0.001
        detector = changed(model, max_per_img=value, **low)
    else:
        detector = changed(model, rcnn__max_per_img=value, rcnn__score_thr=0.001)
    wanted, ours = in_mmdet(detector), found(detector, lowering)
    assert len(wanted) > 100  # the mini's own cut is 100
    assert len(ours) == len(wanted)
    order, own = wanted[:, 4].argsort(descending=True), ours[:, 4].argsort(descending=True)
    torch.testing.assert_close(ours[own, 4], wanted[order, 4], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, :4].sum(0), wanted[:, :4].sum(0), atol=1.0, rtol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("cornernet", "max_per_img"),
        ("detr", "max_per_img"),
    ],
)
def test_cuts_that_mmdet_takes_as_they_are_are_refused_by_name(
    model: str, key: str, value: int, lowering: str
) -> None:
    detector = changed(model, **{key.replace(".", "__"): value})
    with pytest.raises(UnsupportedPart, match=f"^model.test_cfg.{key} is {value}: ") as caught:
        lower(detector, lowering)
    assert "from 1" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "key"), [("retinanet", "max_per_img"), ("yolov3", "max_per_img")]
)
def test_a_cut_is_a_whole_number(model: str, key: str) -> None:
    for value in (2.5, True, "all"):
        with pytest.raises(UnsupportedPart, match=f"{key} is {value!r}: give a whole number"):
            lower(changed(model, **{key: value}))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("cornernet", "corner_topk", 10**6),
        ("cornernet", "corner_topk", 0),
        ("cornernet", "corner_topk", 31),
        ("cornernet", "corner_topk", 2.5),
        ("cornernet", "local_maximum_kernel", 2),
        ("cornernet", "local_maximum_kernel", 0),
        ("point_rend", "rcnn.subdivision_num_points", 0),
        ("point_rend", "rcnn.subdivision_steps", -1),
        ("point_rend", "rcnn.scale_factor", 0),
    ],
)
def test_a_count_that_does_not_trace_is_refused_by_its_path(
    model: str, key: str, value: float, lowering: str
) -> None:
    detector = changed(model, **{key.replace(".", "__"): value})
    with pytest.raises(UnsupportedPart, match=f"^model.test_cfg.{key} is {value}.*: give a"):
        lower(detector, lowering)


@pytest.mark.parametrize("count", [31, 32])
def test_so_many_corners_mmdet_needs(count: int) -> None:
    """It takes the best 1,000 of all pairs."""
    detector = changed("cornernet", corner_topk=count)
    if count < 32:
        with pytest.raises(RuntimeError, match="k out of range"):
            in_mmdet(detector)
    else:
        assert len(found(detector, "onnxruntime")) and len(in_mmdet(detector))


def test_more_than_detr_has_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedPart, match=r"test_cfg\.max_per_img is 5000 and the head has"):
        lower(changed("detr", max_per_img=5000))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("value", [0, -1, -3])
@pytest.mark.parametrize(
    ("model", "key"),
    [("retinanet", "max_per_img"), ("faster_rcnn", "rpn.max_per_img"), ("fcos", "nms_pre")],
)
def test_a_head_that_slices_with_its_cut_leaves_out_the_last(
    model: str, key: str, value: int, lowering: str
) -> None:
    low = {"rcnn__score_thr" if model == "faster_rcnn" else "score_thr": 0.001}
    detector = changed(model, **{key.replace(".", "__"): value}, **low)
    with pytest.warns(Note, match=rf"model\.test_cfg\.{key} is {value}: mmdet slices \[:{value}\]"):
        ours = found(detector, lowering)
    wanted = in_mmdet(detector)
    assert (len(wanted) == 0) == (value == 0)
    wanted = wanted[wanted[:, 4].argsort(descending=True)]
    torch.testing.assert_close(ours[:, 4], wanted[:, 4], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, :4].sum(0), wanted[:, :4].sum(0), atol=1.0, rtol=1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("model", "key", "nms"),
    [
        ("faster_rcnn", "rcnn__nms", {"type": "soft_nms", "iou_threshold": 0.5}),
        ("faster_rcnn", "rpn__nms", {"type": "soft_nms", "method": "gaussian"}),
        ("yolov3", "nms", {"type": "soft_nms", "iou_threshold": 0.4, "min_score": 0.01}),
        ("fcos", "nms", {"type": "nms", "iou_threshold": 0.5, "class_agnostic": True}),
    ],
)
def test_other_suppressions_in_whole_detectors(
    model: str, key: str, nms: dict[str, Any], lowering: str
) -> None:
    low = {"rcnn__score_thr" if model == "faster_rcnn" else "score_thr": 0.02}
    detector = changed(model, **low)
    head = detector.rpn_head if key.startswith("rpn") else None
    head = head or (detector.roi_head if model == "faster_rcnn" else detector.bbox_head)
    head.test_cfg["nms"] = nms
    ours, wanted = found(detector, lowering), in_mmdet(detector)
    assert len(wanted) > 2
    wanted = wanted[wanted[:, 4].argsort(descending=True)]
    torch.testing.assert_close(ours[:, 4], wanted[:, 4], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, :4].sum(0), wanted[:, :4].sum(0), atol=1.0, rtol=1e-4)


def test_a_missing_nms_pre_leaves_out_the_last_of_each_level() -> None:
    detector = changed("retinanet")
    del detector.bbox_head.test_cfg["nms_pre"]
    with pytest.warns(Note, match="nms_pre is missing, for which mmdet takes -1: .* last one of"):
        lower(detector)


@pytest.mark.parametrize(
    ("model", "head", "path"),
    [
        ("faster_rcnn", "rpn_head", "rpn"),
        ("faster_rcnn", "roi_head", "rcnn"),
        ("retinanet", "bbox_head", ""),
        ("yolov3", "bbox_head", ""),
    ],
)
def test_another_suppression_is_refused_with_the_keys_full_path(
    model: str, head: str, path: str
) -> None:
    detector = changed(model)
    getattr(detector, head).test_cfg["nms"] = {"type": "other_nms", "iou_threshold": 0.5}
    place = ".".join(filter(None, ("model.test_cfg", path, "nms")))
    with pytest.raises(UnsupportedPart, match=f"^{place} is {{'type': 'other_nms'"):
        lower(detector)


@pytest.mark.parametrize("old", ["nms_thr", "max_num", "nms_post"])
def test_keys_of_an_older_mmdet_are_named_with_their_successor(old: str) -> None:
    detector = changed("faster_rcnn")
    cfg = detector.rpn_head.test_cfg
    del cfg["nms" if old == "nms_thr" else "max_per_img"]
    cfg[old] = 0.7
    with pytest.raises(UnsupportedPart) as caught:
        lower(detector)
    text = str(caught.value)
    assert f"model.test_cfg.rpn.{old} is a key of an older mmdet" in text
    assert SUCCESSORS[old] in text and f"{old}=0.7" in text


def test_old_keys_beside_their_successors_are_told() -> None:
    detector = changed("faster_rcnn")
    detector.rpn_head.test_cfg["nms_post"] = 7
    said = r"model\.test_cfg\.rpn\.nms_post is a key of an older mmdet.*counts"
    with pytest.warns(Note, match=said):
        lower(detector)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UnsupportedPart, match=r"^a\.b is missing or empty: mmdet reads nms, x"):
        require_settings(None, "a.b", ("nms", "x"))
    with pytest.raises(UnsupportedPart, match=r"^a\.b\.x is missing"):
        require_settings({"nms": 1}, "a.b", ("nms", "x"))
    with pytest.raises(UnsupportedPart, match=r"model\.test_cfg\.nms is 0\.5: write dict"):
        suppression({"nms": 0.5})


@pytest.mark.parametrize("value", ["x", None, 1.5, -0.1, True])
def test_an_overlap_is_a_share(value: Any) -> None:
    detector = changed("retinanet")
    detector.bbox_head.test_cfg["nms"] = {"type": "nms", "iou_threshold": value}
    with pytest.raises(UnsupportedPart, match=r"^model\.test_cfg\.nms.*iou_threshold"):
        lower(detector)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        ("retinanet", "nms.max_num", "a", "give a whole number"),
        ("retinanet", "nms.score_threshold", "a", "give a number"),
        ("retinanet", "nms.class_agnostic", "maybe", "give True or False"),
        ("faster_rcnn", "rcnn.nms.split_thr", 2.5, "give a whole number"),
        ("yolov3", "nms.score_threshold", float("nan"), "give a number"),
        ("faster_rcnn", "rpn.min_bbox_size", "a", "give a number"),
        ("faster_rcnn", "rpn.min_bbox_size", float("nan"), "give a number"),
        ("retinanet", "nms_pre", 10**20, "give a whole number up to 2147483647"),
        ("faster_rcnn", "rpn.nms_pre", 10**20, "give a whole number up to 2147483647"),
        ("fcos", "max_per_img", 10**20, "give a whole number up to 2147483647"),
    ],
)
def test_what_is_no_number_of_that_kind_is_refused_by_its_path(
    model: str, key: str, value: Any, said: str, lowering: str
) -> None:
    detector = changed(model, **{key.replace(".", "__"): value})
    with pytest.raises(UnsupportedPart, match=rf"^model\.test_cfg\.{re.escape(key)} is .*: {said}"):
        lower(detector, lowering)


@pytest.mark.parametrize("value", ["x", None, True, [0.1]])
def test_a_threshold_is_a_number(value: Any) -> None:
    with pytest.raises(UnsupportedPart, match=r"^model\.test_cfg\.score_thr is .*: give a number"):
        lower(changed("retinanet", score_thr=value))


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("retinanet", "score_thr", 1.5),
        ("retinanet", "score_thr", 1),
        ("retinanet", "score_thr", float("nan")),
        ("faster_rcnn", "rcnn.score_thr", 50),
        ("yolov3", "conf_thr", 1.5),
        ("yolov3", "score_thr", 1.0),
    ],
)
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_threshold_that_no_score_reaches(
    model: str, key: str, value: float, lowering: str
) -> None:
    detector = changed(model, **{key.replace(".", "__"): value})
    said = re.escape(f"model.test_cfg.{key} is {value!r}, which no score reaches")
    with pytest.raises(UnsupportedPart, match=f"^{said}"):
        lower(detector, lowering)
