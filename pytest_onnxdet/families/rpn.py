"""A proposal network alone (Faster R-CNN, arXiv:1506.01497): boxes of no class.

mmdet's ``RPN`` returns an array of proposals, best first. The graph gives them as ``dets`` with
label 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import PROPOSALS, DeployModel, Limits, features
from pytest_onnxdet.families.classes import Kind
from pytest_onnxdet.families.family import Family, Ties
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.proposals import NETWORKS, proposal_network
from pytest_onnxdet.families.settings import parts_of, require_rpn
from pytest_onnxdet.models.calibrate import Calibration


class ProposalDetector(DeployModel):
    """mmdet's ``RPN`` over any backbone and neck."""

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        network = proposal_network(self.detector.rpn_head)
        outputs = network.outputs(features(self.detector, input), image_shape)
        boxes, scores, level = network.proposals(outputs, image_shape, self.lowering, 0)
        columns = [boxes, scores[..., None], level[..., None].to(boxes.dtype)]
        return {**network.named(outputs), PROPOSALS: torch.cat(columns, dim=2)}

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        network = proposal_network(self.detector.rpn_head)
        outputs = network.outputs(features(self.detector, input), image_shape)
        boxes, scores, _ = network.proposals(outputs, image_shape, self.lowering, 0)
        used = scores > 0
        dets = torch.cat([boxes, scores[..., None]], dim=2)
        labels = torch.where(used, 0, -1) + torch.zeros_like(scores, dtype=torch.int64)
        return torch.where(used[..., None], dets, 0.0), labels


@dataclass(frozen=True, eq=False)
class RpnFamily(Family):
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
        network = proposal_network(self.head(detector))
        network.check()
        require_rpn(network.settings())

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        return ProposalDetector(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        model: Any = detector
        maps = model.extract_feat(images)
        return proposal_network(model.rpn_head).raw_reference(maps, metas)

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """The detector's results, with the network's outputs given."""
        model: Any = detector
        with proposal_network(model.rpn_head).replaced(raw):
            results: list[Any] = detector(
                img=[images], img_metas=[list(metas)], return_loss=False, rescale=True
            )
        return results

    def candidate_head(self, detector: nn.Module) -> Any:
        return proposal_network(self.head(detector)).candidate_head()

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """Of the network's levels."""
        return proposal_network(self.head(detector)).candidates_of_levels(outputs)

    def proposal_limit(self, detector: nn.Module) -> int | None:
        return proposal_network(self.head(detector)).limit()

    def calibration(self, detector: nn.Module) -> Calibration:
        network = proposal_network(self.head(detector))
        return Calibration(network.targets(), single=network.single)


RPN = RpnFamily(
    name="rpn",
    heads=tuple(network.kind for network in NETWORKS),
    ties=Ties(proposals=True, detections=False),
    uncapped="proposals are cut at test_cfg.rpn.nms_pre and test_cfg.rpn.max_per_img",
)
