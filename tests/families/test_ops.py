"""The shared operators against PyTorch's and mmcv's own, eager and through ONNX Runtime."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import OPSET, exported, run
from torch import Tensor, nn

from pytest_onnxdet.families.ops.boxes import clip, take_rows, with_group_offsets
from pytest_onnxdet.families.ops.corners import corner_pool, soft_nms
from pytest_onnxdet.families.ops.custom import translations
from pytest_onnxdet.families.ops.lowering import (
    Lowering,
    OnnxRuntimeLowering,
    class_scores,
    dets_of,
    sigmoid,
)
from pytest_onnxdet.families.ops.lowering_tensorrt import TensorRTLowering


class Pool(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return corner_pool(x * 1.0, self.mode)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["top", "bottom", "left", "right"])
def test_corner_pool_is_mmcvs_at_any_size(mode: str, tmp_path: Path) -> None:
    from mmcv.ops import CornerPool

    session = exported(
        Pool(mode), (torch.rand(1, 2, 4, 4),), tmp_path, {0: {0: "n", 2: "h", 3: "w"}}
    )
    for shape in [(2, 3, 5, 6), (1, 2, 37, 64), (1, 1, 1, 1)]:
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        expected = CornerPool(mode)(x)
        axis = 2 if mode in ("top", "bottom") else 3
        assert torch.equal(corner_pool(x, mode), expected)
        assert torch.equal(corner_pool(x, mode, size=shape[axis]), expected)
        if shape[1] == 2:
            assert np.array_equal(run(session, x)[0], expected.numpy())


def random_boxes(n: int, p: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (n, p, 4), scores (n, p), labels (n, p) of 3 classes, with many overlaps."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, p, 2, generator=generator) * 60
    size = torch.rand(n, p, 2, generator=generator) * 40 + 1
    scores = torch.rand(n, p, generator=generator)
    labels = torch.randint(0, 3, (n, p), generator=generator)
    return torch.cat([corner, corner + size], dim=2), scores, labels


class SoftNms(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return soft_nms(boxes, scores, labels, 0.5, 1e-3, 20)


@pytest.mark.filterwarnings("ignore")
def test_soft_nms_is_mmcvs(tmp_path: Path) -> None:
    from mmcv.ops import batched_nms

    boxes, scores, labels = random_boxes(2, 60)
    free = {i: {0: "n", 1: "p"} for i in range(3)}
    session = exported(SoftNms(), random_boxes(1, 5), tmp_path, free)
    best, index = run(session, boxes, scores, labels)
    for i in range(2):
        cfg = {"type": "soft_nms", "method": "gaussian", "sigma": 0.5, "min_score": 1e-3}
        dets, keep = batched_nms(boxes[i], scores[i], labels[i], cfg)
        np.testing.assert_array_equal(index[i], keep[:20].numpy())
        np.testing.assert_allclose(best[i], dets[:20, 4].numpy(), atol=1e-6)


def test_boxes_moved_by_group_round_as_mmcvs_do() -> None:
    """Of a late class PyTorch compares overlaps of boxes rounded to 1/128 px."""
    from mmcv.ops import batched_nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 3000, 2, generator=generator) * 200
    size = torch.rand(2, 3000, 2, generator=generator) * 40 + 8
    boxes = torch.cat([corner, corner + size], dim=2)
    boxes[:, 0] = torch.tensor([1000.0, 500.0, 1333.0, 800.0])
    scores = torch.rand(2, 3000, generator=generator)
    scores[1, 0] = 0.0  # what does not take part does not set the step
    labels = torch.full((2, 3000), 79)
    near = with_group_offsets(boxes, labels, scores > 0)
    lowering = OnnxRuntimeLowering()

    def kept_sets(moved: Tensor) -> list[set[int]]:
        score, _, columns = lowering.nms_pairs(moved, scores, labels, 80, 0.5, 3000)
        return [set(columns[i][score[i] > 0].tolist()) for i in range(2)]

    expected = []
    for i in range(2):
        some = torch.nonzero(scores[i] > 0)[:, 0]
        _, keep = batched_nms(
            boxes[i, some], scores[i, some], labels[i, some], {"iou_threshold": 0.5}
        )
        expected.append(set(some[keep].tolist()))
    assert kept_sets(near) == expected
    assert kept_sets(boxes) != expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shape", "affine"), [((2, 16, 156, 160), True), ((3, 8, 50), False)])
def test_group_norm_is_as_exact_as_pytorchs(
    shape: tuple[int, ...], affine: bool, tmp_path: Path
) -> None:
    """Of a full-size map the default translation is off by 20 times as much."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.GroupNorm(4, shape[1], affine=affine)
    if affine:
        nn.init.normal_(layer.weight, 1.0, 0.3, generator=generator)
        nn.init.normal_(layer.bias, 0.0, 0.3, generator=generator)
    x = torch.randn(*shape, generator=generator)
    x = 0.3 + x * torch.randn(*shape[:-1], 1, generator=generator).exp()
    free = {0: {axis: f"d{axis}" for axis in range(len(shape)) if axis != 1}}
    (result,) = run(exported(layer, (x[:1, ..., 1:],), tmp_path, free), x)
    with torch.no_grad():
        own = layer(x)
        exact = copy.deepcopy(layer).double()(x.double())
    error = np.abs(result - exact.numpy()).max()
    assert error < 5 * float((own - exact).abs().max())


def test_pytorchs_own_translations_are_left_as_they_were() -> None:
    from torch.onnx._internal.torchscript_exporter.registration import registry

    def known() -> object:
        return registry.get_function_group("aten::group_norm").get(OPSET)

    before = known()
    with translations(OPSET):
        assert known() is not before
    assert known() is before


class Nms(nn.Module):
    def __init__(self, limit: int, min_slots: int = 0) -> None:
        super().__init__()
        self.limit, self.min_slots = limit, min_slots

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        spread = class_scores(scores, labels, 3)
        score, classes, columns = OnnxRuntimeLowering().nms(
            boxes, spread, 0.5, self.limit, min_slots=self.min_slots
        )
        return dets_of(boxes, score, columns), classes, columns


@pytest.mark.parametrize("lowering", [OnnxRuntimeLowering(), TensorRTLowering()])
def test_columns_of_boxes_by_class_count_classes_and_boxes(lowering: Lowering) -> None:
    boxes, scores, _ = random_boxes(2, 30)
    many = torch.stack([boxes, boxes + 200, boxes + 400], dim=1)
    spread = torch.stack([scores, scores.flip(1), scores * 0], dim=1)
    score, classes, columns = lowering.nms(many, spread, 0.5, 40)
    dets = dets_of(many, score, columns)
    used = score > 0
    assert set(classes[used].tolist()) == {0, 1}
    assert torch.equal(classes[used], columns[used] // 30)
    assert ((dets[..., 0][used] >= 200) == (classes[used] == 1)).all()
    for i, k in used.nonzero().tolist():
        at = int(columns[i, k])
        assert torch.equal(dets[i, k, :4], many[i, at // 30, at % 30])
        assert dets[i, k, 4] == spread[i, at // 30, at % 30]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [5, 100])
@pytest.mark.parametrize("per_class_boxes", [False, True])
def test_nms_keeps_what_mmcv_keeps(limit: int, per_class_boxes: bool, tmp_path: Path) -> None:
    from mmcv.ops import batched_nms

    class PerClass(Nms):
        def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            spread = class_scores(scores, labels, 3)
            many = boxes[:, None].expand(-1, 3, -1, -1) * 1.0
            score, classes, columns = OnnxRuntimeLowering().nms(many, spread, 0.5, self.limit)
            return dets_of(many, score, columns), classes, columns

    boxes, scores, labels = random_boxes(2, 80)
    scores[1, 40:] = 0  # the second image has fewer candidates
    free = {i: {0: "n", 1: "p"} for i in range(3)}
    module = PerClass(limit) if per_class_boxes else Nms(limit)
    session = exported(module, random_boxes(3, 7, seed=1), tmp_path, free)
    for result in (module(boxes, scores, labels), run(session, boxes, scores, labels)):
        dets, classes, _ = (torch.as_tensor(value) for value in result)
        for i in range(2):
            some = scores[i] > 0
            expected, keep = batched_nms(
                boxes[i, some], scores[i, some], labels[i, some], {"iou_threshold": 0.5}
            )
            used = int((classes[i] >= 0).sum())
            assert used == min(limit, len(expected))
            torch.testing.assert_close(dets[i, :used], expected[:used])
            assert torch.equal(classes[i, :used], labels[i, some][keep][:used])
            assert not dets[i, used:].any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("min_slots", [0, 1])
def test_nms_of_nothing_gives_empty_slots(min_slots: int, tmp_path: Path) -> None:
    free = {i: {0: "n", 1: "p"} for i in range(3)}
    session = exported(Nms(10, min_slots), random_boxes(2, 7), tmp_path, free)
    boxes, scores, labels = random_boxes(2, 9)
    dets, classes, _ = run(session, boxes, scores * 0, labels)
    assert dets.shape == (2, min_slots, 5) and not dets.any()
    assert classes.shape == (2, min_slots) and (classes == -1).all()
    if not min_slots:  # a slot needs a box to point to
        assert run(session, *random_boxes(2, 0))[0].shape == (2, 0, 5)


class Top(nn.Module):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return OnnxRuntimeLowering().top(scores, self.limit, 0.3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [0, 4])
def test_top_takes_what_is_above_the_floor(limit: int, tmp_path: Path) -> None:
    session = exported(Top(limit), (torch.zeros(1, 3),), tmp_path, {0: {0: "n", 1: "p"}})
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.4, 0.8, 0.7], [0.1, 0.2, 0.3, 0.6, 0.0, 0.3]])
    values, index = run(session, scores)
    best = [0.9, 0.8, 0.7, 0.5, 0.4][: limit or None]
    np.testing.assert_allclose(values[0], best)
    np.testing.assert_allclose(values[1], [0.6] + [0.0] * (len(best) - 1))
    assert index[0, 0] == 0 and index[1, 0] == 3
    assert run(session, scores * 0)[0].shape == (2, 0)


def test_take_rows_takes_each_images_own() -> None:
    values = torch.arange(24.0).reshape(2, 4, 3)
    index = torch.tensor([[3, 0], [1, 1]])
    expected = torch.stack([values[0, [3, 0]], values[1, [1, 1]]])
    assert torch.equal(take_rows(values, index), expected)


def test_clip_uses_each_images_own_size() -> None:
    boxes = torch.tensor([[[-5.0, -5.0, 500.0, 500.0]]] * 2)
    clipped = clip(boxes, torch.tensor([[10, 20], [30, 40]]))
    assert clipped[:, 0].tolist() == [[0, 0, 20, 10], [0, 0, 40, 30]]


class Sigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


@pytest.mark.filterwarnings("ignore")
def test_saturated_scores_tie_as_in_pytorch(tmp_path: Path) -> None:
    """Where ONNX Runtime's own Sigmoid orders scores that are equal in PyTorch.

    A trained proposal network gives many such scores to overlapping boxes; suppression then kept
    other boxes than PyTorch, and 46 of 1,220 detections of a Faster R-CNN went missing.
    """
    session = exported(Sigmoid(), (torch.zeros(4),), tmp_path, {0: {0: "n"}})
    logits = torch.linspace(9, 30, 20_000)
    result = torch.from_numpy(run(session, logits)[0])
    expected = logits.sigmoid()
    assert torch.equal(result.diff() == 0, expected.diff() == 0)
    assert torch.equal(result, expected)
    assert torch.allclose(sigmoid(torch.tensor([-200.0, 0.0])), torch.tensor([0.0, 0.5]))


class TopOfLevels(nn.Module):
    """Of two maps, whose sizes the graph reads where they are free."""

    def __init__(self, limit: int, floor: float) -> None:
        super().__init__()
        self.limit, self.floor = limit, floor

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        levels = [first, second]
        sizes = [level.shape[1] for level in levels]
        return OnnxRuntimeLowering().top_of_levels(
            torch.cat(levels, dim=1), sizes, self.limit, self.floor
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [5, 30, 1000])
@pytest.mark.parametrize("floor", [0.0, 0.4])
@pytest.mark.parametrize("free", [True, False])
def test_each_level_keeps_its_own_best(
    limit: int, floor: float, free: bool, tmp_path: Path
) -> None:
    """Where all levels, some, or none hold more above the floor than the limit."""
    generator = torch.Generator().manual_seed(0)
    levels = [torch.rand(2, size, generator=generator) for size in (90, 25)]
    levels[0][1] *= 0.5  # the second image has few above the floor
    levels[0][0, 7] = levels[0][0, 3]  # equal: the first stays
    module = TopOfLevels(limit, floor)
    axes: dict[int, dict[int, str]] = {0: {0: "n", 1: "p"}, 1: {0: "n", 1: "q"}} if free else {}
    example = tuple(torch.rand(3, size) for size in (40, 31)) if free else tuple(levels)
    for result in (module(*levels), run(exported(module, example, tmp_path, axes), *levels)):
        values, columns = (torch.as_tensor(value) for value in result)
        assert values.shape[1] <= 2 * limit  # what follows is not done for more
        for i in range(2):
            expected = {}
            for start, level in zip((0, 90), levels, strict=True):
                order = torch.argsort(-level[i], stable=True)[:limit].tolist()
                best = {start + k: float(level[i, k]) for k in order}
                expected |= {k: value for k, value in best.items() if value > floor}
            used = values[i] > 0
            assert dict(zip(columns[i][used].tolist(), values[i][used].tolist(), strict=True)) == (
                pytest.approx(expected)
            )
            assert int(used.sum()) == len(expected)
