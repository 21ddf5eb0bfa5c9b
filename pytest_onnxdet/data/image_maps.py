"""Masks that are maps of the whole image, where a detector pools no regions.

SOLO, SOLOv2, YOLACT and Mask2Former predict an instance's mask as a map of the network's input, at
a stride. mmdet makes the mask of the original image of it: it enlarges the map to the input's
size, cuts off the padding, resizes what is left to the original size, and compares with a
threshold. :class:`ImageMaps` says how a graph's ``masks`` are meant, :class:`Frame` how those of
one image lie over it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The name by which a graph's metadata and its exporter's record say that masks are such maps.
IMAGE_MAPS_NAME = "image_maps"
#: Beyond which a map's cells do not matter to a pixel: interpolation looks at its neighbours.
_MARGIN = 1
#: By how much rounding may lift an interpolated value above the cells that it comes of.
_ROUNDING = 1e-6

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ImageMaps:
    """How a graph's ``masks`` float32 (N, K, h, w), maps of the input, become masks.

    Attributes:
        enlarged: by which whole factor maps are enlarged before padding is cut off; 0: to the
            input's size.
        cropped: whether padding is cut off. Where it is not, a map is resized to the original size
            as it is, padding and all, and ``enlarged`` is not read.
        threshold: a pixel belongs to its mask where its value is above this.
        logits: whether the maps hold logits and not probabilities. They are interpolated as they
            are, and ``threshold`` is one, too.
        boxed: whether a detection's box is that of its mask: the first and one past the last column
            and row of the original image that have a pixel; the graph's boxes are all 0 then.
        weighted: whether a detection's score is multiplied by the mean probability of its mask's
            pixels at the original size, as MaskFormer's is (arXiv:2107.06278, section 3.4).
    """

    enlarged: int = 0
    cropped: bool = True
    threshold: float = 0.5
    logits: bool = False
    boxed: bool = False
    weighted: bool = False

    def frame(self, size: Sequence[int], input_size: Sequence[int], image: Sequence[int]) -> Frame:
        """How the maps of one image lie over it.

        Args:
            size: h and w of a map.
            input_size: H and W of the network's input.
            image: height and width of the image in it, before padding.
        """
        own = int(size[0]), int(size[1])
        if not self.cropped:
            return Frame(own, own, self)
        height, width = (
            (own[0] * self.enlarged, own[1] * self.enlarged)
            if self.enlarged
            else (int(input_size[0]), int(input_size[1]))
        )
        inner = min(int(image[0]), height), min(int(image[1]), width)
        return Frame((height, width), inner, self)

    def text(self) -> str:
        """As one line of JSON, for a graph's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def read(cls, value: str | Mapping[str, Any] | None) -> ImageMaps | None:
        """The inverse of :meth:`text`; of nothing it is None.

        Raises:
            ValueError: a text that is none, or of another version.
        """
        if value is None:
            return None
        try:
            return cls(**(json.loads(value) if isinstance(value, str) else value))
        except TypeError as error:
            raise ValueError(f"{IMAGE_MAPS_NAME} is {value!r}: {error}") from error


def image_maps(info: Mapping[str, Any]) -> ImageMaps | None:
    """What a graph's record says of its masks; None: they are of regions, or there are none.

    Args:
        info: :attr:`Artifact.info`.
    """
    return ImageMaps.read(info.get(IMAGE_MAPS_NAME))


@dataclass(frozen=True)
class Frame:
    """How one image's maps lie over it.

    Attributes:
        enlarged: H and W to which they are enlarged.
        image: height and width of what is kept of that, from the top left.
        maps: what the values mean.
    """

    enlarged: tuple[int, int]
    image: tuple[int, int]
    maps: ImageMaps

    def paste(
        self, maps: Floats, size: Sequence[int], threshold: float | None = None
    ) -> NDArray[np.bool_]:
        """Masks of the original image.

        Args:
            maps: float32 (K, h, w).
            size: height and width of the original image.
            threshold: another one than the frame's.

        Returns:
            bool (K, height, width).
        """
        limit = self.maps.threshold if threshold is None else threshold
        masks = np.zeros((len(maps), int(size[0]), int(size[1])), dtype=bool)
        for k, one in enumerate(maps):
            window = self._window(one, size, limit)
            if window is not None:
                masks[k, window[0], window[1]] = self._values(one, size, window) > limit
        return masks

    def certainty(
        self, maps: Floats, size: Sequence[int], threshold: float | None = None
    ) -> Floats:
        """The mean probability of each mask's pixels at the original size; 0 of an empty one.

        Args:
            maps: float32 (K, h, w).
            size: height and width of the original image.
            threshold: another one than the frame's.

        Returns:
            float32 (K,). As in mmdet, 1e-6 is added to the count of pixels.
        """
        limit = self.maps.threshold if threshold is None else threshold
        means = np.zeros(len(maps), np.float32)
        for k, one in enumerate(maps):
            window = self._window(one, size, limit)
            if window is None:
                continue
            values = self._values(one, size, window)
            values = values[values > limit].astype(np.float64)
            shares = 1 / (1 + np.exp(-values)) if self.maps.logits else values
            means[k] = shares.sum() / (len(values) + 1e-6)
        return means

    def _window(self, one: Floats, size: Sequence[int], limit: float) -> tuple[slice, slice] | None:
        """The rows and columns of the original image in which a pixel may be above a limit."""
        cells = one > limit - _ROUNDING * max(1.0, abs(limit))
        slices = []
        for axis in (0, 1):
            some = np.flatnonzero(cells.any(axis=1 - axis))
            if not len(some):
                return None
            # In units of the original image's pixels; one more on either side for rounding.
            scale = self.enlarged[axis] / one.shape[axis]
            scale *= int(size[axis]) / self.image[axis]
            reach = _MARGIN + 1 + int(size[axis]) / self.image[axis]
            first = int((some[0] - _MARGIN) * scale - reach)
            last = int((some[-1] + 1 + _MARGIN) * scale + reach) + 1
            slices.append(slice(max(0, first), min(int(size[axis]), last)))
            if slices[-1].start >= slices[-1].stop:  # all of it lies in the padding
                return None
        return slices[0], slices[1]

    def _values(self, one: Floats, size: Sequence[int], window: tuple[slice, slice]) -> Floats:
        """A map's values at the pixels of a window of the original image."""
        last = [_axis(self.image[a], int(size[a]), window[a]) for a in (0, 1)]
        if self.enlarged == one.shape:
            return _interpolated(one, *last)
        # Of the enlarged map only the pixels that the window's come of.
        first = []
        for axis, (low, high, _, _) in enumerate(last):
            needed = slice(int(low.min()), int(high.max()) + 1)
            low -= needed.start
            high -= needed.start
            first.append(_axis(one.shape[axis], self.enlarged[axis], needed))
        return _interpolated(_interpolated(one, *first), *last)


def boxes_of(masks: NDArray[np.bool_]) -> Floats:
    """The smallest boxes around masks bool (K, H, W): float32 (K, 4), 0 of an empty one."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


_Axis = tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]


def _axis(cells: int, pixels: int, window: slice) -> _Axis:
    """Along one axis, the two cells that each pixel of a window is interpolated of, and weights.

    As PyTorch's ``interpolate(mode="bilinear", align_corners=False)`` has them: a pixel's centre
    lies at (pixel + 0.5) * cells / pixels - 0.5, and not before the first cell's.
    """
    scale = np.float32(cells) / np.float32(pixels)
    centres = np.arange(window.start, window.stop).astype(np.float32) + np.float32(0.5)
    at = np.maximum((centres.astype(np.float64) * scale - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(at.astype(np.int64), cells - 1)
    part: Floats = np.clip(at - low.astype(np.float32), np.float32(0), np.float32(1))
    return low, np.minimum(low + 1, cells - 1), np.float32(1) - part, part


def _interpolated(values: Floats, down: _Axis, across: _Axis) -> Floats:
    """Bilinear values of cells (h, w) at all crossings of two axes, with PyTorch's fused sums."""
    left, right, from_left, from_right = across
    top, bottom, from_top, from_bottom = down
    first = int(top.min())
    used = values[first : int(bottom.max()) + 1]
    rows = _fused(used[:, left], from_left, used[:, right] * from_right)
    lower = rows[bottom - first] * from_bottom[:, None]
    return _fused(rows[top - first], from_top[:, None], lower)


def _fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c with one rounding to float32."""
    result: Floats = (a.astype(np.float64) * b + c).astype(np.float32)
    return result
