"""mmdet's own post-processing, with either order of equal scores."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.families.family import Family
from pytest_onnxdet.families.registry import FamilyRegistry
from pytest_onnxdet.reference.detector import PyTorchFails, Reference


class TopTwo(nn.Module):
    """A head that keeps the two best cells; the cell's index is its box's place."""

    num_classes = 1

    def get_bboxes(
        self, cls_scores: list[Tensor], img_metas: list[Any], rescale: bool
    ) -> list[tuple[Tensor, Tensor]]:
        score, cell = cls_scores[0].flatten(1).topk(2)
        box = cell[..., None].expand(-1, -1, 4).float()
        return [
            (torch.cat([b, s[:, None]], 1), torch.zeros(2, dtype=torch.int64))
            for b, s in zip(box, score, strict=True)
        ]


class Detector(nn.Module):
    """One that is not run, and no mmdet detector."""

    def __init__(self) -> None:
        super().__init__()
        self.bbox_head = TopTwo()

    forward_test = simple_test = extract_feat = None


class TopTwoFamily(Family):
    def lower(self, detector: nn.Module, lowering: Any, limits: Any) -> Any:
        raise NotImplementedError


FAMILIES = FamilyRegistry([TopTwoFamily("top_two", (TopTwo,), detectors=(Detector,))])


def keep_of(scores: np.ndarray, lowest_first: bool) -> list[int]:
    size = np.int64([[8, 8]])
    batch = Batch(np.zeros((1, 3, 8, 8), np.float32), size, [{}])
    result = Reference(Detector(), FAMILIES).post_process(
        {"cls_score_0": scores}, batch, lowest_first
    )
    return [int(x) for x in result[0].boxes[:, 0]]


def test_of_equal_scores_the_lowest_index_is_taken_first_where_asked():
    scores = np.zeros((1, 1, 40, 40), np.float32)
    scores.flat[1500] = 0.5

    assert keep_of(scores, lowest_first=True) == [1500, 0]
    # PyTorch may take any of the 1,599 cells that are equal; the best is no matter of choice.
    assert keep_of(scores, lowest_first=False)[0] == 1500


def test_the_order_is_left_as_it_was():
    scores = torch.arange(3.0)
    before = torch.topk
    keep_of(np.zeros((1, 1, 4, 4), np.float32), lowest_first=True)
    assert torch.topk is before
    assert torch.topk(scores, 1).indices.tolist() == [2]
    assert torch.topk(scores, 2, largest=False).indices.tolist() == [0, 1]


def test_outputs_that_are_no_numbers_are_told(monkeypatch):
    outputs = {"cls_score_0": torch.zeros(2), "bbox_pred_0": torch.tensor([0.0, float("nan")])}
    monkeypatch.setattr(TopTwoFamily, "raw_reference", lambda *_: outputs, raising=False)
    batch = Batch(np.zeros((1, 3, 8, 8), np.float32), np.int64([[8, 8]]), [{}])
    with pytest.raises(PyTorchFails, match=r"no numbers \(NaN in bbox_pred_0\): look at the check"):
        Reference(Detector(), FAMILIES).raw(batch)
