"""The reference in float64, and in float32 that is rounded in other ways."""

from __future__ import annotations

import contextlib
import copy
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.reference.ties.replace import overridden

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.reference.noise import Arrays

#: Of mmcv's operators those whose CPU code takes float32 alone. They select, and do no arithmetic
#: that a result would keep: in float64 they are asked in float32 and the rest goes on in float64.
SELECTING = ("nms", "nms_match")
#: How often the noise of float32 is measured on images that are moved by a step of float32.
NUDGES = 2


class Float64:
    """A detector's copy in float64, run like the detector. Use it as a context manager.

    Within the block torch's default type is float64, which positional encodings and grids follow.

    Args:
        reference: its detector is copied and not changed.
    """

    def __init__(self, reference: Reference) -> None:
        double = copy.deepcopy(reference.detector).double()
        self._reference = Reference(double, reference.families)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Float64:
        before = torch.get_default_dtype()
        self._stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(torch.float64)
        self._stack.enter_context(_selecting_in_float32())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def raw(self, batch: Batch) -> Arrays:
        """The heads' outputs in float64, by the names of :meth:`Reference.raw`."""
        return self._reference.raw(_double(batch))

    def run(self, batch: Batch) -> list[Detections]:
        """The detections: computed in float64, and then rounded to float32 once."""
        heads: list[Any] = [
            module
            for module in self._reference.detector.modules()
            if hasattr(module, "get_seg_masks")
        ]
        points: list[Any] = [
            module
            for module in self._reference.detector.modules()
            if hasattr(module, "get_roi_rel_points_test")
        ]
        with contextlib.ExitStack() as stack:
            for head in heads:
                stack.enter_context(overridden(head, get_seg_masks=_pasting_in_float32(head)))
            for head in points:
                chosen = _points_in_float64(head)
                stack.enter_context(overridden(head, get_roi_rel_points_test=chosen))
            return self._reference.run(_double(batch))


def _pasting_in_float32(head: Any) -> Any:
    """A mask head's ``get_seg_masks`` for float64: mmdet pastes on a grid of float32 positions.

    The probabilities are what is asked for; pasted pixels are their image.
    """
    original = head.get_seg_masks

    def get_seg_masks(*arguments: Any, **named: Any) -> Any:
        return original(
            *(_single(value) for value in arguments),
            **{key: _single(value) for key, value in named.items()},
        )

    return get_seg_masks


def _points_in_float64(head: Any) -> Any:
    """A point head's ``get_roi_rel_points_test`` for float64: mmdet gives float32 positions.

    The points are mmdet's choice, their positions the centres of the same cells.
    """
    original = head.get_roi_rel_points_test

    def get_roi_rel_points_test(mask_pred: Tensor, *rest: Any, **named: Any) -> Any:
        index, _ = original(mask_pred, *rest, **named)
        height, width = mask_pred.shape[-2:]
        x = ((index % width).double() + 0.5) / width
        y = (torch.div(index, width, rounding_mode="floor").double() + 0.5) / height
        return index, torch.stack([x, y], dim=2)

    return get_roi_rel_points_test


def _double(batch: Batch) -> Batch:
    return replace(batch, images=batch.images.astype(np.float64))


def samples(reference: Reference, batch: Batch, raw: Arrays) -> Iterator[Arrays]:
    """PyTorch's float32 raw outputs of one batch, rounded in several ways.

    Sums are taken in another order; and every pixel is moved by one step of float32, either way, as
    a runtime moves it whose first operation rounds otherwise. Where a network amplifies rounding,
    as DETR's decoder does in single queries, that shows it, and other orders of sums alone do not:
    of one mini's boxes the worst was 3.2e-7 from float64 in five orders, and 2.6e-6 so.

    Args:
        reference: the detector.
        batch: the images.
        raw: its raw outputs as the reference computes them; they are the first.
    """
    yield raw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it speaks of TF32 on GPUs that are not meant
        with torch.backends.mkldnn.flags(enabled=False):
            other = reference.raw(batch)
    yield other
    for seed in range(NUDGES):
        yield reference.raw(replace(batch, images=_nudged(batch.images, seed)))


def _nudged(images: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Every pixel one step of float32 up or down; 0, which padding is, stays."""
    up = np.random.default_rng(seed).random(images.shape, np.float32) < 0.5
    moved = np.nextafter(images, np.where(up, np.float32(np.inf), np.float32(-np.inf)))
    return np.where(images == 0, images, moved)


@contextlib.contextmanager
def _selecting_in_float32() -> Iterator[None]:
    """For the duration of the block mmcv's suppression takes float64."""
    module: Any = importlib.import_module("mmcv.ops.nms")
    original = module.ext_module
    module.ext_module = _Selecting(original)
    try:
        yield
    finally:
        module.ext_module = original


class _Selecting:
    """mmcv's compiled operators, those of :data:`SELECTING` asked in float32."""

    def __init__(self, operators: Any) -> None:
        self._operators = operators

    def __getattr__(self, name: str) -> Any:
        operator = getattr(self._operators, name)
        if name == "softnms":
            return lambda *arguments, **named: _soft_nms(operator, *arguments, **named)
        if name not in SELECTING:
            return operator
        return lambda *arguments, **named: operator(
            *(_single(value) for value in arguments),
            **{key: _single(value) for key, value in named.items()},
        )


def _soft_nms(operator: Any, boxes: Tensor, scores: Tensor, dets: Tensor, **named: Any) -> Any:
    """Soft-NMS, which also writes boxes and lowered scores, into ``dets`` (K, 5)."""
    written = dets.float()
    keep = operator(boxes.float(), scores.float(), written, **named)
    dets.copy_(written)
    return keep


def _single(value: Any) -> Any:
    is_double = isinstance(value, Tensor) and value.dtype == torch.float64
    return value.float() if is_double else value
