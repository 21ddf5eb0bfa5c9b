"""Drawn scenes of circles, squares and triangles: what the mini detectors learn and are tried on.

A scene is a function of (seed, index) alone. Sizes vary and are mostly not multiples of 32,
objects run from small to large and partly hide one another, and some scenes are empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

CLASSES = ("circle", "square", "triangle")
TRAIN_SEED = 1
VAL_SEED = 2
MIN_SIDE, MAX_SIDE = 90, 200
MAX_OBJECTS = 6
EMPTY_FRACTION = 0.06
# Where shapes lie over one another, at least this part of each stays visible.
MIN_VISIBLE = 0.6
# A crowd: more shapes than any mini gives detections of, the largest beneath, on a scene of the
# shape that the minis' test pipelines make the most of.
CROWD_SIZE = (160, 200)
CROWD_OBJECTS = 300
CROWD_SIDES = (40.0, 8.0)
_SHIFT = 4  # cv2 draws with 1/16 px


@dataclass(frozen=True)
class Scene:
    """An image and its objects.

    Attributes:
        image: uint8 (h, w, 3), BGR.
        boxes: float32 (n, 4), x1 y1 x2 y2 around each whole shape, pixels.
        labels: int64 (n,), index into ``CLASSES``.
        polygons: n outlines, float32 (p, 2), of the whole shape, hidden parts included: its
            box and its mask then agree.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    polygons: tuple[NDArray[np.float32], ...]


def draw_scene(seed: int, index: int, empty: bool | None = None) -> Scene:
    """Draw scene ``index`` of the split ``seed``.

    Args:
        seed: the split.
        index: which scene of the split.
        empty: True: background only; False: at least one object; None: by chance.
    """
    rng = np.random.default_rng([seed, index])
    height, width = (int(v) for v in rng.integers(MIN_SIDE, MAX_SIDE + 1, size=2))
    if empty is None:
        empty = bool(rng.random() < EMPTY_FRACTION)
    image = _background(rng, height, width)
    polygons: list[NDArray[np.float32]] = []
    labels: list[int] = []
    count = 0 if empty else int(rng.integers(1, MAX_OBJECTS + 1))
    visible: list[NDArray[np.bool_]] = []
    areas: list[int] = []
    for _ in range(count * 6):
        if len(polygons) == count:
            break
        label = int(rng.integers(len(CLASSES)))
        polygon = _outline(rng, label, height, width)
        mask = _filled(polygon, height, width)
        left = [v & ~mask for v in visible]
        if any(v.sum() < MIN_VISIBLE * a for v, a in zip(left, areas, strict=True)):
            continue
        visible = [*left, mask]
        areas.append(int(mask.sum()))
        polygons.append(polygon)
        labels.append(label)
        _paint(rng, image, polygon)
    boxes = np.array([[*p.min(0), *p.max(0)] for p in polygons], np.float32).reshape(-1, 4)
    return Scene(image, boxes, np.array(labels, np.int64), tuple(polygons))


def draw_crowd(seed: int, index: int) -> Scene:
    """Draw crowd ``index`` of the split ``seed``: shapes upon shapes, hidden ones among them.

    Ordinary scenes hold so few objects that no detector has more candidates than its test_cfg
    keeps. In a crowd it has.
    """
    rng = np.random.default_rng([seed, index, CROWD_OBJECTS])
    height, width = CROWD_SIZE
    image = _background(rng, height, width)
    largest, smallest = CROWD_SIDES
    polygons: list[NDArray[np.float32]] = []
    labels = rng.integers(len(CLASSES), size=CROWD_OBJECTS)
    for label, size in zip(labels, np.geomspace(largest, smallest, CROWD_OBJECTS), strict=True):
        polygon = _shape(rng, int(label), float(size), height, width)
        polygons.append(polygon)
        _paint(rng, image, polygon)
    boxes = np.array([[*p.min(0), *p.max(0)] for p in polygons], np.float32)
    return Scene(image, boxes, labels.astype(np.int64), tuple(polygons))


def _background(rng: Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Stripes and soft blobs between two near colours, few levels so that PNGs stay small."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 40)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    coarse = rng.uniform(-1, 1, size=(5, 5))
    blobs = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    level = rng.uniform(0.1, 0.5) * wave + blobs
    level = np.round((level - level.min()) / (np.ptp(level) + 1e-9) * 9) / 9
    base = rng.uniform(50, 205, size=3)
    swing = rng.uniform(-45, 45, size=3)
    colour = base + (level[..., None] - 0.5) * swing
    return np.clip(np.round(colour), 0, 255).astype(np.uint8)


def _outline(rng: Generator, label: int, height: int, width: int) -> NDArray[np.float32]:
    """A shape wholly inside the image: float32 (p, 2) on a grid of 1/16 px."""
    largest = 0.62 * min(height, width)
    # Uniform in the logarithm: as many small ones as large ones.
    size = float(np.exp(rng.uniform(np.log(20.0), np.log(largest))))
    return _shape(rng, label, size, height, width)


def _shape(rng: Generator, label: int, size: float, height: int, width: int) -> NDArray[np.float32]:
    """A shape of about this size in pixels, wholly inside the image: float32 (p, 2)."""
    turn = rng.uniform(-0.2, 0.2)
    if label == 0:
        angles = np.linspace(0, 2 * np.pi, 33)[:-1]
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * size / 2
    else:
        corners = 4 if label == 1 else 3
        first = np.pi / 4 if label == 1 else -np.pi / 2 + np.pi * int(rng.integers(2))
        angles = first + turn + np.arange(corners) * 2 * np.pi / corners
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * size * 0.62
    low, high = points.min(0), points.max(0)
    room = np.array([width - 1, height - 1]) - (high - low)
    points = points - low + rng.uniform(0, 1, size=2) * np.maximum(room, 0)
    return (np.round(points * 2**_SHIFT) / 2**_SHIFT).astype(np.float32)


def _fixed(polygon: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.round(polygon * 2**_SHIFT).astype(np.int32)


def _filled(polygon: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [_fixed(polygon)], (1.0,), cv2.LINE_8, _SHIFT)
    return canvas.astype(bool)


def _paint(rng: Generator, image: NDArray[np.uint8], polygon: NDArray[np.float32]) -> None:
    """Fill the shape in place, in a colour that stands off from what lies around it."""
    x1, y1 = polygon.min(0).astype(int)
    x2, y2 = np.ceil(polygon.max(0)).astype(int) + 1
    around = image[y1:y2, x1:x2].reshape(-1, 3).mean(0)
    for _ in range(20):
        colour = rng.uniform(0, 255, size=3)
        if np.abs(colour - around).max() > 80:
            break
    fill = tuple(float(round(v)) for v in colour)
    rim = tuple(float(round(v * 0.3)) for v in colour)
    cv2.fillPoly(image, [_fixed(polygon)], fill, cv2.LINE_AA, _SHIFT)
    cv2.polylines(image, [_fixed(polygon)], True, rim, 2, cv2.LINE_AA, _SHIFT)
