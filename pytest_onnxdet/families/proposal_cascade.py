"""Cascade RPN (arXiv:1909.06720): stages that refine one anchor a place.

A later stage's convolution samples where the last stage's anchors are: mmdet hands it offsets that
it computes from them, in Python and image by image; here they are computed in the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pytest_onnxdet.families.base import joined, outputs_replaced
from pytest_onnxdet.families.classes import UnsupportedPart, objection
from pytest_onnxdet.families.family import HEAD_METHODS
from pytest_onnxdet.families.ops.boxes import (
    Candidates,
    decode,
    quotient,
    require_coder,
    require_generator,
    take_rows,
)
from pytest_onnxdet.families.ops.lowering import Lowering
from pytest_onnxdet.families.proposal_network import (
    ProposalNetwork,
    best_boxes,
    by_kind,
    objectness_target,
)
from pytest_onnxdet.families.settings import modern
from pytest_onnxdet.models.calibrate import Target

STAGE = ("mmdet.models.StageCascadeRPNHead",)
STAGE_METHODS = (*HEAD_METHODS, "anchor_offset", "refine_bboxes", "get_anchors")


class CascadeNetwork(ProposalNetwork):
    """``CascadeRPNHead`` of ``StageCascadeRPNHead``."""

    kind = "mmdet.models.CascadeRPNHead"
    methods = ("simple_test_rpn",)

    def settings(self) -> Any:
        return modern(self.head.test_cfg)

    def check(self) -> None:
        super().check()
        stages = list(self.head.stages)
        for number, stage in enumerate(stages):
            why = objection(stage, STAGE, STAGE_METHODS)
            if why is not None:
                raise UnsupportedPart(f"rpn_head.stages.{number} has no lowering: {why}")
            require_coder(stage.bbox_coder)
        require_generator(stages[0].prior_generator)
        if any(count != 1 for count in stages[0].prior_generator.num_base_priors):
            raise UnsupportedPart(
                "rpn_head.stages.0 with several anchors of a place has no lowering: later stages "
                "sample at one"
            )
        if not stages[-1].with_cls:
            raise UnsupportedPart("rpn_head: the last stage has no scores (with_cls=False)")

    def outputs(self, maps: tuple[Tensor, ...], image_shape: Tensor) -> Any:
        """The outputs by name, and the last stage's anchors float32 (N or 1, P, 4)."""
        stages = list(self.head.stages)
        priors = Candidates(stages[0].prior_generator, maps, fixed_shape=False)
        index = torch.arange(sum(priors.sizes[1:], priors.sizes[0]), device=maps[0].device)
        anchors = priors.priors(index[None])
        levels: Any = list(maps)
        named: dict[str, Tensor] = {}
        for number, stage in enumerate(stages):
            offsets = None
            if stage.adapt_cfg["type"] == "offset":
                of_levels = anchors.split(priors.sizes, dim=1)
                offsets = [
                    sampling_offsets(boxes, stride, level).expand(level.shape[0], -1, -1)
                    for boxes, stride, level in zip(
                        of_levels, stage.anchor_strides, maps, strict=True
                    )
                ]
            levels, scores, deltas = stage(levels, offsets)
            named |= _named(number, stage, scores, deltas)
            if number < len(stages) - 1:
                anchors = decode(stage.bbox_coder, anchors, joined(deltas, 4), image_shape)
        return named, anchors

    def named(self, outputs: Any) -> dict[str, Tensor]:
        names: dict[str, Tensor] = outputs[0]
        return names

    def proposals(
        self, outputs: Any, image_shape: Tensor, lowering: Lowering, min_slots: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        named, anchors = outputs
        *_, scores, deltas = by_kind(named).values()
        last = self.head.stages[-1]
        candidates = Candidates(self.head.stages[0].prior_generator, scores, lowering.fixed_shape)
        # The stages before may see one set of anchors for all images.
        anchors = anchors.expand(scores[0].shape[0], -1, -1)
        return best_boxes(
            last,
            self.settings(),
            candidates,
            lambda prior: take_rows(anchors, prior),
            (scores, deltas),
            image_shape,
            lowering,
            min_slots,
        )

    def raw_reference(
        self, maps: tuple[Tensor, ...], metas: Sequence[Mapping[str, Any]]
    ) -> dict[str, Tensor]:
        """Of all stages, as mmdet runs them one after the other."""
        seen: list[Any] = []
        with contextlib.ExitStack() as stack:
            for stage in self.head.stages:
                handle = stage.register_forward_hook(lambda _, __, output: seen.append(output))
                stack.callback(handle.remove)
            self.head.simple_test_rpn(maps, [dict(meta) for meta in metas])
        named: dict[str, Tensor] = {}
        for number, (stage, output) in enumerate(zip(self.head.stages, seen, strict=True)):
            named |= _named(number, stage, output[1], output[2])
        return named

    def replaced(self, raw: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return self._replaced(raw)

    @contextlib.contextmanager
    def _replaced(self, raw: Mapping[str, Tensor]) -> Iterator[None]:
        kinds = by_kind(raw)
        with contextlib.ExitStack() as stack:
            for number, stage in enumerate(self.head.stages):
                deltas = kinds[f"stage{number}_bbox_pred"]
                scores = kinds.get(f"stage{number}_cls_score", [None] * len(deltas))
                outputs = ([None] * len(deltas), scores, deltas)
                stack.enter_context(outputs_replaced(stage, outputs))
            yield

    def targets(self) -> list[list[Target]]:
        passes = []
        for stage in self.head.stages:
            scores = [objectness_target(stage, stage.rpn_cls)] if stage.with_cls else []
            passes.append([*scores, Target(stage.rpn_reg, 0.3)])
        return passes

    def candidate_head(self) -> Any:
        return self.head.stages[-1]

    def candidates_of_levels(self, outputs: Any) -> list[list[int]]:
        return super().candidates_of_levels(outputs[1:])


def _named(
    number: int, stage: Any, scores: Sequence[Any], deltas: Sequence[Tensor]
) -> dict[str, Tensor]:
    """A stage's outputs by the names of the raw graph, ``stage1_bbox_pred_0``."""
    kinds = {"cls_score": scores, "bbox_pred": deltas} if stage.with_cls else {"bbox_pred": deltas}
    return {
        f"stage{number}_{kind}_{level}": value
        for kind, levels in kinds.items()
        for level, value in enumerate(levels)
    }


def sampling_offsets(anchors: Tensor, stride: int, level: Tensor) -> Tensor:
    """Where a 3 x 3 convolution samples to look at an anchor (section 3.2 of the paper).

    Args:
        anchors: float32 (N, H * W, 4), corners in input pixels.
        stride: input pixels per cell.
        level: the map (N, C, H, W) whose cells they belong to.

    Returns:
        float32 (N, H * W, 18), offsets in cells of the nine samples, y before x.
    """
    cell = torch.arange(anchors.shape[1], device=anchors.device)
    row = quotient(cell, torch.as_tensor(level.shape[3], device=anchors.device))
    column = cell - row * level.shape[3]
    step = torch.tensor([-1, 0, 1], device=anchors.device)
    across = step.repeat(3).to(anchors.dtype)
    down = step.repeat_interleave(3).to(anchors.dtype)
    parts = []
    for axis, place, grid in ((1, row, down), (0, column, across)):
        start, end = anchors[..., axis], anchors[..., axis + 2]
        centre = (start + end) * 0.5 / stride - place.to(anchors.dtype)
        size = (end - start) / stride / 2 - 1
        parts.append(size[..., None] * grid + centre[..., None])
    return torch.stack(parts, dim=-1).flatten(2)
