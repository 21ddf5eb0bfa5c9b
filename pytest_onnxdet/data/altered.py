"""Steps of a pipeline that change images as they are read, the same way at every reading."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Enlarged:
    """A pipeline step that makes images larger, as if they had been read so."""

    times: int  # as wide and as high

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """An image's results with the image enlarged, and its shapes."""
        import cv2

        image = cv2.resize(results["img"], None, fx=self.times, fy=self.times)
        return {**results, "img": image, "img_shape": image.shape, "ori_shape": image.shape}


@dataclass(frozen=True)
class Grain:
    """A pipeline step that adds normal noise to grey levels, seeded by the image's file name."""

    deviation: float  # grey levels

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """An image's results with noise on the image."""
        image = results["img"]
        seed = zlib.crc32(results["img_info"]["filename"].encode())
        noise = np.random.default_rng(seed).normal(0.0, self.deviation, image.shape)
        grained = np.clip(np.round(image + noise), 0, 255).astype(image.dtype)
        return {**results, "img": grained}
