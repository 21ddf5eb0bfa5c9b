"""CentripetalNet (arXiv:2003.09119): CornerNet, its corners paired by where they point to.

Each corner predicts a shift to its object's centre. Two corners belong together where both centres
lie in the middle of the box that they span (section 4.1 of the paper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits
from pytest_onnxdet.families.cornernet import (
    CORNERNET,
    CornerDetector,
    CornerFamily,
    Corners,
    Frame,
)
from pytest_onnxdet.families.family import HEAD_METHODS, Ties
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.ops.peaks import at_cells
from pytest_onnxdet.models.calibrate import Calibration, Target

#: The head's outputs that detections are made of, in the order of its forward.
MAPS = ("tl_heat", "br_heat", "tl_off", "br_off")
SHIFTS = ("tl_shift", "br_shift")
#: The logarithm of a random corner's distance from its centre, in cells: some 7.
POINTING = 2.0
#: The middle of a box is its share 1 / 2.4, of one above 3,500 px² 1 / 2.1.
SMALL, LARGE, LARGE_AREA = 2.4, 2.1, 3500


class CentripetalDetector(CornerDetector):
    """mmdet's ``CentripetalHead`` over an hourglass network."""

    def _grouping(self, top_left: Tensor, bottom_right: Tensor) -> dict[str, Tensor]:
        head = self.detector.bbox_head
        shifts = {}
        for name, pooled in (("tl", top_left), ("br", bottom_right)):
            guide, offset, adaption, shift = (
                getattr(head, f"{name}_{part}")[-1]
                for part in ("guiding_shift", "dcn_offset", "feat_adaption", "centripetal_shift")
            )
            shifts[f"{name}_shift"] = shift(adaption(pooled, offset(guide(pooled))))
        return shifts

    def _together(
        self, maps: Mapping[str, Tensor], tl: Corners, br: Corners, frame: Frame
    ) -> Tensor:
        cfg = self.detector.bbox_head.test_cfg
        first = frame.placed(tl.at + at_cells(maps["tl_shift"], tl.cell).exp())[:, :, None]
        last = frame.placed(br.at - at_cells(maps["br_shift"], br.cell).exp())[:, None]
        start, end = frame.placed(tl.at)[:, :, None], frame.placed(br.at)[:, None]
        size = end - start
        large = (size.prod(dim=-1).abs() > LARGE_AREA)[..., None]
        # One divided by a number, and not its inverse: they are a rounding apart.
        share = torch.where(large, torch.tensor(1 / LARGE), torch.ones(()) / SMALL)
        centre, half = (start + end) / 2, share * size / 2
        low, high = centre - half, centre + half
        distance = (last - first).prod(dim=-1).abs() / (high - low).prod(dim=-1).abs()
        inside = [~((point <= low) | (point >= high)) for point in (first, last)]
        near = ~(distance > cfg.distance_threshold)
        return (inside[0] & inside[1]).all(dim=-1) & near


@dataclass(frozen=True, eq=False)
class CentripetalFamily(CornerFamily):
    """Families of a head that :class:`CentripetalDetector` lowers."""

    def deploy(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        return CentripetalDetector(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Heat maps, shifts and offsets of the last level, in the lowering's order."""
        model: Any = detector
        maps = [levels[-1] for levels in model.bbox_head(model.extract_feat(images))]
        heats, offsets = dict(zip(MAPS[:2], maps[:2], strict=True)), maps[2:4]
        shifts = dict(zip(SHIFTS, maps[-2:], strict=True))
        return {**heats, **shifts, **dict(zip(MAPS[2:], offsets, strict=True))}

    def head_outputs(self, raw: Mapping[str, Tensor]) -> list[Any]:
        """Guiding shifts, which decide nothing by themselves, are left out."""
        shifts = [[raw[name]] for name in SHIFTS]
        return [*([raw[name]] for name in MAPS), None, None, *shifts]

    def calibration(self, detector: nn.Module) -> Calibration:
        """As CornerNet's, with shifts that point to the middle of boxes of some ten cells."""
        head = self.head(detector)
        made = super().calibration(detector)
        guides = [head.tl_guiding_shift[-1], head.br_guiding_shift[-1]]
        shifts = [head.tl_centripetal_shift[-1], head.br_centripetal_shift[-1]]
        looks = [Target(layers[-1].conv, 0.5) for layers in guides]
        pointing = [Target(layers[-1].conv, 0.5, 0.5, POINTING) for layers in shifts]
        return Calibration([looks, pointing, *made.passes], made.damped)

    def grouping(self, head: Any) -> list[Target]:
        return []


CENTRIPETALNET = CentripetalFamily(
    name="centripetalnet",
    heads=("mmdet.models.CentripetalHead",),
    head_methods=(*HEAD_METHODS, "decode_heatmap", "_bboxes_nms"),
    parts=CORNERNET.parts,
    ties=Ties(order=True, suppression=False, peaks=MAPS[:2]),
    calibrated_classes=2,
    uncapped="CentripetalNet's detections are pairs of corners, cut at test_cfg.max_per_img",
)
