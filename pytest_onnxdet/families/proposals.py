"""Proposal networks: which regions a two-stage detector goes on with.

One class for each kind of ``rpn_head``, found by :func:`proposal_network`. It knows how the
network's proposals are chosen, and what follows from that: its raw outputs, where its candidates
are cut, and how random weights are calibrated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import joined, named_levels
from pytest_onnxdet.families.classes import (
    Kind,
    UnsupportedPart,
    names_of,
    nearest,
    overridden,
    resolve,
)
from pytest_onnxdet.families.family import HEAD_METHODS, outputs_replaced
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    decode,
    require_coder,
    require_generator,
    take_rows,
    with_group_offsets,
)
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.settings import suppression
from pytest_onnxdet.models.calibrate import REACH, Target

# mmdet keeps a proposal whose objectness underflows to 0 (a logit below -88), and the second stage
# may detect something in it. Here 0 is an empty slot, so such a proposal gets a score just above 0.
SMALLEST_SCORE = 1e-37


class ProposalNetwork(ABC):
    """What is known of one kind of proposal network.

    Attributes:
        kind: its class.
        methods: those of its methods that inference uses and the lowering repeats.
        head: the detector's network.
    """

    kind: ClassVar[Kind]
    methods: ClassVar[tuple[str, ...]]

    def __init__(self, head: Any) -> None:
        self.head = head

    def check(self) -> None:
        """Refuses a network with a part that has no lowering; raises `UnsupportedPart`."""
        why = overridden(self.head, resolve(self.kind), self.methods)
        if why is not None:
            raise UnsupportedPart(
                f"rpn_head is {type(self.head).__name__}, which has no lowering: it overrides "
                f"{why}, which inference uses and the lowering repeats"
            )

    @abstractmethod
    def outputs(self, maps: tuple[Tensor, ...], image_shape: Tensor) -> Any:
        """What the network's layers give, before anything is decoded.

        Args:
            maps: float32 (N, C, h, w), level by level.
            image_shape: int64 (N, 2), height and width of each image before padding.
        """

    @abstractmethod
    def named(self, outputs: Any) -> dict[str, Tensor]:
        """The outputs by the names that a raw graph gives them."""

    @abstractmethod
    def proposals(
        self, outputs: Any, image_shape: Tensor, lowering: Lowering, min_slots: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The regions that the detector goes on with.

        Args:
            outputs: what :meth:`outputs` gave.
            image_shape: int64 (N, 2).
            lowering: top-k and suppression in one runtime's operators.
            min_slots: the minimum of slots of the result, 0 or 1.

        Returns:
            float32 (N, K, 4) boxes, K >= ``min_slots``, of empty slots any; float32 (N, K) scores,
            0 in empty slots; int64 (N, K) levels, -1 there.
        """

    @abstractmethod
    def raw_reference(
        self, maps: tuple[Tensor, ...], metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """What mmdet's own network gives, by the names of :meth:`named`.

        Args:
            maps: of the detector's ``extract_feat``.
            metas: mmdet's img_metas.
        """

    @abstractmethod
    def replaced(self, raw: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """For the duration of the block, mmdet's network gives these raw outputs."""

    @abstractmethod
    def targets(self) -> list[list[Target]]:
        """What to set so that random weights propose something, pass by pass."""

    def candidate_head(self) -> Any:
        """The module whose ``forward`` gives what ``nms_pre`` cuts level by level."""
        return self.head

    def candidates_of_levels(self, outputs: Any) -> list[list[int]]:
        """For each level the images' candidates where ``nms_pre`` acts: all priors.

        Args:
            outputs: what the ``forward`` of :meth:`candidate_head` gave.
        """
        return [[level[0].numel()] * len(level) for level in outputs[0]]


class PlainNetwork(ProposalNetwork):
    """``RPNHead`` (Faster R-CNN, arXiv:1506.01497): one layer on each level of a pyramid."""

    kind = "mmdet.models.RPNHead"
    methods = (*HEAD_METHODS, "simple_test_rpn")

    def check(self) -> None:
        super().check()
        require_generator(self.head.prior_generator)
        require_coder(self.head.bbox_coder)
        if not self.head.use_sigmoid_cls:
            raise UnsupportedPart("an RPN head with softmax scores has no lowering")

    def outputs(self, maps: tuple[Tensor, ...], image_shape: Tensor) -> Any:
        return self.head(maps)

    def named(self, outputs: Any) -> dict[str, Tensor]:
        return named_levels(outputs)

    def proposals(
        self, outputs: Any, image_shape: Tensor, lowering: Lowering, min_slots: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        head, cfg = self.head, self.head.test_cfg
        scores, deltas = outputs
        candidates = Candidates(head.prior_generator, scores, lowering.fixed_shape)
        objectness = sigmoid(joined(scores, 1).flatten(1)).clamp(min=SMALLEST_SCORE)
        nms_pre = cfg.get("nms_pre", -1)
        if nms_pre > 0:
            score, prior = lowering.top_of_levels(objectness, candidates.sizes, nms_pre, 0.0)
        else:
            score, prior = lowering.present(objectness, 0)
        boxes = decode(
            head.bbox_coder,
            candidates.priors(prior),
            take_rows(joined(deltas, 4), prior),
            image_shape,
        )
        if cfg.min_bbox_size >= 0:
            size = boxes[..., 2:] - boxes[..., :2]
            score = torch.where(size.amin(dim=-1) > cfg.min_bbox_size, score, 0.0)
        level = candidates.levels(prior)
        score, level, index = lowering.nms_pairs(
            with_group_offsets(boxes, level, score > 0),
            score,
            level,
            len(scores),
            suppression(cfg, sliced=True),
            cfg.max_per_img,
            min_slots=min_slots,
        )
        return take_rows(boxes, index), score, level

    def raw_reference(
        self, maps: tuple[Tensor, ...], metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        return self.named(self.head(maps))

    def replaced(self, raw: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        kinds = dict.fromkeys(name.rpartition("_")[0] for name in raw)
        levels = [[v for name, v in raw.items() if name.rpartition("_")[0] == k] for k in kinds]
        return outputs_replaced(self.head, tuple(levels))

    def targets(self) -> list[list[Target]]:
        # Objectness at its highest is REACH above this level, 0.98: at 16, as it comes out without,
        # a fifth of a level's best thousand scores repeat another, and chance decides among them.
        score = Target(self.head.rpn_cls, 2.0, 0.01, 4.0 - REACH)
        return [[score, Target(self.head.rpn_reg, 0.3)]]


#: The kinds of network that are taken.
NETWORKS: tuple[type[ProposalNetwork], ...] = (PlainNetwork,)


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
