"""The reference: the unmodified detector, called as mmdet's own test tool calls it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.masks import mask_threshold
from pytest_onnxdet.reference.ties.points import watched_choices

if TYPE_CHECKING:
    from pytest_onnxdet.data.batches import Batch


CORNER_MAPS = ("tl_heat", "br_heat", "tl_emb", "br_emb", "tl_off", "br_off")


class Reference:
    """mmdet's detector in PyTorch.

    Args:
        detector: in eval mode, on the CPU.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector

    @property
    def two_stage(self) -> bool:
        """Whether a proposal network chooses what later layers look at."""
        return hasattr(self.detector, "rpn_head")

    def run(self, batch: Batch, mask_ranges: bool = False) -> list[Detections]:
        """The detector's detections of the batch's valid images, at the original images' sizes.

        Args:
            batch: the images.
            mask_ranges: whether PointRend's detections get their ``mask_range``.
        """
        images = torch.from_numpy(np.ascontiguousarray(batch.images))
        metas = [dict(meta) for meta in batch.metas]  # mmdet writes into them
        with contextlib.ExitStack() as watching:
            bounds = watching.enter_context(watched_choices(self.detector)) if mask_ranges else []
            seen = watching.enter_context(_watched_masks(self.detector))
            watching.enter_context(torch.no_grad())
            results = self.detector(
                img=[images], img_metas=[metas], return_loss=False, rescale=True
            )
        detections = []
        threshold = mask_threshold(self.detector.cfg.model)
        for result in results:
            boxes = result[0] if isinstance(result, tuple) else result
            # The mask head is only called for images that have a detection.
            has_masks = isinstance(result, tuple) and any(len(rows) for rows in boxes)
            masks = seen.pop(0) if has_masks else None
            bound = bounds.pop(0) if has_masks and bounds else None
            detections.append(_detections(result, masks, bound, threshold))
        return detections[: batch.valid]

    def raw(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The heads' outputs, by the names that the raw graph gives them.

        Single-stage models: every level of the dense head. Two-stage models: of the proposal
        network, as all that follows depends on which proposals it picks. CornerNet: the last
        level's maps. DETR: the last decoder layer's logits and boxes.
        """
        from pytest_onnxdet.families.base import named_levels

        detector: Any = self.detector
        images = torch.from_numpy(np.ascontiguousarray(batch.images))
        size = tuple(images.shape[-2:])
        metas = [{**meta, "batch_input_shape": size} for meta in batch.metas]
        with torch.no_grad():
            features = detector.extract_feat(images)
            if hasattr(detector, "rpn_head"):
                outputs = named_levels(detector.rpn_head(features))
            elif type(detector.bbox_head).__name__ == "DETRHead":
                logits, boxes = detector.bbox_head(features, metas)
                outputs = {"cls_score": logits[-1][-1], "bbox_pred": boxes[-1][-1]}
            elif type(detector.bbox_head).__name__ == "CornerHead":
                maps = detector.bbox_head(features)
                outputs = {n: m[-1] for n, m in zip(CORNER_MAPS, maps, strict=True)}
            else:
                outputs = named_levels(detector.bbox_head(features))
        return {name: value.numpy() for name, value in outputs.items()}

    def post_process(
        self,
        raw: Mapping[str, NDArray[np.float32]],
        batch: Batch,
        lowest_first: bool = False,
        mask_ranges: bool = False,
    ) -> list[Detections]:
        """mmdet's own post-processing of heads' outputs, whoever computed them.

        Of two-stage models the proposal network's outputs are taken as given, and all that follows
        is computed.

        Args:
            raw: what :meth:`raw` gives, from PyTorch or a backend.
            batch: the batch it belongs to.
            lowest_first: whether top-k takes the lowest index first of equal values. PyTorch
                leaves their order open, ONNX's TopK demands this one.
            mask_ranges: as for :meth:`run`.

        Returns:
            Detections of the valid images.
        """
        from mmdet.core import bbox2result

        detector: Any = self.detector
        tensors = {name: torch.from_numpy(value.copy()) for name, value in raw.items()}
        order = _topk_lowest_first() if lowest_first else contextlib.nullcontext()
        if self.two_stage:
            with order, _given(detector.rpn_head, tuple(_by_kind(tensors))):
                return self.run(batch, mask_ranges)
        head = detector.bbox_head
        if type(head).__name__ == "DETRHead":
            outputs = [[tensors["cls_score"][None]], [tensors["bbox_pred"][None]]]
        elif type(head).__name__ == "CornerHead":
            outputs = [[tensors[name]] for name in CORNER_MAPS]
        else:
            outputs = _by_kind(tensors)
        metas = [dict(meta) for meta in batch.metas]
        with torch.no_grad(), order:
            found = head.get_bboxes(*outputs, img_metas=metas, rescale=True)
        results = [bbox2result(dets, labels, head.num_classes) for dets, labels in found]
        return [Detections.from_mmdet(result) for result in results[: batch.valid]]


def _by_kind(tensors: Mapping[str, Tensor]) -> list[list[Tensor]]:
    """A dense head's outputs, kind after kind, of tensors named by kind and level."""
    kinds = dict.fromkeys(name.rpartition("_")[0] for name in tensors)
    return [
        [value for name, value in tensors.items() if name.rpartition("_")[0] == kind]
        for kind in kinds
    ]


@contextlib.contextmanager
def _given(module: nn.Module, outputs: tuple[Any, ...]) -> Iterator[None]:
    """For the duration of the block, a module gives these outputs, whatever it gets."""
    target: Any = module
    target.forward = lambda *_: outputs
    try:
        yield
    finally:
        del target.forward


def _detections(
    result: Any, seen: tuple[Any, Any] | None, bounds: Any, threshold: float
) -> Detections:
    """One image's result, with the mask probabilities in the order of its detections."""
    if seen is None:
        return Detections.from_mmdet(result, mask_threshold=threshold)
    labels, probs = seen
    # mmdet's result is class by class, and within a class in the order of the mask head's input.
    order = np.argsort(labels, kind="stable")
    ranges = None if bounds is None else bounds[order]
    return Detections.from_mmdet(result, probs[order], ranges, threshold)


@contextlib.contextmanager
def _topk_lowest_first() -> Iterator[None]:
    """For the duration of the block, top-k takes the lowest index first of equal values."""
    from torch.overrides import TorchFunctionMode

    class LowestFirst(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function not in (torch.topk, Tensor.topk):
                return function(*args, **(kwargs or {}))
            return _stable_topk(*args, **(kwargs or {}))

    with LowestFirst():
        yield


def _stable_topk(
    values: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """``torch.topk`` by a stable sort; always sorted."""
    ranked, index = torch.sort(values, dim=dim, descending=largest, stable=True)
    return ranked.narrow(dim, 0, k), index.narrow(dim, 0, k)


@contextlib.contextmanager
def _watched_masks(detector: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """Notes the probabilities that the mask head pastes, image by image.

    mmdet returns only pasted, thresholded masks. The head's ``get_seg_masks`` is wrapped for the
    duration of the block and computes what it always does.
    """
    seen: list[tuple[Any, Any]] = []
    head = getattr(getattr(detector, "roi_head", None), "mask_head", None)
    if head is None:
        yield seen
        return
    heads = list(head) if isinstance(head, nn.ModuleList) else [head]

    def watch(one: Any) -> Any:
        original = one.get_seg_masks

        def get_seg_masks(mask_pred: Any, dets: Any, labels: Any, *rest: Any, **more: Any) -> Any:
            probs = (
                mask_pred.sigmoid() if torch.is_tensor(mask_pred) else torch.as_tensor(mask_pred)
            )
            if not one.class_agnostic:
                probs = probs[range(len(probs)), labels]
            else:
                probs = probs[:, 0]
            seen.append((labels.numpy(), probs.float().numpy()))
            return original(mask_pred, dets, labels, *rest, **more)

        return get_seg_masks

    for one in heads:
        one.get_seg_masks = watch(one)
    try:
        yield seen
    finally:
        for one in heads:
            del one.get_seg_masks


def max_per_img(detector: nn.Module) -> int | None:
    """Where a detector cuts an image's detections; None where its config does not say."""
    cfg: Any = detector.cfg
    config = cfg.model.get("test_cfg") or {}
    value = (config.get("rcnn") or config).get("max_per_img")
    return None if value is None else int(value)
