"""From a graph's outputs to detections and to mmdet's result format, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.commands.common import CommandError
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, from_outputs, to_original
from pytest_onnxdet.data.masks import RunLengthMasks


def detections(outputs: Mapping[str, NDArray[Any]], batch: Batch) -> list[Detections]:
    """Detections at the original images' sizes, from our graphs and from the stock tool's.

    Stock graphs give masks at the input's size, as bool or as 0 and 1; their unused slots have
    score 0 and any label.

    Args:
        outputs: ``dets``, ``labels``, perhaps ``masks`` by region or at the input's size.
        batch: what was run.

    Raises:
        CommandError: the outputs are not those of a detector.
    """
    absent = [name for name in ("dets", "labels") if name not in outputs]
    if absent:
        raise CommandError(
            f"the model gives {', '.join(outputs)} and no {' and no '.join(absent)}: give a graph "
            "that was exported with its post-processing"
        )
    unused = outputs["dets"][..., 4] <= 0
    outputs = {**outputs, "labels": np.where(unused, -1, outputs["labels"])}
    masks = outputs.get("masks")
    if masks is None or masks.shape[-2:] != batch.images.shape[-2:]:
        return from_outputs(outputs, batch)
    found = []
    for i in range(batch.valid):
        used = np.flatnonzero(outputs["labels"][i] >= 0)
        dets = np.asarray(outputs["dets"][i], np.float32)[used]
        meta = batch.metas[i]
        found.append(
            Detections(
                to_original(dets[:, :4], meta),
                dets[:, 4],
                np.asarray(outputs["labels"][i], np.int64)[used],
                _at_original_size(masks[i][used], meta),
            )
        )
    return found


def _at_original_size(masks: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Masks (K, H, W) at the input's size, cut to the image and resized: bool (K, h, w).

    The stock wrapper takes the nearest pixel, towards the top left; here pixels are interpolated
    about their centres, which shifts nothing.
    """
    height, width = meta["ori_shape"][:2]
    inner_h, inner_w = meta["img_shape"][:2]
    resized = np.zeros((len(masks), height, width), bool)
    for k, mask in enumerate(masks):
        image: NDArray[Any] = np.ascontiguousarray(mask[:inner_h, :inner_w], np.float32)
        if image.shape != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        resized[k] = image >= 0.5
    return resized


def check_detections(found: Detections, num_classes: int) -> None:
    """Raises `CommandError` for a label that the data set has no class for, or a score of NaN."""
    if np.isnan(found.scores).any():
        raise CommandError(
            "the model gives a score that is not a number (NaN): compare it with PyTorch, "
            "`onnxdet export --verify` or `pytest --onnxdet`"
        )
    if len(found) and int(found.labels.max()) >= num_classes:
        raise CommandError(
            f"the model finds class {int(found.labels.max())}, but the data set has "
            f"{num_classes} classes: give the config that the model was exported with"
        )


def mmdet_result(found: Detections, num_classes: int) -> Any:
    """mmdet's result of one image, its masks run-length encoded."""
    boxes = replace(found, masks=None).to_mmdet(num_classes)
    masks = found.packed().masks
    if not isinstance(masks, RunLengthMasks):
        return boxes
    encoded = masks.encoded
    classes = range(num_classes)
    return boxes, [[encoded[k] for k in np.flatnonzero(found.labels == c)] for c in classes]
