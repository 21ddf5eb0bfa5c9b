"""Paints detections on images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.commands.common import CommandError
from pytest_onnxdet.data.datasets import Dataset
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


def places(folder: Path, sources: Sequence[Path], root: Path) -> list[Path]:
    """Where the pictures of a data set go: below ``folder`` as the images are below ``root``.

    What is outside of ``root`` comes below ``_up``, once for each folder upwards. Two images never
    share a place, on a disk that takes A for a neither; a format that cannot be written is PNG.

    Args:
        folder: where all of them go.
        sources: the images.
        root: the data set's folder of images.

    Raises:
        CommandError: ``folder`` cannot be used, or a picture would come over an image of the data
            set, or out of the folder by a link.
    """
    _usable(folder)
    chosen: list[Path] = []
    taken: set[str] = set()
    for source in sources:
        below = _below(source, root)
        place, number = below, 1
        while str(place).casefold() in taken:
            number += 1
            place = below.with_name(f"{below.stem}-{number}{below.suffix}")
        taken.add(str(place).casefold())
        chosen.append(folder / place)
    own = {_identity(source) for source in sources if source.exists()}
    inside = folder.resolve()
    for place in chosen:
        if place.exists() and _identity(place) in own:
            raise CommandError(
                f"--show-dir: {place} is an image of the data set and would be painted over: "
                "choose another folder"
            )
        if not place.resolve().is_relative_to(inside):
            raise CommandError(
                f"--show-dir: {place} leads out of {folder}: remove the link, or choose another "
                "folder"
            )
    return chosen


def places_of(folder: str | None, data: Dataset) -> list[Path]:
    """The places for ``--show-dir``, see `places`; none where it was not asked for."""
    if not folder:
        return []
    if "://" in folder:
        raise CommandError(f"--show-dir: {folder} is an address: give a folder of this machine")
    sources = [data.path(index) for index in range(len(data))]
    return places(Path(folder), sources, data.spec.images)


def _usable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"--show-dir: {folder} cannot be made ({error.strerror}): choose another folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise CommandError(f"--show-dir: {folder} cannot be written to: choose another folder")


def _below(source: Path, root: Path) -> Path:
    try:
        relative = Path(os.path.relpath(source, root))
    except ValueError:  # another drive
        relative = source.relative_to(source.anchor)
    parts = ["_up" if part == ".." else part for part in relative.parts]
    name = parts[-1]
    try:
        known = bool(cv2.haveImageWriter(name))
    except cv2.error:  # no suffix
        known = False
    return Path(*parts[:-1], name if known else f"{name}.png")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def save(path: Path, picture: Picture) -> None:
    """Write a picture; its format is that of the file's suffix.

    Raises:
        CommandError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written, encoded = cv2.imencode(path.suffix, picture)
        if written:
            path.write_bytes(encoded.tobytes())  # OpenCV's own writing knows no names beyond ASCII
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
