"""What is known of one kind of proposal network; here of mmdet's plain ``RPNHead``.

The kinds are listed in ``proposals``, beside this file, which finds the one of a detector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import joined, named_levels, outputs_replaced
from pytest_onnxdet.families.classes import (
    Kind,
    UnsupportedPart,
    overridden,
    resolve,
)
from pytest_onnxdet.families.family import DECODING_METHODS
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    decode,
    require_coder,
    require_generator,
    take_rows,
    with_group_offsets,
)
from pytest_onnxdet.families.ops.lowering import Lowering, sigmoid
from pytest_onnxdet.families.settings import RPN, suppression
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
        single: whether it takes one image at a time.
        opened: whether a proof of ties may widen its limits, as ``RPNHead`` applies them.
    """

    kind: ClassVar[Kind]
    methods: ClassVar[tuple[str, ...]]
    single: ClassVar[bool] = False
    opened: ClassVar[bool] = False

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

    def settings(self) -> Any:
        """The network's test_cfg, with the keys that mmdet 2.28 reads there."""
        return self.head.test_cfg

    def limit(self) -> int | None:
        """How many proposals of an image there may be; None: any number."""
        limit = int(self.settings().max_per_img)
        return limit if limit > 0 else None

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
    methods = (*DECODING_METHODS, "simple_test_rpn")
    opened = True

    def check(self) -> None:
        super().check()
        require_generator(self.head.prior_generator)
        require_coder(self.head.bbox_coder)

    def outputs(self, maps: tuple[Tensor, ...], image_shape: Tensor) -> Any:
        return self.head(maps)

    def named(self, outputs: Any) -> dict[str, Tensor]:
        return named_levels(outputs)

    def proposals(
        self, outputs: Any, image_shape: Tensor, lowering: Lowering, min_slots: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores, deltas = outputs[:2]  # mmdet's RPNHead looks at no more, either
        candidates = Candidates(self.head.prior_generator, scores, lowering.fixed_shape)
        return best_boxes(
            self.head,
            self.settings(),
            candidates,
            candidates.priors,
            (scores, deltas),
            image_shape,
            lowering,
            min_slots,
        )

    def raw_reference(
        self, maps: tuple[Tensor, ...], metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        return self.named(self.head(maps))

    def replaced(self, raw: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return outputs_replaced(self.head, tuple(by_kind(raw).values()))

    def targets(self) -> list[list[Target]]:
        return [[objectness_target(self.head, self.head.rpn_cls), Target(self.head.rpn_reg, 0.3)]]


def best_boxes(
    head: Any,
    cfg: Any,
    candidates: Candidates,
    priors: Callable[[Tensor], Tensor],
    outputs: tuple[list[Tensor], list[Tensor]],
    image_shape: Tensor,
    lowering: Lowering,
    min_slots: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The boxes that ``RPNHead`` chooses of all its priors.

    Args:
        head: mmdet's, whose coder and scores count.
        cfg: its test_cfg.
        candidates: all priors.
        priors: gives those of numbers (N, K) as corners (N, K, 4).
        outputs: logits and deltas by level.
        image_shape, lowering, min_slots: as for :meth:`ProposalNetwork.proposals`.

    Returns:
        As :meth:`ProposalNetwork.proposals` does.
    """
    scores, deltas = outputs
    score = objectness(head, scores)
    nms_pre = cfg.get("nms_pre", -1)
    if nms_pre > 0:
        score, prior = lowering.top_of_levels(score, candidates.sizes, nms_pre, 0.0)
    else:
        score, prior = lowering.present(score, 0)
    boxes = decode(head.bbox_coder, priors(prior), take_rows(joined(deltas, 4), prior), image_shape)
    score = large_enough(boxes, score, cfg)
    level = candidates.levels(prior)
    score, level, index = lowering.nms_pairs(
        with_group_offsets(boxes, level, score > 0),
        score,
        level,
        len(scores),
        suppression(cfg, RPN, sliced=True),
        cfg.max_per_img,
        min_slots=min_slots,
    )
    return take_rows(boxes, index), score, level


def objectness(head: Any, logits: Sequence[Tensor]) -> Tensor:
    """Probabilities float32 (N, P) of logits by level, in the priors' order; none is 0."""
    if head.use_sigmoid_cls:
        scores = sigmoid(joined(logits, 1).flatten(1))
    else:  # the background comes last
        scores = joined(logits, 2).softmax(dim=-1)[..., 0]
    return scores.clamp(min=SMALLEST_SCORE)


def large_enough(boxes: Tensor, scores: Tensor, cfg: Any) -> Tensor:
    """Scores (N, K), 0 where a side of the box is no longer than ``min_bbox_size``."""
    if cfg.min_bbox_size < 0:
        return scores
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.where(size.amin(dim=-1) > cfg.min_bbox_size, scores, 0.0)


def objectness_target(head: Any, layer: nn.Module) -> Target:
    """How the logits of random weights are spread that a layer of a network gives."""
    # Objectness at its highest is REACH above this level, 0.98: at 16, as it comes out without,
    # a fifth of a level's best thousand scores repeat another, and chance decides among them.
    level, period = 4.0 - REACH, 1 if head.use_sigmoid_cls else 2
    return Target(layer, 2.0, 0.01, level, period)


def by_kind(raw: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Raw outputs by what precedes their level's number, level by level."""
    kinds: dict[str, list[Tensor]] = {}
    for name, value in raw.items():
        kinds.setdefault(name.rpartition("_")[0], []).append(value)
    return kinds
