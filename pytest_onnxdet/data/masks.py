"""Masks as COCO's run lengths: 200 bytes where a full-size bool mask takes 300 kB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RunLengthMasks:
    """The masks of one image, decoded one at a time.

    Args:
        encoded: a COCO run-length encoding for each mask, ``{"size": [H, W], "counts": bytes}``.
    """

    def __init__(self, encoded: Sequence[dict[str, Any]]) -> None:
        self.encoded = list(encoded)

    @classmethod
    def encode(cls, masks: NDArray[np.bool_]) -> RunLengthMasks:
        """From bool (K, H, W)."""
        return cls([encode(mask) for mask in masks])

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """Mask ``index``, bool (H, W)."""
        from pycocotools import mask as coco_mask

        decoded: NDArray[np.bool_] = coco_mask.decode(self.encoded[index]).astype(bool)
        return decoded

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[index] for index in range(len(self)))


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A bool (H, W) mask as COCO's run-length encoding."""
    from pycocotools import mask as coco_mask

    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle
