"""What DETR's encoder is taught: the class and the whole box of the object around each cell."""

import pytest
import torch
from dense_supervision import DenseSupervision, centres, smallest_around
from torch import nn

from pytest_onnxdet.models.torchvision_stub import ensure_torchvision


def test_centres_go_row_by_row() -> None:
    x, y = centres((2, 3), (32, 60))

    assert x.tolist() == [10, 30, 50] * 2
    assert y.tolist() == [8] * 3 + [24] * 3


def test_of_nested_boxes_the_smallest_owns_a_point() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [40, 40, 60, 60]])
    x, y = torch.tensor([50.0, 10, 150, 100]), torch.tensor([50.0, 90, 50, 50])

    assert smallest_around(x, y, boxes).tolist() == [1, 0, 2, 2]
    assert smallest_around(x, y, boxes[:0]).tolist() == [0] * 4


class Head(nn.Module):
    """Reads classes and boxes off the memory as they are, and keeps what it is asked."""

    num_classes, bg_cls_weight = 3, 0.1

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.forward = lambda memory: (None, memory)  # type: ignore[method-assign]
        self.fc_cls, self.fc_reg = nn.Linear(5, 4), nn.Linear(5, 4)
        self.reg_ffn = self.activate = nn.Identity()
        self.asked: dict[str, tuple[torch.Tensor, float]] = {}

    def loss_cls(self, logits: torch.Tensor, label: torch.Tensor, avg_factor: float):
        self.asked["label"] = label, avg_factor
        return logits.sum()

    def loss_bbox(self, box: torch.Tensor, target: torch.Tensor, avg_factor: float):
        self.asked["box"] = target, avg_factor
        return box.sum()

    def loss_iou(self, box: torch.Tensor, target: torch.Tensor, avg_factor: float):
        self.asked["corners"] = target, avg_factor
        return box.sum()


def test_cells_learn_their_object_and_padding_learns_nothing() -> None:
    ensure_torchvision()
    head = Head()
    dense = DenseSupervision(head)
    head.transformer(torch.randn(2, 5, 2, 3))
    batch = {
        "img": torch.zeros(2, 3, 40, 60),
        # The second image's last column of cells lies in padding, and it has no object.
        "img_metas": [{"img_shape": (40, 60, 3)}, {"img_shape": (40, 40, 3)}],
        "gt_bboxes": [torch.tensor([[0.0, 0, 30, 40]]), torch.zeros(0, 4)],
        "gt_labels": [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)],
    }

    losses = dense(batch)

    assert set(losses) == {"loss_dense_cls", "loss_dense_bbox", "loss_dense_iou"}
    label, weighed = head.asked["label"]
    assert label.tolist() == [1, 3, 3, 1, 3, 3] + [3] * 4
    assert weighed == pytest.approx(2 + 0.1 * 8)
    assert head.asked["box"][0].tolist() == [[0.25, 0.5, 0.5, 1.0]] * 2
    assert head.asked["box"][1] == 2
    assert head.asked["corners"][0].tolist() == [[0.0, 0.0, 0.5, 1.0]] * 2
