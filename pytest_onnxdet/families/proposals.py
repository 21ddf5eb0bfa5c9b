"""Proposal networks: which regions a two-stage detector goes on with.

One class for each kind of ``rpn_head``. It knows how the network's proposals are chosen, and what
follows from that: its raw outputs, where its candidates are cut, and how random weights are
calibrated.
"""

from __future__ import annotations

from torch import nn

from pytest_onnxdet.families.classes import UnsupportedPart, names_of, nearest, resolve
from pytest_onnxdet.families.proposal_cascade import CascadeNetwork
from pytest_onnxdet.families.proposal_guided import GuidedNetwork
from pytest_onnxdet.families.proposal_network import PlainNetwork, ProposalNetwork

__all__ = ["NETWORKS", "ProposalNetwork", "proposal_network"]

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
