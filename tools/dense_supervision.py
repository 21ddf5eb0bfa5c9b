"""A second loss for DETR's encoder, so that a small DETR learns where things are in minutes.

DETR adds positions to queries and keys only: what its decoder reads holds no position unless the
backbone and the encoder put one there, and twelve matched queries in an image teach that slowly.
Here every cell of the encoder's memory that lies in an object is asked, through the decoder's own
heads, for the object's class and whole box. Nothing of this is left in the detector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class DenseSupervision:
    """Losses of the encoder's memory, beside those of the queries.

    Args:
        head: mmdet's ``DETRHead``; its transformer is watched from now on.
    """

    def __init__(self, head: Any) -> None:
        self._head = head
        self._memory: Tensor | None = None
        head.transformer.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        self._memory = output[1]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The losses for the batch that went through the detector last.

        Args:
            batch: arguments of ``forward_train``: the boxes are in pixels of the batch's images.

        Returns:
            ``loss_dense_cls``, ``loss_dense_bbox`` and ``loss_dense_iou``, with the head's weights.
        """
        from mmdet.core import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh

        head, memory = self._head, self._memory
        assert memory is not None, "the detector has not run yet"
        x, y = centres(memory.shape[2:], batch["img"].shape[2:])
        labels, targets, rows = [], [], []
        for meta, boxes, classes in zip(
            batch["img_metas"], batch["gt_bboxes"], batch["gt_labels"], strict=True
        ):
            height, width = meta["img_shape"][:2]
            rows.append((x < width) & (y < height))
            owner = smallest_around(x, y, boxes)[rows[-1]]
            padded = torch.cat([classes, classes.new_tensor([head.num_classes])])
            labels.append(padded[owner])
            size = boxes.new_tensor([width, height, width, height])
            whole = torch.cat([bbox_xyxy_to_cxcywh(boxes / size), boxes.new_zeros(1, 4)])
            targets.append(whole[owner])
        cells = memory.flatten(2).transpose(1, 2)[torch.stack(rows)]
        label, target = torch.cat(labels), torch.cat(targets)
        inside = label < head.num_classes
        count = max(int(inside.sum()), 1)
        logits = head.fc_cls(cells)
        weighed = count + head.bg_cls_weight * int((~inside).sum())
        box = head.fc_reg(head.activate(head.reg_ffn(cells[inside]))).sigmoid()
        return {
            "loss_dense_cls": head.loss_cls(logits, label, avg_factor=weighed),
            "loss_dense_bbox": head.loss_bbox(box, target[inside], avg_factor=count),
            "loss_dense_iou": head.loss_iou(
                bbox_cxcywh_to_xyxy(box), bbox_cxcywh_to_xyxy(target[inside]), avg_factor=count
            ),
        }


def centres(cells: Any, pixels: Any) -> tuple[Tensor, Tensor]:
    """x and y, in pixels, of the centres of a map's cells, row by row: two of (h * w,)."""
    y, x = (
        (torch.arange(count) + 0.5) * (size / count)
        for count, size in zip(cells, pixels, strict=True)
    )
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return grid_x.flatten(), grid_y.flatten()


def smallest_around(x: Tensor, y: Tensor, boxes: Tensor) -> Tensor:
    """Which box (n, 4) each point lies in, the smallest of several; n where it lies in none."""
    x1, y1, x2, y2 = boxes.unbind(1)
    inside = (x[:, None] > x1) & (x[:, None] < x2) & (y[:, None] > y1) & (y[:, None] < y2)
    area = torch.where(inside, (x2 - x1) * (y2 - y1), torch.inf)
    outside = torch.full((len(x), 1), torch.finfo(area.dtype).max)
    return torch.cat([area, outside], dim=1).argmin(dim=1)
