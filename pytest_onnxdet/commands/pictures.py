"""Paints detections on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.commands.common import CommandError
from pytest_onnxdet.data.detections import Detections

Picture = NDArray[np.uint8]
_BAR = 24  # height of a caption, px
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def paint(
    image: Picture, detections: Detections, classes: Sequence[str], threshold: float = 0.3
) -> Picture:
    """A copy of an image with boxes, masks, class names and scores.

    Args:
        image: uint8 (H, W, 3), BGR.
        detections: in pixels of that image.
        classes: names in label order; a label beyond them is painted as a number.
        threshold: only detections that score at least this.
    """
    painted = image.copy()
    for k in np.flatnonzero(detections.scores >= threshold)[::-1]:
        label = int(detections.labels[k])
        colour = _colour(label)
        if detections.masks is not None and detections.masks[k].shape == image.shape[:2]:
            where = detections.masks[k]
            painted[where] = (painted[where] * 0.5 + np.array(colour) * 0.5).astype(np.uint8)
        x1, y1, x2, y2 = (round(float(v)) for v in detections.boxes[k])
        cv2.rectangle(painted, (x1, y1), (x2, y2), colour, 1)
        name = classes[label] if 0 <= label < len(classes) else str(label)
        text = f"{name} {detections.scores[k]:.2f}"
        cv2.putText(painted, text, (x1, max(8, y1 - 2)), _FONT, 0.35, colour, 1, cv2.LINE_AA)
    return painted


def beside(pictures: Sequence[tuple[str, Picture]]) -> Picture:
    """Pictures of one size side by side, each under its caption."""
    columns = []
    for caption, picture in pictures:
        bar = np.full((_BAR, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(bar, caption, (4, _BAR - 8), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.vstack([bar, picture]))
    return np.hstack(columns)


def save(path: Path, picture: Picture) -> None:
    """Write a picture; its format is that of the file's suffix.

    Raises:
        CommandError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), picture)
    except (OSError, cv2.error) as error:
        raise CommandError(f"{path}: cannot be written: {error}") from error
    if not written:
        raise CommandError(f"{path}: cannot be written: choose another folder")


def _colour(label: int) -> tuple[int, int, int]:
    """A colour (BGR) for each class, distinct for neighbouring labels."""
    hue = (label * 67) % 180
    pixel = np.array([[[hue, 220, 230]]], np.uint8)
    blue, green, red = (int(v) for v in cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])
    return blue, green, red
