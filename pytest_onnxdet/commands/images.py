"""One image at a wanted input size: through the config's own test pipeline, resized to fit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_onnxdet.commands.common import CommandError
from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.data.batches import Batch, DataError, Sample, collate
from pytest_onnxdet.data.datasets import SHAPES
from pytest_onnxdet.data.photographs import require_collected, require_meta, why_unreadable
from pytest_onnxdet.models.pipeline import settings_of_steps

if TYPE_CHECKING:
    import mmcv

#: Two of the drawn scenes that the package ships.
SAMPLE, SECOND = SHAPES / "val" / "069.png", SHAPES / "val" / "053.png"


def readable(path: Path, option: str) -> Path:
    """``path``, which holds an image.

    Raises:
        CommandError: it is missing or no image.
    """
    import cv2

    if kind := no_file(path):
        raise CommandError(f"{option}: {path}: {kind}, not an image: give a PNG or JPEG")
    if not path.is_file():
        raise CommandError(f"{option}: {path}: no such image")
    try:
        image = cv2.imread(str(path))
    except cv2.error:  # more pixels than it takes
        image = None
    if image is None:
        raise CommandError(f"{option}: {path}: cannot be read as an image: give a PNG or JPEG")
    return path


def pair(paths: Sequence[Path]) -> tuple[Path, Path]:
    """Two different images, the first of them to be tried alone: ``paths``, then shipped ones."""
    different = {path.resolve(): path for path in reversed((*paths, SAMPLE, SECOND))}
    first, second, *_ = reversed(different.values())
    return first, second


@dataclass(frozen=True)
class _Spread:
    """A pipeline step that gives a shipped scene the detector's channels, its own ones in turn."""

    channels: int

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        image = results["img"].reshape(*results["img"].shape[:2], -1)
        chosen = [number % image.shape[2] for number in range(self.channels)]
        spread = np.ascontiguousarray(image[..., chosen])
        return {**results, "img": spread, "img_shape": spread.shape, "ori_shape": spread.shape}


def prepare(
    cfg: mmcv.Config,
    path: Path,
    size: tuple[int, int],
    fill: bool = True,
    channels: int | None = None,
) -> Sample:
    """An image through the config's test pipeline at a size of choice.

    Args:
        cfg: its ``data.test.pipeline`` is used, with another target of its Resize step.
        path: the image.
        size: (H, W) of the network's input.
        fill: stretch the image over the whole input, as MMDetection's export tool does; else keep
            its aspect ratio and leave padding.
        channels: how many the detector takes. A shipped scene is given so many; of an image of the
            user's own they have to be there.

    Raises:
        DataError: the pipeline fails.
    """
    from mmdet.datasets.pipelines import Compose

    height, width = (_fitting(cfg, length) for length in size)
    if not fill:
        height, width = (max(1, length * 4 // 5) for length in (height, width))
    steps = copy.deepcopy(cfg.data.test.pipeline)
    for step in settings_of_steps(steps):
        if step["type"] == "MultiScaleFlipAug":
            step.pop("scale_factor", None)
            step.update(img_scale=(width, height), flip=False)
        elif step["type"] == "Resize":
            step["keep_ratio"] = not fill
            if "img_scale" in step:
                step["img_scale"] = (width, height)
    # The first step reads the image. It may leave the number of channels to the file.
    if channels is not None and path in (SAMPLE, SECOND) and steps and _unchanged(steps[0]):
        steps.insert(1, _Spread(channels))
    try:
        data = Compose(steps)({"img_info": {"filename": str(path)}, "img_prefix": None})
    except Exception as error:
        where = f"at {height} x {width}"
        reason = why_unreadable(path, error, cfg.data.test.pipeline, where)
        raise DataError(f"{reason} or choose another size") from error
    require_collected(path, data)
    image, meta = data["img"], data["img_metas"]
    if isinstance(image, list | tuple):
        image, meta = image[0], meta[0]
    image = getattr(image, "data", image) if not hasattr(image, "numpy") else image
    meta = meta.data if hasattr(meta, "data") else meta
    require_meta(path, meta)
    return Sample(np.ascontiguousarray(image.numpy(), np.float32), dict(meta))


def batch_of(
    cfg: mmcv.Config,
    paths: Sequence[Path],
    size: tuple[int, int],
    *,
    fill: Sequence[bool],
    own_size: bool = False,
    channels: int | None = None,
) -> Batch:
    """Images as one batch of exactly (H, W).

    Args:
        cfg: the config.
        paths: the images.
        size: (H, W).
        fill: for each image, see `prepare`.
        channels: how many the detector takes; None: as many as the first image has.
        own_size: results are wanted in pixels of the input and not of the original image.
    """
    samples = [
        prepare(cfg, path, size, full, channels) for path, full in zip(paths, fill, strict=True)
    ]
    if own_size:
        for sample in samples:
            shape = sample.meta["img_shape"]
            sample.meta.update(ori_shape=shape, scale_factor=np.ones(4, np.float32))
    return collate(samples, size, channels)


def _unchanged(step: Any) -> bool:
    default = {"LoadImageFromFile": "color"}.get(step.get("type"), "unchanged")
    return bool(step.get("color_type", default) == "unchanged")


def _fitting(cfg: mmcv.Config, length: int) -> int:
    """The longest side that is no longer than ``length`` after the pipeline's own padding.

    CornerNet's pipeline centres the image on a canvas, whose side is the image's with the low bits
    set, or a multiple of a number.
    """
    for step in settings_of_steps(cfg.data.test.pipeline):
        if step["type"] == "RandomCenterCropPad":
            mode, value = step["test_pad_mode"]
            if mode == "logical_or":
                largest = (length + 1) // (value + 1) * (value + 1) - 1
            else:
                largest = length // value * value
            if largest < 1:
                raise CommandError(f"--shape: {length} px is too small for this config's canvas")
            return int(largest)
    return length
