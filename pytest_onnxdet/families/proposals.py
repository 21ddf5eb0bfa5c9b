"""Proposal networks: which regions a two-stage detector goes on with.

One class for each kind of ``rpn_head``. It knows how the network's proposals are chosen, and what
follows from that: its raw outputs, where its candidates are cut, and how random weights are
calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import PROPOSALS, DeployModel, features
from pytest_onnxdet.families.classes import UnsupportedPart, names_of, nearest, resolve
from pytest_onnxdet.families.family import Family
from pytest_onnxdet.families.proposal_cascade import CascadeNetwork
from pytest_onnxdet.families.proposal_guided import GuidedNetwork
from pytest_onnxdet.families.proposal_network import PlainNetwork, ProposalNetwork

__all__ = [
    "NETWORKS",
    "ProposalNetwork",
    "ProposingFamily",
    "ProposingModel",
    "proposal_network",
]

#: The kinds of network that are taken.
NETWORKS: tuple[type[ProposalNetwork], ...] = (
    PlainNetwork,
    GuidedNetwork,
    CascadeNetwork,
)


def proposal_network(head: nn.Module) -> ProposalNetwork:
    """What is known of a detector's proposal network, by its class.

    Raises:
        UnsupportedPart: its class is none of :data:`NETWORKS`, nor a subclass of one.
    """
    base = nearest(type(head), [network.kind for network in NETWORKS])
    for network in NETWORKS:
        if resolve(network.kind) is base:
            return network(head)
    names = names_of(network.kind for network in NETWORKS)
    raise UnsupportedPart(
        f"rpn_head is {type(head).__name__}, which has no lowering; these have one: {names}"
    )


class ProposingModel(DeployModel):
    """A deploy model of a detector with a proposal network.

    Attributes:
        min_proposals: slots of proposals that there are at the least.
    """

    min_proposals: ClassVar[int] = 1

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        outputs, (boxes, scores, level) = self.proposed(features(self.detector, input), image_shape)
        columns = [boxes, scores[..., None], level[..., None].to(boxes.dtype)]
        named = proposal_network(self.detector.rpn_head).named(outputs)
        return {**named, PROPOSALS: torch.cat(columns, dim=2)}

    def proposed(
        self, maps: tuple[Tensor, ...], image_shape: Tensor
    ) -> tuple[Any, tuple[Tensor, Tensor, Tensor]]:
        """The network's outputs of float32 (N, C, h, w) maps, and its proposals.

        These are boxes, scores and levels, see :meth:`ProposalNetwork.proposals`.
        """
        network = proposal_network(self.detector.rpn_head)
        outputs = network.outputs(maps, image_shape)
        return outputs, network.proposals(outputs, image_shape, self.lowering, self.min_proposals)


class ProposingFamily(Family):
    """Families of a detector with a proposal network: all that follows hangs on what it picks."""

    def network(self, detector: nn.Module) -> ProposalNetwork:
        """What is known of the detector's proposal network."""
        model: Any = detector
        return proposal_network(model.rpn_head)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """The proposal network's outputs."""
        model: Any = detector
        return self.network(detector).raw_reference(model.extract_feat(images), metas)

    def post_process(
        self,
        detector: nn.Module,
        raw: Mapping[str, Tensor],
        images: Tensor,
        metas: Sequence[dict[str, Any]],
    ) -> list[Any]:
        """The detector's results, with the proposal network's outputs given."""
        with self.network(detector).replaced(raw):
            results: list[Any] = detector(
                img=[images], img_metas=[list(metas)], return_loss=False, rescale=True
            )
        return results

    def candidate_head(self, detector: nn.Module) -> Any:
        return self.network(detector).candidate_head()

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """Of the proposal network's levels."""
        return self.network(detector).candidates_of_levels(outputs)

    def proposal_limit(self, detector: nn.Module) -> int | None:
        return self.network(detector).limit()
