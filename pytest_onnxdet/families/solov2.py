"""SOLOv2 (arXiv:2003.10152): a cell of a grid gives a kernel, which makes its map of a feature.

Scores, thresholds and matrix NMS are SOLO's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_onnxdet.data.image_maps import ImageMaps
from pytest_onnxdet.families.base import Limits, features
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.family import Part
from pytest_onnxdet.families.ops.boxes import take_rows
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.solo import (
    GRID_DETECTOR_METHODS,
    GRID_DETECTORS,
    GRID_TIES,
    SOLO_METHODS,
    GridDetector,
    GridFamily,
    coordinates,
    resized,
)
from pytest_onnxdet.models.calibrate import Target


class Solov2Detector(GridDetector):
    """``SOLOV2Head`` with kernels of one cell."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        logits, (kernels, feature) = self.cells(input)
        named = {f"kernel_pred_{level}": value for level, value in enumerate(kernels)}
        named |= {f"cls_score_{level}": value for level, value in enumerate(logits)}
        return named | {"mask_feats": feature}

    def cells(self, input: Tensor) -> tuple[list[Tensor], Any]:
        head = self.detector.mask_head
        feats = features(self.detector, input)
        feature = self._feature(feats)
        logits, kernels = [], []
        for feat, grid in zip(resized(feats), head.num_grids, strict=True):
            both = torch.cat([feat, coordinates(feat)], dim=1)
            kernel = functional.interpolate(both, size=grid, mode="bilinear", align_corners=False)
            score = kernel[:, :-2]
            for layer in head.kernel_convs:
                kernel = layer(kernel)
            for layer in head.cls_convs:
                score = layer(score)
            kernels.append(head.conv_kernel(kernel))
            logits.append(head.conv_cls(score))
        return logits, (kernels, feature)

    def _feature(self, feats: Sequence[Tensor]) -> Tensor:
        """The map that kernels are applied to, of some levels of the pyramid."""
        branch = self.detector.mask_head.mask_feature_head
        used = feats[branch.start_level : branch.end_level + 1]
        total = branch.convs_all_levels[0](used[0])
        for place, feat in enumerate(used[1:], start=1):
            if place == len(used) - 1:
                feat = torch.cat([feat, coordinates(feat)], dim=1)
            total = total + branch.convs_all_levels[place](feat)
        result: Tensor = branch.conv_pred(total)
        return result

    def maps(self, made: Any, picked: Sequence[Tensor]) -> Tensor:
        levels, feature = made
        kernels = torch.cat(
            [
                take_rows(level.flatten(2).transpose(1, 2), cell)
                for level, cell in zip(levels, picked, strict=True)
            ],
            dim=1,
        )
        logits = torch.matmul(kernels, feature.flatten(2))
        height, width = feature.shape[2], feature.shape[3]
        return sigmoid(logits).reshape(feature.shape[0], -1, height, width)


@dataclass(frozen=True, eq=False)
class Solov2Family(GridFamily):
    """Families of a head that :class:`Solov2Detector` lowers."""

    def image_maps(self, detector: nn.Module) -> ImageMaps | None:
        head = self.head(detector)
        return ImageMaps(int(head.mask_stride), threshold=float(head.test_cfg.mask_thr))

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> Solov2Detector:
        self.check_settings(detector)
        head = self.head(detector)
        if head.dynamic_conv_size != 1:
            raise UnsupportedPart(
                f"model.mask_head.dynamic_conv_size is {head.dynamic_conv_size}: only kernels of "
                "one cell have a lowering"
            )
        return Solov2Detector(detector, lowering, limits)

    def check_cls_branch(self, head: Any) -> None:
        """The class branch begins at the grid's size, whatever ``cls_down_index`` says."""

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Kernels and logits of each grid, and the feature."""
        model: Any = detector
        kernels, logits, feature = self.head(detector)(model.extract_feat(images))
        named = {f"kernel_pred_{level}": value for level, value in enumerate(kernels)}
        named |= {f"cls_score_{level}": value for level, value in enumerate(logits)}
        return named | {"mask_feats": feature}

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        rest = {name: value for name, value in raw.items() if name != "mask_feats"}
        return [*super().head_outputs(rest), raw["mask_feats"]]

    def mask_targets(self, head: Any) -> list[Target]:
        return [Target(head.conv_kernel, 1.0)]


SOLOV2 = Solov2Family(
    name="solov2",
    heads=("mmdet.models.SOLOV2Head",),
    head_path="mask_head",
    head_methods=SOLO_METHODS,
    detectors=GRID_DETECTORS,
    detector_methods=GRID_DETECTOR_METHODS,
    parts=(
        Part(
            "mask_head.mask_feature_head",
            ("mmdet.models.dense_heads.solov2_head.MaskFeatModule",),
        ),
    ),
    ties=GRID_TIES,
)
