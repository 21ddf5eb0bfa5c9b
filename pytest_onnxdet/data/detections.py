"""What a detector says about one image, in one form for PyTorch, ONNX Runtime and TensorRT.

Three producers meet here: mmdet's own result lists (the reference), the arrays that a graph
returns (``dets``, ``labels``, ``masks``), and files read back from a cache. They all become
:class:`Detections`: boxes at the original image's size, so that comparing and evaluating never
need to know where a detection came from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.image_maps import Frame, ImageMaps, boxes_of
from pytest_onnxdet.data.masks import THRESHOLD, RunLengthMasks, paste_masks

if TYPE_CHECKING:
    from pytest_onnxdet.data.batches import Batch

_TOGETHER = 100  # images whose arrays are joined


@dataclass(frozen=True)
class Detections:
    """The detections of one image, sorted by descending score.

    Attributes:
        boxes: float32 (K, 4), x1, y1, x2, y2 in pixels of the original image.
        scores: float32 (K,).
        labels: int64 (K,), class indices.
        masks: K bool (H, W) at the original image's size, as one array or run-length encoded, or
            None for box-only models.
        mask_probs: float32 (K, h, w), the per-RoI probabilities that were pasted, or the maps of
            the image, see ``frame``; or None.
        mask_range: float32 (K, 2, h, w), the smallest and the largest of these probabilities that
            float ties leave open, or None where that was not asked.
        mask_threshold: the probability from which on a pixel belongs to its mask.
        frame: how ``mask_probs`` lie over the image, where they are maps of all of it; None: each
            lies in its box.
        score_range: float32 (K, 2), the smallest and the largest score that float ties leave open,
            or None where that was not asked.
        mask_scores: float32 (K,), by which masks rank where a detector scores them by themselves
            (Mask Scoring R-CNN, arXiv:1903.00241); None: by ``scores``, as boxes do.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | RunLengthMasks | None = None
    mask_probs: NDArray[np.float32] | None = None
    mask_range: NDArray[np.float32] | None = None
    mask_threshold: float = THRESHOLD
    frame: Frame | None = None
    score_range: NDArray[np.float32] | None = None
    mask_scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def to_mmdet(self, num_classes: int) -> Any:
        """mmdet's result for one image: a list per class of float32 (n, 5) arrays.

        With masks: a pair of that list and a list per class of bool (H, W) masks; or, where masks
        have scores of their own, a pair of those and a list per class of these.
        """
        dets = np.concatenate([self.boxes, self.scores[:, None]], axis=1).astype(np.float32)
        boxes = [dets[self.labels == c] for c in range(num_classes)]
        if self.masks is None:
            return boxes
        masks = [
            [self.masks[i] for i in np.flatnonzero(self.labels == c)] for c in range(num_classes)
        ]
        return boxes, self.with_scores(masks)

    def with_scores(self, masks: list[list[Any]]) -> Any:
        """mmdet's form of these masks, a list per class, with their scores if there are any."""
        if self.mask_scores is None:
            return masks
        return masks, [self.mask_scores[self.labels == c] for c in range(len(masks))]

    def packed(self, probabilities: bool = True) -> Detections:
        """The same detections in little memory: masks run-length encoded.

        Args:
            probabilities: whether ``mask_probs`` stay.
        """
        masks = self.masks
        if masks is not None and not isinstance(masks, RunLengthMasks):
            masks = RunLengthMasks.encode(masks)
        return replace(self, masks=masks, mask_probs=self.mask_probs if probabilities else None)

    @classmethod
    def from_mmdet(
        cls,
        result: Any,
        mask_probs: NDArray[np.float32] | None = None,
        mask_range: NDArray[np.float32] | None = None,
        mask_threshold: float = THRESHOLD,
        frame: Frame | None = None,
        score_range: NDArray[np.float32] | None = None,
    ) -> Detections:
        """Reads mmdet's result for one image (the inverse of :meth:`to_mmdet`).

        Args:
            result: a list per class of (n, 5) arrays, or a pair of that and the class-wise masks,
                which may be a pair of masks and scores; proposals, which have no class, are one
                such array, and get label 0.
            mask_probs: float32 (K, h, w), probabilities in the order of the concatenated classes.
            mask_range: float32 (K, 2, h, w), in the same order.
            mask_threshold: with which mmdet made the masks.
            frame: how ``mask_probs`` lie over the image.
            score_range: float32 (K, 2), in the order of the concatenated classes.
        """
        boxes, masks = result if isinstance(result, tuple) else (result, None)
        boxes = [boxes] if isinstance(boxes, np.ndarray) else boxes
        dets = np.concatenate(boxes).astype(np.float32).reshape(-1, 5)
        labels = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]).astype(np.int64)
        order = np.argsort(-dets[:, 4], kind="stable")
        flat = mask_scores = None
        if isinstance(masks, tuple):
            masks, of_classes = masks
            every_score = [np.asarray(scores, np.float32).reshape(-1) for scores in of_classes]
            mask_scores = np.concatenate(every_score)[order]
        if masks is not None:
            every = [np.asarray(m, dtype=bool) for per_class in masks for m in per_class]
            flat = np.stack(every)[order] if every else np.zeros((0, 1, 1), dtype=bool)
        return cls(
            boxes=dets[order, :4],
            scores=dets[order, 4],
            labels=labels[order],
            masks=flat,
            mask_probs=None if mask_probs is None else mask_probs[order],
            mask_range=None if mask_range is None else mask_range[order],
            mask_threshold=mask_threshold,
            frame=frame,
            score_range=None if score_range is None else score_range[order],
            mask_scores=mask_scores,
        )


def in_little_memory(detections: Iterable[Detections]) -> list[Detections]:
    """The same detections, the boxes, scores and labels of many images in a few large arrays.

    Thousands of small ones, made between images of a megabyte, would spread over ten times their
    size.
    """
    packed: list[Detections] = []
    images = iter(detections)
    while group := list(itertools.islice(images, _TOGETHER)):
        boxes, scores, labels = (
            np.concatenate([getattr(image, name) for image in group])
            for name in ("boxes", "scores", "labels")
        )
        end = 0
        for image in group:
            rows = slice(end, end := end + len(image))
            packed.append(
                replace(image, boxes=boxes[rows], scores=scores[rows], labels=labels[rows])
            )
    return packed


def from_outputs(
    outputs: Mapping[str, NDArray[Any]],
    batch: Batch,
    mask_threshold: float = THRESHOLD,
    maps: ImageMaps | None = None,
) -> list[Detections]:
    """Turns a graph's outputs into detections at the original images' sizes.

    This is the session wrapper of the graph's contract: boxes are moved and scaled from
    network-input pixels, per-RoI masks are pasted as mmdet does, at the original size, and maps of
    the image made into masks of it as mmdet does.

    Args:
        outputs: ``dets`` float32 (N, K, 5), ``labels`` int64 (N, K), where the model has masks
            also ``masks`` float32 (N, K, h, w), and perhaps ``mask_scores`` float32 (N, K). Slots
            with label -1 are empty.
        batch: the batch that was run; its ``metas`` say how each image was scaled.
        mask_threshold: the config's, see :func:`pytest_onnxdet.data.masks.mask_threshold`.
        maps: what the graph says of its masks where they are maps of the image; None: each is of
            its detection's box.

    Returns:
        One entry for each of the batch's valid images.
    """
    images = []
    for i in range(batch.valid):
        labels = np.asarray(outputs["labels"][i], dtype=np.int64)
        used = np.flatnonzero(labels >= 0)
        dets = np.asarray(outputs["dets"][i], dtype=np.float32)[used]
        meta = batch.metas[i]
        boxes = to_original(dets[:, :4], meta)
        masks = probs = None
        if "masks" in outputs:
            probs = np.asarray(outputs["masks"][i], dtype=np.float32)[used]
            if maps is not None:
                frame = maps.frame(probs.shape[1:], batch.images.shape[2:], meta["img_shape"])
                size = meta["ori_shape"][:2]
                images.append(_of_maps(boxes, dets[:, 4], labels[used], probs, frame, size))
                continue
            masks = paste_masks(probs, boxes, meta["ori_shape"][:2], mask_threshold)
        images.append(
            Detections(
                boxes,
                dets[:, 4],
                labels[used],
                masks,
                probs,
                mask_threshold=mask_threshold,
                mask_scores=mask_scores_of(outputs, i, used),
            )
        )
    return images


def _of_maps(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    values: NDArray[np.float32],
    frame: Frame,
    size: Sequence[int],
) -> Detections:
    """Detections of one image whose masks are maps of it.

    Args:
        boxes, scores, labels: as the graph gives them; boxes at the original image's size.
        values: float32 (K, h, w), the maps.
        frame: how they lie over the image.
        size: height and width of the original image.
    """
    masks = frame.paste(values, size)
    if frame.maps.boxed:
        boxes = boxes_of(masks)
    if frame.maps.weighted:
        scores = scores * frame.certainty(values, size)
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes[order],
        scores[order],
        labels[order],
        masks[order],
        values[order],
        mask_threshold=frame.maps.threshold,
        frame=frame,
    )


def mask_scores_of(
    outputs: Mapping[str, NDArray[Any]], image: int, used: NDArray[Any]
) -> NDArray[np.float32] | None:
    """The scores of an image's masks in these slots, where a graph gives any."""
    if "mask_scores" not in outputs:
        return None
    return np.asarray(outputs["mask_scores"][image], dtype=np.float32)[used]


def to_original(boxes: NDArray[np.float32], meta: Mapping[str, Any]) -> NDArray[np.float32]:
    """Boxes (K, 4) in network-input pixels, in pixels of the original image.

    ``border`` (CornerNet's centred padding: top, bottom, left, right) is taken off first, then
    the scale factor (w, h, w, h), in the order that mmdet's heads use.
    """
    boxes = boxes.astype(np.float32, copy=True)
    border = meta.get("border")
    if border is not None:
        boxes[:, 0::2] -= np.float32(border[2])
        boxes[:, 1::2] -= np.float32(border[0])
    return boxes / np.asarray(meta["scale_factor"], dtype=np.float32)
