"""Pooling of regions and suppression, in both lowerings, against mmdet's and mmcv's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from pytest_onnxdet.core.limits import MAX_TOPK
from pytest_onnxdet.data.batches import collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.families.ops.boxes import UnsupportedPart
from pytest_onnxdet.families.ops.lowering import Lowering, OnnxRuntimeLowering, dets_of
from pytest_onnxdet.families.ops.lowering_tensorrt import TensorRTLowering
from pytest_onnxdet.families.ops.rois import flatten_rois, roi_levels
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry

LOWERINGS = [
    pytest.param(kind(fixed), id=f"{kind.name}-{'static' if fixed else 'dynamic'}")
    for kind in (OnnxRuntimeLowering, TensorRTLowering)
    for fixed in (False, True)
]


def extractor(sampling_ratio: int = 0) -> Any:
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": sampling_ratio}
    return SingleRoIExtractor(layer, out_channels=3, featmap_strides=[4, 8, 16, 32])


def maps(height: int = 96, width: int = 128) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(height // s, width // s) for s in (4, 8, 16, 32)]
    return tuple(torch.rand(2, 3, *size, generator=generator) for size in sizes)


# Of every level; thinner than a cell, on the border, as large as the image; none. mmdet clips boxes
# to the image before it pools, and the tensorrt lowering lays out samples for no larger ones.
BOXES = torch.tensor(
    [
        [[3.0, 4.0, 40.0, 30.0], [10.2, 9.7, 10.6, 11.1], [0.0, 0.0, 128.0, 96.0]],
        [[100.0, 80.0, 128.0, 96.0], [-0.0, 20.0, 128.0, 96.0], [0.0, 0.0, 0.0, 0.0]],
    ]
)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_regions_are_pooled_as_mmdet_pools_them(lowering: Lowering, sampling_ratio: int) -> None:
    rows, image = flatten_rois(BOXES)
    pool, features = extractor(sampling_ratio), maps()
    rois = torch.cat([image[:, None].to(rows.dtype), rows], dim=1)
    expected = pool(features, rois)
    result, back = lowering.pool_rois(pool, features, rows, image)
    result = result if back is None else result[back]
    assert expected.abs().sum() > 0
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_levels_change_where_mmdets_do() -> None:
    pool = extractor()
    sides = torch.tensor([1.0, 111.999, 112.0, 112.001, 223.999, 224.0, 448.0, 5000.0, 0.0])
    boxes = torch.cat([torch.zeros(len(sides), 2), sides[:, None].repeat(1, 2)], dim=1)
    rois = torch.cat([torch.zeros(len(sides), 1), boxes], dim=1)
    expected = pool.map_roi_levels(rois, 4)
    assert set(expected.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(roi_levels(boxes, pool.finest_scale, 4), expected)


@pytest.fixture(scope="module")
def faster_rcnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The dynamic graph of the mini Faster R-CNN, and two images as its inputs."""
    spec = builtin_registry().get("faster_rcnn", "mini")
    path = tmp_path_factory.mktemp("graph") / "faster_rcnn.onnx"
    export_detector(build_detector(spec), ExportOptions(batch=3, size=(192, 192)), path)
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    batch = collate([dataset.sample(0), dataset.sample(1)])
    return onnx.load(path), {"input": batch.images, "image_shape": batch.image_shape}


def watched(graph: onnx.ModelProto, kind: str, place: int, feeds: dict[str, Any]) -> list[Any]:
    """The values of one input of every node of a kind, as the graph runs."""
    names = [node.input[place] for node in graph.graph.node if node.op_type == kind]
    seen = onnx.ModelProto()
    seen.CopyFrom(graph)
    known = {value.name for value in seen.graph.output}
    seen.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    session = ort.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, feeds)


def test_each_region_is_pooled_once(faster_rcnn: Any) -> None:
    graph, feeds = faster_rcnn
    rois = watched(graph, "RoiAlign", 1, feeds)
    assert len(rois) == 4  # one a level
    (logits,) = watched(graph, "Softmax", 0, feeds)  # class logits (N, K, C + 1) of all regions
    assert sum(map(len, rois)) == logits.shape[0] * logits.shape[1] > 100
    assert sum(len(one) > 0 for one in rois) > 1


def test_no_box_is_repeated_for_a_class_before_suppression(faster_rcnn: Any) -> None:
    """Proposals share their boxes; of regions each class has its own, which its layer predicts."""
    graph, feeds = faster_rcnn
    boxes = watched(graph, "NonMaxSuppression", 0, feeds)
    scores = watched(graph, "NonMaxSuppression", 1, feeds)
    assert len(boxes) == 2
    for at, of in zip(boxes, scores, strict=True):
        assert at.shape[0] == of.shape[0] and at.shape[1] == of.shape[2]
    regions = boxes[1].shape[0] * boxes[1].shape[1]
    (logits,) = watched(graph, "Softmax", 0, feeds)
    # Only those above the threshold are left.
    assert regions < logits.shape[0] * logits.shape[1] * 3
    best = [value.shape for value in watched(graph, "TopK", 0, feeds)]
    assert all(shape[-1] != logits.shape[1] * 3 for shape in best)  # never of boxes x classes


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("limit", [5, 60])
def test_suppression_is_mmcvs(lowering: Lowering, limit: int) -> None:
    from mmcv.ops import batched_nms

    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 200, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + torch.rand(2, 200, 2, generator=generator) * 60 + 5], 2)
    scores = torch.rand(2, 200, generator=generator)
    labels = torch.randint(0, 3, (2, 200), generator=generator)
    scores[1, 3:] = 0.0  # an image with three candidates beside one with 200
    score, result, columns = lowering.nms_pairs(boxes, scores, labels, 3, 0.5, limit)
    dets = dets_of(boxes, score, columns)
    for i in range(2):
        some = torch.nonzero(scores[i] > 0)[:, 0]
        expected, keep = batched_nms(
            boxes[i, some], scores[i, some], labels[i, some], {"iou_threshold": 0.5}
        )
        keep, used = some[keep[:limit]], dets[i, :, 4] > 0
        assert columns[i][used].tolist() == keep.tolist()
        assert result[i][used].tolist() == labels[i, keep].tolist()
        torch.testing.assert_close(dets[i][used], expected[:limit])
        assert not dets[i][~used].any() and (result[i][~used] == -1).all()


def test_a_topk_that_tensorrt_does_not_build_is_refused_by_its_key() -> None:
    scores = torch.rand(1, MAX_TOPK + 1)
    lowering = TensorRTLowering()
    assert lowering.top(scores, MAX_TOPK, 0.0)[0].shape == (1, MAX_TOPK)
    with pytest.raises(UnsupportedPart, match=r"3840 entries and 3841 .* lower nms_pre in"):
        lowering.top(scores, MAX_TOPK + 1, 0.0)
    boxes, labels = torch.rand(1, 5, 4), torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(UnsupportedPart, match="lower max_per_img in"):
        lowering.nms_pairs(boxes, torch.rand(1, 5), labels, 1, 0.5, MAX_TOPK + 1)
    assert OnnxRuntimeLowering().bounded(MAX_TOPK + 1, "corner_topk") == MAX_TOPK + 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "key", "name"),
    [
        ("cornernet", "bbox_head.test_cfg.corner_topk", "corner_topk"),
        ("point_rend", "roi_head.test_cfg.subdivision_num_points", "rcnn.subdivision_num_points"),
        ("faster_rcnn", "rpn_head.test_cfg.nms_pre", "nms_pre"),
    ],
)
def test_every_family_refuses_it(model: str, key: str, name: str, tmp_path: Path) -> None:
    from pytest_onnxdet.export.options import ExportError

    detector: Any = build_detector(builtin_registry().get(model, "mini"))
    head, _, rest = key.partition(".test_cfg.")
    getattr(detector, head).test_cfg[rest] = 4000
    options = ExportOptions(shape="static", batch=1, size=(192, 192), lowering="tensorrt")
    with pytest.raises(ExportError, match=f"lower {name} in the config's test_cfg"):
        export_detector(detector, options, tmp_path / "refused.onnx")


def test_parts_without_a_lowering_are_refused() -> None:
    from pytest_onnxdet.families import lower

    detector: Any = build_detector(builtin_registry().get("faster_rcnn", "mini"))
    detector.roi_head.shared_head = torch.nn.Identity()
    with pytest.raises(UnsupportedPart, match="shared_head"):
        lower(detector)


def test_a_proposal_whose_score_underflows_is_one_all_the_same() -> None:
    """mmdet keeps it, and the second stage may find something in it."""
    from pytest_onnxdet.families import lower

    detector: Any = build_detector(builtin_registry().get("faster_rcnn", "mini"))
    torch.nn.init.constant_(detector.rpn_head.rpn_cls.weight, 0.0)
    torch.nn.init.constant_(detector.rpn_head.rpn_cls.bias, -200.0)
    images, shape = torch.rand(1, 3, 160, 160), torch.tensor([[160, 160]])
    with torch.no_grad():
        features = detector.extract_feat(images)
        metas = [{"img_shape": (160, 160, 3), "pad_shape": (160, 160, 3), "scale_factor": 1.0}]
        (expected,) = detector.rpn_head.simple_test_rpn(features, metas)
        result = lower(detector).raw(images, shape)["proposals"][0]
    assert not expected[:, 4].any() and len(expected) > 100
    assert (result[:, 4] > 0).sum() == len(expected)
