"""Batch-first priors, box decoding and clipping.

The arithmetic repeats mmdet's box coders operation by operation, so that eager results agree to
the last bit wherever the order of operations allows; the difference is a batch dimension, and
limits that are tensors (each image has its own size) instead of Python numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_onnxdet.families.box_values import require_levels
from pytest_onnxdet.families.classes import UnsupportedPart, nearest, objection, resolve


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each image.

    Args:
        values: (N, P, ...) .
        index: int64 (N, K), row numbers below P.

    Returns:
        (N, K, ...).
    """
    # One Gather, and no Reshape of what may be empty: ONNX reads a 0 there as "copy this size".
    start = torch.arange(values.shape[0], device=index.device)[:, None] * values.shape[1]
    return values.flatten(0, 1)[index + start]


def quotient(index: Tensor, by: Tensor | int) -> Tensor:
    """Whole quotient of numbers that are not negative.

    Rounding to zero is rounding down there, and is one operator; ``rounding_mode="floor"`` is ten.
    """
    if isinstance(by, int) and by == 1:
        return index
    return torch.div(index, by, rounding_mode="trunc")


class Candidates:
    """The (prior, class) pairs of all levels: level after level, each in mmdet's order.

    Looking up all levels' priors in one go keeps the graph small: it is the number of operators,
    not their size, that costs time in post-processing.

    Args:
        generator: mmdet's ``AnchorGenerator`` (or a subclass) or ``MlvlPointGenerator``.
        maps: a map (N, C, H, W) of each level.
        fixed_shape: bake all priors into the graph. Otherwise the asked-for ones are computed,
            without laying out the grids.
        classes: how many candidates a prior makes; their numbers follow each other.

    Attributes:
        sizes: how many candidates each level has.

    Raises:
        UnsupportedPart: another generator.
    """

    def __init__(
        self, generator: Any, maps: Sequence[Tensor], fixed_shape: bool, classes: int = 1
    ) -> None:
        require_generator(generator)
        require_levels(generator, len(maps))
        self._generator: Any = generator
        self._device = maps[0].device
        self._fixed, self._classes = fixed_shape, classes
        self._counts = [int(count) for count in generator.num_base_priors]
        self._maps: list[tuple[Any, Any]] = [(level.shape[2], level.shape[3]) for level in maps]
        if fixed_shape:
            self._maps = [(int(height), int(width)) for height, width in self._maps]
        self.sizes: list[Any] = [
            height * width * (count * classes)
            for (height, width), count in zip(self._maps, self._counts, strict=True)
        ]

    def priors(self, index: Tensor) -> Tensor:
        """The priors of the candidates of these numbers.

        Args:
            index: int64 (N, K).

        Returns:
            float32 (N, K, 4) anchors as corners, or (N, K, 2) points, in network-input pixels.
        """
        generator = self._generator
        if self._fixed:
            grids = generator.grid_priors(self._maps, device="cpu")
            # By way of numpy, so that a tracer sees a constant and not how it was made.
            table = np.concatenate([grid.numpy() for grid in grids])
            return torch.from_numpy(table).to(self._device)[self.rows(index)]
        level, within = self._placed(index)
        local = quotient(within, self._classes)
        counts = self._counts
        if len(set(counts)) == 1:
            count, first = counts[0], level * counts[0]
        else:
            count = self._of(level, counts)
            first = self._of(level, [sum(counts[:place]) for place in range(len(counts))])
        cell = local if max(counts) == 1 else quotient(local, count)
        width = self._of(level, [width for _, width in self._maps])
        row = quotient(cell, width)
        at = torch.stack([cell - row * width, row], dim=-1).to(torch.float32)
        if not hasattr(generator, "base_anchors"):
            return (at + generator.offset) * self.strides(index)
        shift = at * self.strides(index)
        bases = torch.cat([base.to(self._device) for base in generator.base_anchors])
        base = first if max(counts) == 1 else first + (local - cell * count)
        return bases[base] + torch.cat([shift, shift], dim=-1)

    def rows(self, index: Tensor) -> Tensor:
        """The numbers of the candidates' priors, over all levels: int64 (N, K)."""
        return quotient(index, self._classes)

    def strides(self, index: Tensor) -> Tensor:
        """Input pixels per cell, across and down, where candidates are: float32 (N, K, 2)."""
        strides = torch.tensor(self._generator.strides, dtype=torch.float32, device=self._device)
        return strides[self.levels(index)]

    def levels(self, index: Tensor) -> Tensor:
        """The candidates' levels: int64 (N, K)."""
        return self._placed(index)[0]

    def _placed(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Each candidate's level and its number within it."""
        if len(self.sizes) == 1:
            return torch.zeros_like(index), index
        bounds = stacked(list(accumulate(self.sizes[:-1], initial=0)), self._device)
        # Candidates last: they are many, and levels few.
        level = (index[:, None] >= bounds[1:, None]).sum(dim=1)
        return level, index - bounds[level]

    def _of(self, level: Tensor, values: list[Any]) -> Any:
        """Of one whole number a level, those of these levels."""
        return values[0] if len(values) == 1 else stacked(values, self._device)[level]


def stacked(numbers: Sequence[Any], device: Any) -> Tensor:
    """Whole numbers as one int64 tensor, also those that are sizes of a shape being traced."""
    if not any(torch.is_tensor(number) for number in numbers):
        return torch.tensor(numbers, device=device)
    return torch.stack([torch.as_tensor(number, device=device) for number in numbers])


def clip(boxes: Tensor, image_shape: Tensor) -> Tensor:
    """Boxes limited to their images.

    Args:
        boxes: float32 (N, ..., 4), corners.
        image_shape: int64 (N, 2), height and width before padding.

    Returns:
        float32 (N, ..., 4).
    """
    sides = torch.tensor([1, 0, 1, 0], device=boxes.device)
    limit = image_shape.to(boxes.dtype).index_select(1, sides)
    limit = limit[:, None] if boxes.dim() == 3 else limit[:, None, None]
    return torch.minimum(boxes.clamp(min=0), limit)


def with_group_offsets(boxes: Tensor, groups: Tensor, used: Tensor) -> Tensor:
    """Boxes moved so that those of different groups do not overlap, as mmcv's ``batched_nms`` does.

    Suppression of the moved boxes would be that of each group by itself, were it not for rounding:
    far from 0, float32 keeps fewer digits of a coordinate (1/128 px at 65,536 px, where class 79 of
    an image 1,333 px wide is moved), and PyTorch compares overlaps of boxes rounded like that.

    Args:
        boxes: float32 (N, P, 4), corners.
        groups: int64 (N, P), levels or classes.
        used: bool (N, P), which boxes take part: the largest coordinate among them is the step.

    Returns:
        float32 (N, P, 4).
    """
    largest = torch.where(used, boxes.amax(dim=2), 0.0).amax(dim=1)
    return boxes + (groups.to(boxes.dtype) * (largest + 1)[:, None])[..., None]


def shared_length(start: Tensor, end: Tensor) -> Tensor:
    """Common length of all pairs of intervals: float32 (N, P) and (N, P) to (N, P, P)."""
    first = torch.maximum(start[:, :, None], start[:, None])
    last = torch.minimum(end[:, :, None], end[:, None])
    return (last - first).clamp(min=0.0)


def shared_between(ours: Tensor, theirs: Tensor) -> Tensor:
    """Areas that boxes share: float32 (N, K, 4) and (N, P, 4) to (N, K, P), in square pixels."""
    first = torch.maximum(ours[:, :, None, :2], theirs[:, None, :, :2])
    last = torch.minimum(ours[:, :, None, 2:], theirs[:, None, :, 2:])
    sides = (last - first).clamp(min=0.0)
    return sides[..., 0] * sides[..., 1]


def decode(coder: Any, priors: Tensor, predictions: Tensor, image_shape: Tensor) -> Tensor:
    """Box predictions as corners, clipped where the coder clips.

    Args:
        coder: one of mmdet's ``DeltaXYWHBBoxCoder``, ``LegacyDeltaXYWHBBoxCoder``,
            ``TBLRBBoxCoder``, ``DistancePointBBoxCoder``.
        priors: float32 (N, ..., 4) or (N, ..., 2).
        predictions: float32 (N, ..., 4), as the head's regression branch gives them.
        image_shape: int64 (N, 2).

    Returns:
        float32 (N, ..., 4) in network-input pixels.

    Raises:
        UnsupportedPart: another coder.
    """
    boxes = corners(coder, priors, predictions)
    if not getattr(coder, "clip_border", True):
        return boxes
    # mmdet 1.x counted pixels: the last one's coordinate is the border.
    last = 1 if require_coder(coder) == _LEGACY else 0
    return clip(boxes, image_shape - last if last else image_shape)


def corners(coder: Any, priors: Tensor, predictions: Tensor, **more: float) -> Tensor:
    """Box predictions as corners that are not clipped.

    Args:
        coder: see :func:`decode`.
        priors: float32 (N, ..., 4) or (N, ..., 2).
        predictions: float32 (N, ..., 4).
        more: ``min_ratio`` of a ``DeltaXYWHBBoxCoder``: how much smaller, or larger, than its
            prior's a side may be; 16 / 1000 where nobody says.

    Returns:
        float32 (N, ..., 4) in network-input pixels.

    Raises:
        UnsupportedPart: another coder.
    """
    return _DECODERS[require_coder(coder)](coder, priors, predictions, **more)


def require_coder(coder: Any) -> str:
    """Which of the lowered box coders a coder is, as a key of ``_DECODERS``.

    Raises:
        UnsupportedPart: none of them, or a subclass with a decoding of its own.
    """
    why = objection(coder, _DECODERS, ("decode",))
    if why is not None:
        raise UnsupportedPart(f"the box coder {type(coder).__name__} has no lowering: {why}")
    base = nearest(type(coder), _DECODERS)
    return next(kind for kind in _DECODERS if resolve(kind) is base)


def require_generator(generator: Any) -> None:
    """Refuses a prior generator that lays out its grid otherwise than mmdet's do.

    Raises:
        UnsupportedPart: it names the generator.
    """
    why = objection(generator, _GENERATORS, ("grid_priors", "single_level_grid_priors"))
    if why is not None:
        raise UnsupportedPart(
            f"the prior generator {type(generator).__name__} has no lowering: {why}"
        )


def _decode_delta(
    coder: Any, priors: Tensor, deltas: Tensor, min_ratio: float = 16 / 1000, pixel: int = 0
) -> Tensor:
    """(dx, dy, dw, dh) of Girshick et al., https://arxiv.org/abs/1311.2524, appendix C.

    ``pixel`` is what mmdet 1.x added to sides, which it counted in pixels.
    """
    if any(std != 1 for std in coder.stds):
        deltas = deltas * torch.tensor(coder.stds, dtype=deltas.dtype, device=deltas.device)
    if any(coder.means):
        deltas = deltas + torch.tensor(coder.means, dtype=deltas.dtype, device=deltas.device)
    shift, stretch = deltas[..., :2], deltas[..., 2:]
    centre = (priors[..., :2] + priors[..., 2:]) * 0.5
    size = priors[..., 2:] - priors[..., :2]
    size = size + pixel if pixel else size
    shift = size * shift
    bound = abs(math.log(min_ratio))
    if getattr(coder, "add_ctr_clamp", False):
        shift = shift.clamp(min=-coder.ctr_clamp, max=coder.ctr_clamp)
        stretch = stretch.clamp(max=bound)
    else:
        stretch = stretch.clamp(min=-bound, max=bound)
    centre = centre + shift
    size = size * stretch.exp()
    return torch.cat([centre - size * 0.5, centre + size * 0.5], dim=-1)


def _decode_legacy(coder: Any, priors: Tensor, deltas: Tensor) -> Tensor:
    """The same as mmdet 1.x had it: sides are one pixel longer than their corners are apart."""
    return _decode_delta(coder, priors, deltas, pixel=1)


def _decode_tblr(coder: Any, priors: Tensor, distances: Tensor) -> Tensor:
    """Distances to top, bottom, left, right in units of the prior (FSAF, arXiv:1903.00621)."""
    normalizer = coder.normalizer
    if not isinstance(normalizer, float):
        normalizer = torch.tensor(normalizer, dtype=distances.dtype, device=distances.device)
    distances = distances * normalizer
    centre = (priors[..., :2] + priors[..., 2:]) / 2
    size = priors[..., 2:] - priors[..., :2]
    vertical = size[..., 1:] * distances[..., :2]
    horizontal = size[..., :1] * distances[..., 2:]
    return torch.cat(
        [
            centre[..., :1] - horizontal[..., :1],
            centre[..., 1:] - vertical[..., :1],
            centre[..., :1] + horizontal[..., 1:],
            centre[..., 1:] + vertical[..., 1:],
        ],
        dim=-1,
    )


def _decode_distance(_: Any, points: Tensor, distances: Tensor) -> Tensor:
    """Distances to left, top, right, bottom in pixels (FCOS, arXiv:1904.01355)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


_LEGACY = "mmdet.core.bbox.coder.LegacyDeltaXYWHBBoxCoder"
_DECODERS: dict[str, Callable[..., Tensor]] = {
    "mmdet.core.bbox.coder.DeltaXYWHBBoxCoder": _decode_delta,
    _LEGACY: _decode_legacy,
    "mmdet.core.bbox.coder.TBLRBBoxCoder": _decode_tblr,
    "mmdet.core.bbox.coder.DistancePointBBoxCoder": _decode_distance,
}
_GENERATORS = (
    "mmdet.core.anchor.AnchorGenerator",
    "mmdet.core.anchor.MlvlPointGenerator",
)
