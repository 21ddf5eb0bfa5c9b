"""A proposal network alone (Faster R-CNN, arXiv:1506.01497): boxes of no class.

mmdet's ``RPN`` returns an array of proposals, best first. The graph gives them as ``dets`` with
label 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import DeployModel, Limits, features
from pytest_onnxdet.families.classes import Kind
from pytest_onnxdet.families.family import Ties
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.proposals import NETWORKS, ProposingFamily, ProposingModel
from pytest_onnxdet.families.settings import parts_of, require_rpn
from pytest_onnxdet.models.calibrate import Calibration


class ProposalDetector(ProposingModel):
    """mmdet's ``RPN`` over any backbone and neck."""

    min_proposals = 0

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        _, (boxes, scores, _) = self.proposed(features(self.detector, input), image_shape)
        used = scores > 0
        dets = torch.cat([boxes, scores[..., None]], dim=2)
        labels = torch.where(used, 0, -1) + torch.zeros_like(scores, dtype=torch.int64)
        return torch.where(used[..., None], dets, 0.0), labels


@dataclass(frozen=True, eq=False)
class RpnFamily(ProposingFamily):
    """Families of a detector that is a proposal network and nothing else."""

    head_path: str = "rpn_head"
    head_methods: tuple[str, ...] = ()
    detectors: tuple[Kind, ...] = ("mmdet.models.detectors.RPN",)

    def head(self, detector: nn.Module) -> Any:
        """The proposal network, where no second stage follows."""
        alone = parts_of(detector) == [self.head_path]
        return super().head(detector) if alone else None

    def check(self, detector: nn.Module) -> None:
        super().check(detector)
        network = self.network(detector)
        network.check()
        require_rpn(network.settings())

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        return ProposalDetector(detector, lowering, limits)

    def calibration(self, detector: nn.Module) -> Calibration:
        network = self.network(detector)
        return Calibration(network.targets(), single=network.single)


RPN = RpnFamily(
    name="rpn",
    heads=tuple(network.kind for network in NETWORKS),
    ties=Ties(proposals=True, detections=False),
    uncapped="proposals are cut at test_cfg.rpn.nms_pre and test_cfg.rpn.max_per_img",
)
