"""Every kind of suppression, in both lowerings, against mmcv's own ``batched_nms``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import exported, run
from torch import Tensor, nn

from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.ops.lowering import Lowering, OnnxRuntimeLowering, dets_of
from pytest_onnxdet.families.ops.lowering_tensorrt import TensorRTLowering
from pytest_onnxdet.families.settings import suppression

COUNT, CLASSES = 120, 3
LOWERINGS = [
    pytest.param(kind(fixed), id=f"{kind.name}-{'static' if fixed else 'dynamic'}")
    for kind in (OnnxRuntimeLowering, TensorRTLowering)
    for fixed in (False, True)
]
GREEDY: list[dict[str, Any]] = [
    {},
    {"class_agnostic": True},
    {"class_agnostic": True, "split_thr": 50},
    {"split_thr": 50},
    {"offset": 1},
    {"max_num": 7},
    {"score_threshold": 0.4},
]
SOFT: list[dict[str, Any]] = [
    {"type": "soft_nms", "method": method, "min_score": 0.2, **more}
    for method, more in (
        ("naive", {}),
        ("linear", {}),
        ("linear", {"class_agnostic": True}),
        ("linear", {"offset": 1}),
        ("gaussian", {"sigma": 0.3}),
        ("gaussian", {"class_agnostic": True, "split_thr": 50}),
    )
]
KINDS = [{"iou_threshold": 0.5, **options} for options in (*GREEDY, *SOFT)]


def sample() -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of an image with many candidates and of one with three."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(2, COUNT, 2, generator=generator) * 100
    size = torch.rand(2, COUNT, 2, generator=generator) * 60 + 5
    scores = torch.rand(2, COUNT, generator=generator)
    scores[1, 3:] = 0.0
    labels = torch.randint(0, CLASSES, (2, COUNT), generator=generator)
    return torch.cat([corner, corner + size], dim=2), scores, labels


def expected(nms: dict[str, Any], place: int, limit: int, sliced: bool) -> tuple[Any, Any, Any]:
    """What mmcv and then the head keep of an image: dets, columns, labels."""
    from mmcv.ops import batched_nms

    boxes, scores, labels = (values[place] for values in sample())
    some = torch.nonzero(scores > 0)[:, 0]
    dets, keep = batched_nms(boxes[some], scores[some], labels[some], dict(nms))
    end = limit if sliced or limit > 0 else None
    keep = some[keep[:end]]
    return dets[:end].numpy(), keep.numpy(), labels[keep].numpy()


def held(results: Any, nms: dict[str, Any], limit: int, sliced: bool) -> None:
    """Scores, labels and columns (N, K) are those of mmcv."""
    score, labels, columns = (torch.as_tensor(value) for value in results)
    dets = dets_of(sample()[0], score, columns)
    for place in range(2):
        wanted, keep, classes = expected(nms, place, limit, sliced)
        used = score[place] > 0
        np.testing.assert_array_equal(columns[place, used].numpy(), keep)
        np.testing.assert_array_equal(labels[place, used].numpy(), classes)
        np.testing.assert_allclose(dets[place, used].numpy(), wanted, atol=1e-5)
        assert (labels[place, ~used] == -1).all()


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("nms", KINDS, ids=str)
def test_pairs_are_kept_as_mmcv_keeps_them(nms: dict[str, Any], lowering: Lowering) -> None:
    boxes, scores, labels = sample()
    for limit, sliced in ((5, False), (-1, False), (-1, True), (0, True)):
        asked = suppression({"nms": nms}, sliced=sliced)
        results = lowering.nms_pairs(boxes, scores, labels, CLASSES, asked, limit)
        held(results, nms, limit, sliced)


@pytest.mark.parametrize("lowering", LOWERINGS[::2])
@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("nms", [KINDS[0], KINDS[1], KINDS[8], KINDS[-1]], ids=str)
def test_boxes_with_scores_of_all_classes(
    nms: dict[str, Any], by_class: bool, lowering: Lowering
) -> None:
    boxes, scores, labels = sample()
    of_class = labels[:, None] == torch.arange(CLASSES)[None, :, None]
    spread = torch.where(of_class, scores[:, None], 0.0)
    given = boxes[:, None].expand(2, CLASSES, COUNT, 4) if by_class else boxes
    score, result, columns = lowering.nms(given, spread, suppression({"nms": nms}), 40)
    held((score, result, columns % COUNT), nms, 40, sliced=False)


class Suppressed(nn.Module):
    def __init__(self, lowering: Lowering, nms: dict[str, Any], limit: int) -> None:
        super().__init__()
        self.lowering, self.asked = lowering, suppression({"nms": nms}, sliced=True)
        self.limit = limit

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return self.lowering.nms_pairs(boxes, scores, labels, CLASSES, self.asked, self.limit)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [OnnxRuntimeLowering, TensorRTLowering])
@pytest.mark.parametrize("limit", [20, -1])
@pytest.mark.parametrize("nms", [KINDS[2], KINDS[8], KINDS[-1]], ids=str)
def test_in_onnx_runtime(nms: dict[str, Any], limit: int, kind: Any, tmp_path: Path) -> None:
    boxes, scores, labels = sample()
    free = {i: {0: "n", 1: "p"} for i in range(3)}
    example = (boxes[:1, :30], scores[:1, :30], labels[:1, :30])
    session = exported(Suppressed(kind(), nms, limit), example, tmp_path, free)
    held(run(session, boxes, scores, labels), nms, limit, sliced=True)
    for none in run(session, boxes[:, :7], torch.zeros(2, 7), labels[:, :7])[:1]:
        assert not none.any()


def test_a_cap_for_each_class_is_refused_where_classes_meet() -> None:
    boxes, scores, labels = sample()
    asked = suppression({"nms": KINDS[1]})
    with pytest.raises(UnsupportedPart, match="max_output_boxes_per_class"):
        OnnxRuntimeLowering().nms_pairs(boxes, scores, labels, CLASSES, asked, 10, 5)


@pytest.mark.parametrize(
    "nms",
    [
        {"type": "nms_match", "iou_threshold": 0.5},
        {"type": "nms"},
        {"iou_threshold": 0.5, "offset": 2},
        {"type": "soft_nms", "method": "square"},
        {"type": "soft_nms", "max_num": 5},
        {"iou_threshold": 0.5, "sigma": 1.0},
    ],
    ids=str,
)
def test_what_mmcv_does_not_take_is_refused(nms: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedPart, match=r"^model\.test_cfg\.nms is "):
        suppression({"nms": nms})
