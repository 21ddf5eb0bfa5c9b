"""Regions at a level's border: their features come of either pyramid level.

A feature pyramid's level follows from a region's size (FPN, arXiv:1612.03144, equation 1), which is
rounded down. Where rounding decides on which side of a border a size lies, a runtime may take the
features of the level beside it, and scores and boxes differ by much more than rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pytest_onnxdet.reference.ties.replace import overridden
from pytest_onnxdet.reference.ties.rounding import box_slack

#: So many ways of choosing levels are tried for an image. A region at a border is rare: of a
#: thousand regions one in about a hundred images.
MAX_TRIED = 16


@dataclass
class Decisions:
    """Of which regions at a border the level beside their own is taken.

    Attributes:
        asked: for the first regions at a border, in the order in which mmdet comes by them; the
            others are left at their own level.
        made: for all of them, after mmdet ran.
    """

    asked: tuple[bool, ...] = ()
    made: list[bool] = field(default_factory=list)
    _known: dict[bytes, bool] = field(default_factory=dict)

    def of(self, region: Tensor) -> bool:
        """The decision about one region: the same whenever the very same is pooled."""
        key = region.numpy().tobytes()
        if key not in self._known:
            number = len(self.made)
            self.made.append(number < len(self.asked) and self.asked[number])
            self._known[key] = self.made[-1]
        return self._known[key]

    def others(self) -> list[tuple[bool, ...]]:
        """What to ask next: each region that nothing was asked of, decided the other way."""
        start = len(self.asked)
        return [
            (*self.asked, *[False] * (number - start), True)
            for number in range(start, len(self.made))
        ]


@contextlib.contextmanager
def played_back_levels(detector: nn.Module, decisions: Decisions) -> Iterator[None]:
    """For the duration of the block, regions at a border are pooled from the level asked for.

    Args:
        detector: of its parts those that have mmdet's ``map_roi_levels``.
        decisions: what is asked; is filled in.
    """
    extractors = [module for module in detector.modules() if hasattr(module, "map_roi_levels")]
    with contextlib.ExitStack() as stack:
        for extractor in extractors:
            chosen = _chosen(extractor.map_roi_levels, decisions)
            stack.enter_context(overridden(extractor, map_roi_levels=chosen))
        yield


def _chosen(original: Any, decisions: Decisions) -> Any:
    def map_roi_levels(rois: Tensor, num_levels: int) -> Tensor:
        own: Tensor = original(rois, num_levels)
        if not len(rois):
            return own
        low, high = (
            original(_grown(rois, by), num_levels)
            for by in (-box_slack(rois[:, 1:].numpy()), box_slack(rois[:, 1:].numpy()))
        )
        levels = own.clone()
        for row in (low != high).nonzero()[:, 0].tolist():
            if decisions.of(rois[row]):
                levels[row] = high[row] if own[row] == low[row] else low[row]
        return levels

    return map_roi_levels


def _grown(rois: Tensor, by: float) -> Tensor:
    """Regions (K, 5) with each corner moved outwards by pixels; none is turned inside out."""
    first, last = rois[:, 1:3] - by, rois[:, 3:5] + by
    return torch.cat([rois[:, :1], first, torch.maximum(first, last)], dim=1)
