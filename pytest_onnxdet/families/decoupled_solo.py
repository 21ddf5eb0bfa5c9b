"""Decoupled SOLO (arXiv:1912.04488, section 4): a cell's map is its column's times its row's.

The light form shares the layers before these maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.families.base import Limits, features
from pytest_onnxdet.families.ops.boxes import quotient, take_rows
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.solo import (
    GRID_DETECTOR_METHODS,
    GRID_DETECTORS,
    GRID_TIES,
    SOLO_METHODS,
    GridDetector,
    SoloFamily,
    class_logits,
    coordinates,
    doubled,
    resized,
)


class DecoupledDetector(GridDetector):
    """``DecoupledSOLOHead``, and ``DecoupledSOLOLightHead``, whose branches share their layers."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        logits, (across, down, _) = self.cells(input)
        named = {f"cls_score_{level}": value for level, value in enumerate(logits)}
        named |= {f"mask_pred_x_{level}": value for level, value in enumerate(across)}
        return named | {f"mask_pred_y_{level}": value for level, value in enumerate(down)}

    def cells(self, input: Tensor) -> tuple[list[Tensor], Any]:
        head = self.detector.mask_head
        feats = resized(features(self.detector, input))
        logits, across, down = [], [], []
        for level, feat in enumerate(feats):
            x, y = self._branches(feat)
            across.append(head.conv_mask_list_x[level](x))
            down.append(head.conv_mask_list_y[level](y))
            logits.append(class_logits(head, feat, level))
        return logits, (across, down, doubled(feats[0]))

    def _branches(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """The maps that columns' and rows' maps are made of, twice as large as ``feat``."""
        head, at = self.detector.mask_head, coordinates(feat)
        shared = hasattr(head, "mask_convs")
        layers = (head.mask_convs,) if shared else (head.mask_convs_x, head.mask_convs_y)
        places = (at,) if shared else (at[:, 0:1], at[:, 1:2])
        branches = []
        for place, convs in zip(places, layers, strict=True):
            branch = torch.cat([feat, place], dim=1)
            for layer in convs:
                branch = layer(branch)
            branches.append(functional.interpolate(branch, scale_factor=2, mode="bilinear"))
        return branches[0], branches[-1]

    def maps(self, made: Any, picked: Sequence[Tensor]) -> Tensor:
        across, down, size = made
        grids = self.detector.mask_head.num_grids
        products = []
        for x, y, cell, grid in zip(across, down, picked, grids, strict=True):
            columns, rows = (
                functional.interpolate(sigmoid(one), size=size, mode="bilinear") for one in (x, y)
            )
            row = quotient(cell, grid)
            products.append(take_rows(columns, cell - row * grid) * take_rows(rows, row))
        return torch.cat(products, dim=1)


@dataclass(frozen=True, eq=False)
class DecoupledFamily(SoloFamily):
    """Families of a head that :class:`DecoupledDetector` lowers."""

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DecoupledDetector:
        self.check_settings(detector)
        return DecoupledDetector(detector, lowering, limits)

    def mask_layers(self, head: Any) -> dict[str, Any]:
        return {"mask_pred_x": head.conv_mask_list_x, "mask_pred_y": head.conv_mask_list_y}


DECOUPLED_SOLO = DecoupledFamily(
    name="decoupled_solo",
    heads=("mmdet.models.DecoupledSOLOHead", "mmdet.models.DecoupledSOLOLightHead"),
    head_path="mask_head",
    head_methods=SOLO_METHODS,
    detectors=GRID_DETECTORS,
    detector_methods=GRID_DETECTOR_METHODS,
    ties=GRID_TIES,
)
