"""From a graph's outputs to detections and to mmdet's result format, image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.commands.common import CommandError, Model, warn
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, from_outputs, mask_scores_of, to_original
from pytest_onnxdet.data.image_maps import ImageMaps, image_maps
from pytest_onnxdet.data.masks import (
    THRESHOLD,
    THRESHOLD_KEY,
    THRESHOLD_NAME,
    RunLengthMasks,
    has_masks,
    mask_threshold,
)
from pytest_onnxdet.verify.values import check_values

#: Between a pixel that belongs to a mask and one that does not.
HALF_WAY = 0.5


def checked(
    outputs: Mapping[str, NDArray[Any]],
    batch: Batch,
    *,
    clips: bool = False,
    stock: bool = False,
    logits: bool = False,
) -> Mapping[str, NDArray[Any]]:
    """A detector's outputs in the form of the graph's contract.

    Args:
        outputs: ``dets``, ``labels``, perhaps ``masks``.
        batch: what was run.
        clips: whether boxes have to lie inside the image.
        stock: whether the graph may be one of the stock tool's, or made of one: their unused slots
            have score 0 and any label, and stand anywhere.
        logits: whether masks are logits.

    Raises:
        CommandError: the outputs are not those of a detector.
        CheckFailed: a value departs from the contract.
    """
    absent = [name for name in ("dets", "labels") if name not in outputs]
    if absent:
        raise CommandError(
            f"the model gives {', '.join(outputs)} and no {' and no '.join(absent)}: give a graph "
            "that was exported with its post-processing"
        )
    contract = _in_contract_form(outputs) if stock else outputs
    check_values(contract, batch, clips=clips, logits=logits)
    return contract


def detections(
    outputs: Mapping[str, NDArray[Any]],
    batch: Batch,
    mask_threshold: float = THRESHOLD,
    maps: ImageMaps | None = None,
) -> list[Detections]:
    """Detections at the original images' sizes.

    Args:
        outputs: from :func:`checked`; masks by region or, as in stock graphs, at the input's size,
            as bool or as 0 and 1.
        batch: what was run.
        mask_threshold: the config's, see :func:`pytest_onnxdet.data.masks.mask_threshold`.
        maps: what the graph says of its masks where they are maps of the image.
    """
    masks = outputs.get("masks")
    if maps is not None or masks is None or masks.shape[-2:] != batch.images.shape[-2:]:
        return from_outputs(outputs, batch, mask_threshold, maps)
    images = []
    for i in range(batch.valid):
        used = np.flatnonzero(outputs["labels"][i] >= 0)
        dets = np.asarray(outputs["dets"][i], np.float32)[used]
        meta = batch.metas[i]
        images.append(
            Detections(
                to_original(dets[:, :4], meta),
                dets[:, 4],
                np.asarray(outputs["labels"][i], np.int64)[used],
                _at_original_size(masks[i][used], meta, mask_threshold),
                mask_threshold=mask_threshold,
                mask_scores=mask_scores_of(outputs, i, used),
            )
        )
    return images


def _in_contract_form(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A stock graph's outputs with its unused slots, those of no score, emptied and put last."""
    unused = outputs["dets"][..., 4] <= 0
    arranged = {
        **outputs,
        "dets": np.where(unused[..., None], np.float32(0), outputs["dets"]),
        "labels": np.where(unused, -1, outputs["labels"]),
    }
    order = np.argsort(-arranged["dets"][..., 4], axis=1, kind="stable")
    if (order == np.arange(order.shape[1])).all():
        return arranged
    return {
        name: np.take_along_axis(value, order.reshape(*order.shape, *[1] * (value.ndim - 2)), 1)
        for name, value in arranged.items()
    }


def _at_original_size(
    masks: NDArray[Any], meta: Mapping[str, Any], threshold: float
) -> NDArray[np.bool_]:
    """Masks (K, H, W) at the input's size, cut to the image and resized: bool (K, h, w).

    The stock wrapper takes the nearest pixel, towards the top left; here pixels are interpolated
    about their centres, which shifts nothing. A mask of 0 and 1 was cut at the threshold inside
    the graph, so its border lies half-way between the two.
    """
    height, width = meta["ori_shape"][:2]
    inner_h, inner_w = meta["img_shape"][:2]
    resized = np.zeros((len(masks), height, width), bool)
    for k, mask in enumerate(masks):
        image: NDArray[Any] = np.ascontiguousarray(mask[:inner_h, :inner_w], np.float32)
        if image.shape != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        resized[k] = image >= (HALF_WAY if ((mask == 0) | (mask == 1)).all() else threshold)
    return resized


def check_detections(detections: Detections, num_classes: int) -> None:
    """Raises `CommandError` for a label that the data set has no class for, or a score of NaN."""
    if np.isnan(detections.scores).any():
        raise CommandError(
            "the model gives a score that is not a number (NaN): compare it with PyTorch, "
            "`onnxdet export --verify` or `pytest --onnxdet`"
        )
    if len(detections) and int(detections.labels.max()) >= num_classes:
        raise CommandError(
            f"the model finds class {int(detections.labels.max())}, but the data set has "
            f"{num_classes} classes: give the config that the model was exported with"
        )


def mmdet_result(detections: Detections, num_classes: int | None) -> Any:
    """mmdet's result of one image, its masks run-length encoded.

    Args:
        detections: of the image.
        num_classes: None: they are proposals, which are one array float32 (n, 5).
    """
    if num_classes is None:
        (boxes,) = detections.to_mmdet(1)
        return boxes
    boxes = replace(detections, masks=None).to_mmdet(num_classes)
    masks = detections.packed().masks
    if not isinstance(masks, RunLengthMasks):
        return boxes
    encoded = masks.encoded
    classes = range(num_classes)
    masks_of = [[encoded[k] for k in np.flatnonzero(detections.labels == c)] for c in classes]
    return boxes, detections.with_scores(masks_of)


def configured_threshold(model: Model) -> float:
    """From which probability on the config wants a pixel in a mask.

    Raises:
        CommandError: it asks for what there is not.
    """
    try:
        return mask_threshold(model.cfg.model)
    except ValueError as error:
        raise CommandError(str(error)) from error


def check_threshold(graph: Artifact, threshold: float) -> None:
    """Raises `CommandError` where masks were cut inside the graph, at another threshold."""
    own = graph.info.get(THRESHOLD_NAME, threshold)
    if own != threshold:
        raise CommandError(
            f"{THRESHOLD_KEY} is {threshold:g}, and the masks of {graph.path} are cut at {own:g} "
            "inside the graph: export it again with this config"
        )


def check_outputs(graph: Artifact, model: Model) -> None:
    """Tells where a graph gives masks and the config's detector finds none, or the reverse.

    Raises:
        CommandError: its masks are maps of the image, and the config has another threshold; or the
            config's are, and the file cannot say so, as an engine cannot.
    """
    maps, asked = image_maps(graph.info), (model.cfg.model.get("test_cfg") or {}).get("mask_thr")
    if maps is not None and not maps.logits and asked not in (None, maps.threshold):
        raise CommandError(
            f"model.test_cfg.mask_thr is {asked}, and {graph.path} was exported with "
            f"{maps.threshold:g}, which its scores hang on: export it again with this config"
        )
    outputs = graph.info.get("outputs")
    head = model.cfg.model.get("mask_head") or model.cfg.model.get("panoptic_head")
    if outputs is None and head:
        raise CommandError(
            f"MODEL: {graph.path}: the masks of {model.cfg.model.type} are maps of the image, and "
            "an engine does not say how they lie over it: give the .onnx file"
        )
    wanted = has_masks(model.cfg.model)
    if outputs is None or ("masks" in outputs) == wanted:
        return
    gives, finds = ("no masks", "finds them") if wanted else ("masks", "finds none")
    warn(
        f"{graph.path} gives {gives}, but the detector of {model.path} {finds}: is that the config "
        "that it was exported with?"
    )
