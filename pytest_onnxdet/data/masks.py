"""Masks as COCO's run lengths: 200 bytes where a full-size bool mask takes 300 kB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A pixel belongs to a mask from this probability on, where a config does not say otherwise.
THRESHOLD = 0.5
#: Where a config says it, and the name by which a graph's metadata does.
THRESHOLD_KEY, THRESHOLD_NAME = "model.test_cfg.rcnn.mask_thr_binary", "mask_thr_binary"


def mask_threshold(model: Mapping[str, Any]) -> float:
    """From which probability on a pixel belongs to a mask, as a config's ``model`` says.

    Raises:
        ValueError: it is negative, which makes mmdet give soft masks, or no number below 1.
    """
    test = model.get("test_cfg") or {}
    value = (test.get("rcnn") or test).get(THRESHOLD_NAME, THRESHOLD)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{THRESHOLD_KEY} is {value!r}: give a number from 0 to 1")
    if value < 0:
        raise ValueError(
            f"{THRESHOLD_KEY} is {value:g}: a negative one asks mmdet for soft masks, grey levels "
            "in place of pixels, which are not supported here: give a number from 0 to 1"
        )
    if not value < 1:  # so is NaN
        raise ValueError(
            f"{THRESHOLD_KEY} is {value:g}, which no pixel reaches: all masks would be empty: give "
            "a number below 1"
        )
    return float(value)


def has_masks(model: Mapping[str, Any]) -> bool:
    """Whether a config's ``model`` finds masks."""
    parts = (model, model.get("roi_head"))
    return any((part or {}).get("mask_head") for part in parts) or bool(
        model.get("panoptic_fusion_head")
    )


class RunLengthMasks:
    """The masks of one image, decoded one at a time.

    Args:
        encoded: a COCO run-length encoding for each mask, ``{"size": [H, W], "counts": bytes}``;
            all of one size.

    Raises:
        ValueError: they are of several sizes.
    """

    def __init__(self, encoded: Sequence[dict[str, Any]]) -> None:
        if len({tuple(encoding["size"]) for encoding in encoded}) > 1:
            raise ValueError("the masks of an image are of several sizes")
        # Joined: a dict, a list and a bytes object for each mask would take four times as much.
        self._size = list(encoded[0]["size"]) if encoded else [0, 0]
        self._runs = b"".join(encoding["counts"] for encoding in encoded)
        self._ends = np.cumsum([len(encoding["counts"]) for encoding in encoded], dtype=np.int32)

    @classmethod
    def encode(cls, masks: NDArray[np.bool_]) -> RunLengthMasks:
        """From bool (K, H, W)."""
        return cls([encode(mask) for mask in masks])

    @property
    def encoded(self) -> list[dict[str, Any]]:
        """The encodings, one for each mask."""
        return [self._encoding(index) for index in range(len(self))]

    def _encoding(self, index: int) -> dict[str, Any]:
        start = self._ends[index - 1] if index else 0
        return {"size": self._size, "counts": self._runs[start : self._ends[index]]}

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """Mask ``index``, bool (H, W)."""
        from pycocotools import mask as coco_mask

        if not 0 <= index < len(self):
            raise IndexError(f"mask {index} of {len(self)}")
        decoded: NDArray[np.bool_] = coco_mask.decode(self._encoding(index)).astype(bool)
        return decoded

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[index] for index in range(len(self)))


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A bool (H, W) mask as COCO's run-length encoding."""
    from pycocotools import mask as coco_mask

    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle


def paste_masks(
    probs: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: Sequence[int],
    threshold: float = THRESHOLD,
) -> NDArray[np.bool_]:
    """Pastes per-RoI probabilities into images, as mmdet pastes them on a CPU.

    A pixel's probability is interpolated from the four cells nearest to its centre, the box's own
    grid lying edge to edge in the box; beyond the grid is 0. Arithmetic and its order are those of
    ``_do_paste_mask`` and of PyTorch's ``grid_sample(align_corners=False)`` in float32 with fused
    products and sums, and pixels farther than one from the box are not asked about, so that the
    masks are mmdet's to the bit.

    Args:
        probs: float32 (K, h, w).
        boxes: float32 (K, 4) in pixels of the image that is pasted into.
        size: height and width of that image.
        threshold: a pixel belongs to the mask at this probability or above.

    Returns:
        bool (K, height, width).
    """
    height, width = int(size[0]), int(size[1])
    pasted = np.zeros((len(probs), height, width), dtype=bool)
    inside = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2:] > 0).all(axis=1)
    for k in np.flatnonzero(inside):
        x1, y1, x2, y2 = boxes[k]
        columns, across = _cells(x1, x2, width, probs.shape[2])
        rows, down = _cells(y1, y2, height, probs.shape[1])
        pasted[k, rows, columns] = _interpolated(probs[k], down, across) >= threshold
    return pasted


def _cells(
    low: np.float32, high: np.float32, pixels: int, cells: int
) -> tuple[slice, NDArray[np.float32]]:
    """Along one axis, the pixels around a box, and their centres in units of its cells."""
    first = max(0, int(np.floor(low)) - 1)
    window = slice(first, min(pixels, int(np.ceil(high)) + 1))
    centres = np.arange(window.start, window.stop).astype(np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (centres - low) / (high - low) * np.float32(2) - np.float32(1)
        share[np.isinf(share)] = 0  # a box without extent
        return window, _fused(share + np.float32(1), np.float32(cells / 2), np.float32(-0.5))


def _interpolated(
    grid: NDArray[np.float32], down: NDArray[np.float32], across: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Bilinear values of (h, w) cells at all crossings of two axes, 0 outside: (rows, columns)."""
    height, width = grid.shape
    framed = np.zeros((height + 2, width + 2), np.float32)
    framed[1:-1, 1:-1] = grid

    def split(at: NDArray[np.float32], cells: int) -> tuple[Any, Any, Any, Any]:
        low = np.floor(at)
        part = at - low
        # Where it is not a number, neither is the part, and so the value.
        cell = np.nan_to_num(low, nan=-1.0)
        nearer, farther = (np.clip(cell + step, -1, cells).astype(np.int64) + 1 for step in (0, 1))
        return nearer, farther, np.float32(1) - part, part

    top, bottom, from_top, from_bottom = split(down[:, None], height)
    left, right, from_left, from_right = split(across[None, :], width)
    value: NDArray[np.float32] = framed[top, left] * (from_top * from_left)
    value = _fused(framed[top, right], from_top * from_right, value)
    value = _fused(framed[bottom, left], from_bottom * from_left, value)
    return _fused(framed[bottom, right], from_bottom * from_right, value)


def _fused(a: Any, b: Any, c: Any) -> NDArray[np.float32]:
    """a * b + c with one rounding to float32, as PyTorch's kernels compute it."""
    result: NDArray[np.float32] = (a.astype(np.float64) * b + c).astype(np.float32)
    return result
