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
    return any((part or {}).get("mask_head") for part in (model, model.get("roi_head")))


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
