"""RetinaNet, FCOS, ATSS, SSD, …: dense heads whose candidates are (prior, class) pairs.

mmdet's ``BaseDenseHead`` thresholds the scores of each level, keeps the best ``nms_pre`` pairs of
each, decodes those, multiplies in a score factor where there is one, and suppresses class by class.
Heads that score or decode otherwise override :meth:`DenseDetector.probabilities` or
:meth:`DenseDetector.decoded`; what they override stands in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pytest_onnxdet.families.base import (
    DeployModel,
    Limits,
    features,
    joined,
    named_levels,
)
from pytest_onnxdet.families.dense_calibration import calibration_of
from pytest_onnxdet.families.family import DECODING_METHODS, Family
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    decode,
    require_coder,
    require_generator,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import Lowering, dets_of, sigmoid, without_last
from pytest_onnxdet.families.settings import (
    TEST_CFG,
    require_settings,
    require_slice,
    suppression,
)
from pytest_onnxdet.models.calibrate import Calibration

Maps = Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class Chosen:
    """The pairs of prior and class that are left of all.

    Attributes:
        candidates: all pairs.
        pair: int64 (N, K), the numbers of those that are left.
        maps: the head's outputs by kind and level, (N, C, H, W) each.
        image_shape: int64 (N, 2), height and width of each image before padding.
    """

    candidates: Candidates
    pair: Tensor
    maps: Maps
    image_shape: Tensor

    def priors(self) -> Tensor:
        """Their priors: anchors float32 (N, K, 4), or points float32 (N, K, 2)."""
        return self.candidates.priors(self.pair)

    def strides(self) -> Tensor:
        """Input pixels per cell of their levels, float32 (N, K, 1); across and down are equal."""
        return self.candidates.strides(self.pair)[..., :1]

    def rows(self, kind: int, width: int) -> Tensor:
        """What the head says of their priors in maps of one kind: float32 (N, K, width)."""
        return take_rows(joined(self.maps[kind], width), self.candidates.rows(self.pair))


class DenseDetector(DeployModel):
    """A single-stage detector with a dense head of mmdet's common form.

    Attributes:
        kinds: what the head's outputs are called, as far as it has them.
        prior_generator: the name under which the head has what lays out its priors.
        slices: whether the head slices with ``max_per_img``, also where it is not positive.
    """

    kinds: ClassVar[tuple[str, ...]] = ("cls_score", "bbox_pred", "centerness")
    prior_generator: ClassVar[str] = "prior_generator"
    slices: ClassVar[bool] = True

    def raw(self, input: Tensor, image_shape: Tensor) -> dict[str, Tensor]:
        return named_levels(self.maps(features(self.detector, input)), self.kinds)

    def forward(self, input: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
        head, cfg, limits = self.detector.bbox_head, self.detector.bbox_head.test_cfg, self.limits
        maps = self.maps(features(self.detector, input))
        nms_pre = cfg.get("nms_pre", -1) if limits.nms_pre is None else limits.nms_pre
        classes = foreground(head)
        candidates = self.candidates(maps, classes)
        scores = self.probabilities(head, joined(maps[0], head.cls_out_channels)).flatten(1)
        score, pair = self.lowering.top_of_levels(scores, candidates.sizes, nms_pre, cfg.score_thr)
        if nms_pre == 0:  # as Python slices: [:0] leaves out all
            score = torch.zeros_like(score)
        if nms_pre < 0:  # [:-1] leaves out the last
            score, column = self.lowering.compact(score)
            pair = torch.gather(pair, 1, column)
            score = without_last(score, -nms_pre, candidates.levels(pair), len(candidates.sizes))
        label = pair - candidates.rows(pair) * classes
        boxes, factor = self.decoded(Chosen(candidates, pair, maps, image_shape))
        if factor is not None:  # it comes after threshold and selection
            score = score * factor
        return self.suppressed(boxes, score, label, classes)

    def maps(self, levels: tuple[Tensor, ...]) -> Maps:
        """The head's outputs of a neck's levels, by kind and level."""
        return self.arranged(self.detector.bbox_head(levels))

    @staticmethod
    def arranged(outputs: Any) -> Maps:
        """What the head's ``forward`` returns, by kind and level; as it is in most heads."""
        maps: Maps = outputs
        return maps

    def candidates(self, maps: Maps, classes: int = 1) -> Candidates:
        """All levels' priors, each as so many candidates."""
        generator = getattr(self.detector.bbox_head, self.prior_generator)
        return Candidates(generator, maps[0], self.lowering.fixed_shape, classes)

    @staticmethod
    def probabilities(head: Any, rows: Tensor) -> Tensor:
        """Foreground probabilities (N, P, C) of logits (N, P, C), or (N, P, C + 1) for softmax."""
        if head.use_sigmoid_cls:
            return sigmoid(rows)
        return rows.softmax(dim=-1)[..., :-1]

    def decoded(self, chosen: Chosen) -> tuple[Tensor, Tensor | None]:
        """Boxes float32 (N, K, 4), and factors of their scores float32 (N, K) where there are."""
        boxes = decode(
            self.detector.bbox_head.bbox_coder,
            chosen.priors(),
            chosen.rows(1, 4),
            chosen.image_shape,
        )
        if len(chosen.maps) < 3:
            return boxes, None
        return boxes, sigmoid(chosen.rows(2, 1).flatten(1))

    def suppressed(
        self, boxes: Tensor, score: Tensor, label: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Suppression and all cuts of boxes that each belong to one class.

        Args:
            boxes: float32 (N, P, 4); score: float32 (N, P), 0 in empty slots; label: int64 (N, P).
            classes: how many there are.

        Returns:
            ``dets`` and ``labels`` of the graph's contract.
        """
        cfg, limits = self.detector.bbox_head.test_cfg, self.limits
        if limits.deploy_nms_pre > 0:
            score, keep = self.lowering.top(score, limits.deploy_nms_pre, 0.0)
            label = torch.gather(label, 1, keep)
            boxes = take_rows(boxes, keep)
        score, labels, column = self.lowering.nms_pairs(
            boxes,
            score,
            label,
            classes,
            suppression(cfg, sliced=self.slices),
            self.max_per_img(),
            limits.max_output_boxes_per_class or 0,
        )
        return dets_of(boxes, score, column), labels

    def max_per_img(self) -> int:
        """How many detections of an image are kept; not positive: all, or what slicing leaves."""
        if self.limits.max_per_img is not None:
            return self.limits.max_per_img
        return int(self.detector.bbox_head.test_cfg.max_per_img)

    @classmethod
    def require(cls, head: Any) -> None:
        """Refuses a head with a part that this lowering does not repeat.

        Raises:
            UnsupportedPart: the message names the part, or the key of its test_cfg.
        """
        require_generator(getattr(head, cls.prior_generator))
        cls.require_decoding(head)
        cls.require_test_cfg(head.test_cfg)

    @classmethod
    def require_decoding(cls, head: Any) -> None:
        """Refuses a box coder that is not repeated; raises `UnsupportedPart`."""
        require_coder(head.bbox_coder)

    @classmethod
    def require_test_cfg(cls, cfg: Any) -> None:
        """Refuses settings that have no lowering; raises `UnsupportedPart` with the key's path."""
        require_settings(cfg, TEST_CFG, ("score_thr", "nms", "max_per_img"))
        suppression(cfg)
        require_slice(cfg, TEST_CFG, "max_per_img")
        require_slice(cfg, TEST_CFG, "nms_pre", default=-1)


def foreground(head: Any) -> int:
    """How many classes a dense head scores, without the background."""
    return int(head.cls_out_channels) - (0 if head.use_sigmoid_cls else 1)


@dataclass(frozen=True, eq=False)
class DenseFamily(Family):
    """Families of a dense head that a :class:`DenseDetector` lowers.

    The head's own ``forward`` is what runs, so only what follows has to be as in mmdet's
    ``BaseDenseHead``. Another head of that form joins with ``replace(family, name=...,
    heads=(...,))``.

    Attributes:
        model: what lowers it.
    """

    head_methods: tuple[str, ...] = DECODING_METHODS
    model: type[DenseDetector] = DenseDetector

    def lower(self, detector: nn.Module, lowering: Lowering, limits: Limits) -> DeployModel:
        self.model.require(self.head(detector))
        return self.model(detector, lowering, limits)

    def raw_reference(
        self, detector: nn.Module, images: Tensor, metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        model: Any = detector
        outputs = self.head(detector)(model.extract_feat(images))
        return named_levels(self.model.arranged(outputs), self.model.kinds)

    def candidate_head(self, detector: nn.Module) -> Any:
        return self.head(detector)

    def candidates_of_levels(self, detector: nn.Module, outputs: Any) -> list[list[int]]:
        """Of each level's pairs of prior and class, those above the threshold."""
        head = self.head(detector)
        counts = []
        for level in outputs[0]:
            scores = self.model.probabilities(head, joined([level], head.cls_out_channels))
            counts.append((scores > head.test_cfg.score_thr).sum(dim=(1, 2)).tolist())
        return counts

    def calibration(self, detector: nn.Module) -> Calibration:
        return calibration_of(self.head(detector)) or super().calibration(detector)


DENSE = DenseFamily(
    name="dense",
    heads=tuple(
        f"mmdet.models.{head}"
        for head in (
            "RetinaHead",
            "RetinaSepBNHead",
            "FSAFHead",
            "SSDHead",
            "FCOSHead",
            "AutoAssignHead",
            "ATSSHead",
            "DDODHead",
            "VFNetHead",
            "YOLOFHead",
        )
    ),
)
