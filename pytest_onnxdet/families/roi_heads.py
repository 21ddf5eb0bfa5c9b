"""Parts of RoI heads: what a stage sees of regions, what it predicts, and the boxes from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pytest_onnxdet.families.base import Limits
from pytest_onnxdet.families.classes import UnsupportedPart, objection, resolve
from pytest_onnxdet.families.ops.boxes import decode, require_coder, take_rows
from pytest_onnxdet.families.ops.buckets import BUCKETS, decode_buckets
from pytest_onnxdet.families.ops.lowering import Lowering, dets_of
from pytest_onnxdet.families.ops.rois import flatten_rois, level_scales
from pytest_onnxdet.families.settings import suppression
from pytest_onnxdet.models.calibrate import Target

SABL_HEAD = "mmdet.models.SABLHead"
SEESAW = "mmdet.models.losses.SeesawLoss"


@dataclass(frozen=True)
class ImageFeatures:
    """What regions take their features of.

    Attributes:
        maps: float32 (N, C, h, w), the finest level first.
        semantic: float32 (N, C, h, w), what HTC (arXiv:1901.07518) and SCNet (arXiv:2012.10150)
            learn from a segmentation of the image; None: nothing.
        context: float32 (N, C, 1, 1), of the image as a whole (SCNet); None: nothing.
    """

    maps: tuple[Tensor, ...]
    semantic: Tensor | None = None
    context: Tensor | None = None


class Regions:
    """Features of regions, as an RoI head makes them.

    Args:
        head: mmdet's RoI head.
        lowering: pooling in one runtime's operators.
    """

    def __init__(self, head: Any, lowering: Lowering) -> None:
        self._head: Any = head
        self._lowering = lowering

    def of_images(self, maps: tuple[Tensor, ...]) -> ImageFeatures:
        """What is computed once for each image."""
        semantic = getattr(self._head, "semantic_head", None)
        context = getattr(self._head, "glbctx_head", None)
        return ImageFeatures(
            maps,
            None if semantic is None else semantic(maps)[1],
            None if context is None else context(maps)[1],
        )

    def pool(
        self,
        extractor: Any,
        images: ImageFeatures,
        boxes: Tensor,
        branch: str,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor | None]:
        """What a branch sees of regions.

        Args:
            extractor: the branch's.
            images: of :meth:`of_images`.
            boxes: float32 (N, K, 4), corners in network-input pixels.
            branch: ``bbox`` or ``mask``, of which one alone may be fused with the semantic map.
            scale: by which boxes are grown.

        Returns:
            float32 (N * K, C, h, w), in any order; int64 (N * K,), the row of each region among
            them, None: they are in order.
        """
        head = self._head
        rows, image = flatten_rois(boxes)
        regions, back = self._lowering.pool_rois(extractor, images.maps, rows, image, scale)
        semantic = images.semantic is not None and branch in getattr(
            head, "semantic_fusion", (branch,)
        )
        if semantic or images.context is not None:
            regions, back = ordered(regions, back), None
        if semantic:
            source, _ = self._lowering.pool_rois(
                head.semantic_roi_extractor, (images.semantic,), rows, image
            )
            regions = regions + _shrunk(
                source, head.semantic_roi_extractor.roi_layers[0], extractor.roi_layers[0]
            )
        if images.context is not None:
            regions = regions + images.context[image]
        if head.with_shared_head:
            regions = head.shared_head(regions)
        return regions, back

    def predict(
        self, extractor: Any, head: Any, images: ImageFeatures, boxes: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What a stage's box head says of regions.

        Args:
            extractor, head: the stage's.
            images: of :meth:`of_images`.
            boxes: float32 (N, K, 4).

        Returns:
            Class logits (N, K, C + 1), or as many as its loss wants; what its regression gives,
            (N, K, ...), of two parts side by side; None: it has none.
        """
        regions = [self.pool(extractor, images, boxes, "bbox")]
        scale = getattr(self._head, "reg_roi_scale_factor", None)
        if scale is not None:  # Double-Head (arXiv:1904.06493) regresses from larger regions
            regions.append(self.pool(extractor, images, boxes, "bbox", scale))
        scores, deltas = head(*(features for features, _ in regions))
        back = regions[0][1]
        if isinstance(deltas, tuple):
            deltas = torch.cat(deltas, dim=1)
        return (
            _by_image(scores, back, boxes),
            None if deltas is None else _by_image(deltas, back, boxes),
        )


def stages_of(head: Any) -> list[tuple[Any, Any]]:
    """Extractor and box head of each stage of an RoI head."""
    if hasattr(head, "num_stages"):
        return list(zip(head.bbox_roi_extractor, head.bbox_head, strict=True))
    return [(head.bbox_roi_extractor, head.bbox_head)]


def ordered(rows: Tensor, back: Tensor | None) -> Tensor:
    """Rows in the regions' order, ``back`` being the row of each region; None: they are."""
    return rows if back is None else rows[back]


def _by_image(rows: Tensor, back: Tensor | None, boxes: Tensor) -> Tensor:
    """Rows (N * K, C) as (N, K, C)."""
    return ordered(rows, back).reshape(boxes.shape[0], boxes.shape[1], rows.shape[1])


def _shrunk(source: Tensor, own: Any, wanted: Any) -> Tensor:
    """Features of regions, averaged to the size of another layer's.

    Args:
        source: float32 (R, C, h, w) of the layer ``own``.
        wanted: the layer whose size is wanted; see :func:`require_sizes`.
    """
    steps = tuple(a // b for a, b in zip(own.output_size, wanted.output_size, strict=True))
    return source if steps == (1, 1) else functional.avg_pool2d(source, steps)


def require_sizes(semantic: Any, extractors: list[tuple[str, Any]]) -> None:
    """Refuses semantic features of regions that do not average to the regions' own size.

    Args:
        semantic: the extractor of the semantic map.
        extractors: paths and extractors of the regions.

    Raises:
        UnsupportedPart: it names the path.
    """
    size = semantic.roi_layers[0].output_size
    level_scales(semantic)
    for path, extractor in extractors:
        own = extractor.roi_layers[0].output_size
        if any(a % b for a, b in zip(size, own, strict=True)):
            raise UnsupportedPart(
                f"{path} gives {own[0]} x {own[1]} features and semantic_roi_extractor "
                f"{size[0]} x {size[1]}, of which they are no whole part: that has no lowering"
            )


def require_box_head(path: str, head: Any) -> None:
    """Refuses a stage's box head whose scores or boxes have no lowering.

    Args:
        path: where it is in the detector.
        head: the box head.

    Raises:
        UnsupportedPart: it names the part.
    """
    sabl = isinstance(head, resolve(SABL_HEAD))
    if sabl:
        why = objection(head.bbox_coder, (BUCKETS,), ("decode",))
        if why is not None:
            raise UnsupportedPart(f"{path}.bbox_coder has no lowering: {why}")
    else:
        require_coder(head.bbox_coder)
    if not getattr(head, "with_cls", True):
        raise UnsupportedPart(f"{path} has no classes (with_cls=False): that has no lowering")
    if head.custom_cls_channels or head.custom_activation:
        loss = head.loss_cls
        why = objection(loss, (SEESAW,), ("get_activation", "_split_cls_score"))
        if sabl:
            why = "SABLHead takes a softmax of all its outputs"
        if why is not None:
            raise UnsupportedPart(f"{path}: {type(loss).__name__}'s scores have no lowering: {why}")


def box_targets(head: Any) -> list[Target]:
    """What to set in a box head so that random weights detect something."""
    if isinstance(head, resolve(SABL_HEAD)):
        regression = [Target(head.fc_reg_cls, 2.0), Target(head.fc_reg_offset, 0.5)]
    else:
        regression = [Target(head.fc_reg, 1.0)] if head.with_reg else []
    return [Target(head.fc_cls, 2.0), *regression]


def probabilities(head: Any, logits: Tensor) -> Tensor:
    """Probabilities of a box head's classes: logits (N, K, ...) to (N, K, C), no background."""
    scores = head.loss_cls.get_activation(logits) if head.custom_activation else logits.softmax(-1)
    result: Tensor = scores[..., :-1]
    return result


def bucketed(head: Any, boxes: Tensor, deltas: Tensor, image_shape: Tensor) -> tuple[Tensor, ...]:
    """SABL's boxes and confidences of regions (N, K, 4), see :func:`decode_buckets`."""
    classes, offsets = deltas.chunk(2, dim=2)
    return decode_buckets(head.bbox_coder, boxes, classes, offsets, image_shape)


def refined(
    head: Any, boxes: Tensor, logits: Tensor, deltas: Tensor, image_shape: Tensor
) -> Tensor:
    """Regions for the next stage of a cascade (arXiv:1712.00726), by each one's likeliest class.

    Args:
        head: the stage's box head.
        boxes: float32 (N, K, 4).
        logits, deltas: what it gave.
        image_shape: int64 (N, 2).

    Returns:
        float32 (N, K, 4).
    """
    if isinstance(head, resolve(SABL_HEAD)):
        return bucketed(head, boxes, deltas, image_shape)[0]
    if not head.reg_class_agnostic:
        scores = head.loss_cls.get_activation(logits) if head.custom_activation else logits
        best = scores[..., :-1].argmax(dim=-1)[..., None, None]
        by_class = deltas.unflatten(2, (-1, 4))
        deltas = by_class.gather(2, best.expand(-1, -1, 1, 4))[:, :, 0]
    return decode(head.bbox_coder, boxes, deltas, image_shape)


def select(
    head: Any,
    cfg: Any,
    lowering: Lowering,
    limits: Limits,
    boxes: Tensor,
    used: Tensor,
    logits: Tensor,
    deltas: Tensor | None,
    image_shape: Tensor,
    min_slots: int,
) -> tuple[Tensor, Tensor]:
    """The best boxes of the last stage, after suppression.

    Args:
        head: the last stage's box head.
        cfg: the RoI head's test_cfg.
        lowering, limits: the deploy model's.
        boxes: float32 (N, K, 4), the regions that it saw.
        used: bool (N, K), which of them are regions.
        logits: of all stages, averaged; ``deltas``: the last one's.
        image_shape: int64 (N, 2).
        min_slots: the minimum of slots of the result, 0 or 1.

    Returns:
        ``dets`` and ``labels`` of the graph's contract.
    """
    scores = probabilities(head, logits)
    scores = torch.where((scores > cfg.score_thr) & used[..., None], scores, 0.0)
    if deltas is not None and isinstance(head, resolve(SABL_HEAD)):
        boxes, confidence = bucketed(head, boxes, deltas, image_shape)
        scores, deltas = scores * confidence[..., None], None
    # Only regions with a class above the threshold can give a detection: decode just those.
    _, rows = lowering.top(scores.amax(dim=-1), limits.deploy_nms_pre, 0.0, min_slots=1)
    scores = take_rows(scores, rows).transpose(1, 2)
    candidates = take_rows(boxes, rows)
    if deltas is not None:
        deltas = take_rows(deltas, rows)
        if not head.reg_class_agnostic:
            candidates = candidates[:, None]
            deltas = deltas.unflatten(2, (head.num_classes, 4)).transpose(1, 2)
        candidates = decode(head.bbox_coder, candidates, deltas, image_shape)
    score, labels, column = lowering.nms(
        candidates,
        scores,
        suppression(cfg),
        cfg.max_per_img if limits.max_per_img is None else limits.max_per_img,
        limits.max_output_boxes_per_class or 0,
        min_slots,
    )
    return dets_of(candidates, score, column), labels
