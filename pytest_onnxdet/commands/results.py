"""From a graph's outputs to detections and to mmdet's result format, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.commands.common import CommandError
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, from_outputs, to_original


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


def mmdet_results(found: Iterable[Detections], num_classes: int) -> Iterator[Any]:
    """mmdet's result of each image, masks run-length encoded at once.

    A full-size mask takes 300 kB and its encoding 200 bytes, so that 5,000 images with masks fit
    into memory only if no mask waits.

    Raises:
        CommandError: a label that the data set has no class for.
    """
    from mmdet.core import encode_mask_results

    for one in found:
        if len(one) and int(one.labels.max()) >= num_classes:
            raise CommandError(
                f"the model finds class {int(one.labels.max())}, but the data set has "
                f"{num_classes} classes: give the config that the model was exported with"
            )
        result = one.to_mmdet(num_classes)
        if isinstance(result, tuple):
            boxes, masks = result
            yield boxes, encode_mask_results(masks)
        else:
            yield result
