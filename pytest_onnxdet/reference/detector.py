"""The reference: the unmodified detector, called as mmdet's own test tool calls it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pytest_onnxdet.core.errors import StageError
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.masks import THRESHOLD, mask_threshold
from pytest_onnxdet.models.unbuildable import quoted
from pytest_onnxdet.reference.ties.decay import score_ranges, with_weights_ranged
from pytest_onnxdet.reference.ties.points import watched_choices
from pytest_onnxdet.reference.ties.replace import overridden

if TYPE_CHECKING:
    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.image_maps import ImageMaps
    from pytest_onnxdet.families.family import Family, MapNote
    from pytest_onnxdet.families.registry import FamilyRegistry


class PyTorchFails(StageError):
    """mmdet's own detector raises; the message names it, the batch and what was raised."""

    stage = "build"


class Reference:
    """mmdet's detector in PyTorch.

    Args:
        detector: in eval mode, on the CPU.
        families: where its family is looked up; None: the built-in ones.
    """

    def __init__(self, detector: nn.Module, families: FamilyRegistry | None = None) -> None:
        self.detector = detector
        self.families = families

    @functools.cached_property
    def family(self) -> Family:
        """The detector's family, which knows its raw outputs and what can tie.

        Raises:
            UnsupportedPart: no family takes the detector; it can :meth:`run` all the same.
        """
        from pytest_onnxdet.families.registry import builtin_families

        return (self.families or builtin_families()).of(self.detector)

    def run(self, batch: Batch, mask_ranges: bool = False) -> list[Detections]:
        """The detector's detections of the batch's valid images, at the original images' sizes.

        Args:
            batch: the images.
            mask_ranges: whether detections get their ``mask_range``, where masks are refined at
                points that can tie, and their ``score_range``, where scores hang on masks' pixels.

        Raises:
            PyTorchFails: there is nothing to compare with.
        """

        def results(images: Tensor, metas: list[dict[str, Any]]) -> list[Any]:
            words: Any = {"return_loss": False, "rescale": True}
            try:
                found: list[Any] = self.detector(img=[images], img_metas=[metas], **words)
            except StageError:
                raise
            except Exception as error:  # whatever a network says of an input or of its settings
                raise PyTorchFails(_why_failing(self.detector, images, error)) from error
            return found

        return self._detections(batch, mask_ranges, results)

    def _detections(
        self,
        batch: Batch,
        mask_ranges: bool,
        results: Callable[[Tensor, list[dict[str, Any]]], list[Any]],
    ) -> list[Detections]:
        """Detections of mmdet's results of a batch, with what is noted while they are computed."""
        images = _images(batch)
        metas = [dict(meta) for meta in batch.metas]  # mmdet writes into them
        with contextlib.ExitStack() as watching:
            bounds = (
                watching.enter_context(watched_choices(self.detector))
                if mask_ranges and self.family.ties.points
                else []
            )
            maps = self._image_maps()
            notes = (
                watching.enter_context(self.family.noted_maps(self.detector))
                if maps is not None
                else []
            )
            seen = watching.enter_context(_watched_masks(self.detector))
            watching.enter_context(torch.no_grad())
            output = results(images, metas)
        detections = []
        cfg: Any = getattr(self.detector, "cfg", None)
        masked = any(isinstance(result, tuple) for result in output)
        threshold = mask_threshold(cfg.model) if masked else THRESHOLD
        for place, result in enumerate(output):
            boxes = result[0] if isinstance(result, tuple) else result
            # The mask head is only called for images that have a detection.
            has_masks = isinstance(result, tuple) and any(len(rows) for rows in boxes)
            if maps is not None:
                note = notes.pop(0) if has_masks else None
                ranges = score_ranges(note) if note is not None and mask_ranges else None
                frame_of = (images.shape[2:], metas[place]["img_shape"])
                one = _of_maps(result, note, maps, frame_of, ranges)
                detections.append(with_weights_ranged(one) if mask_ranges else one)
                continue
            masks = seen.pop(0) if has_masks else None
            bound = bounds.pop(0) if has_masks and bounds else None
            detections.append(_one(result, masks, bound, threshold))
        return detections[: batch.valid]

    def _image_maps(self) -> ImageMaps | None:
        """How the detector's masks are made of maps of the image; None: they are not."""
        from pytest_onnxdet.families.classes import UnsupportedPart

        try:
            return self.family.image_maps(self.detector)
        except UnsupportedPart:
            return None

    @property
    def device(self) -> str:
        """Where the detector computes, as reports name it: ``cpu``, ``cuda``."""
        weight = next(self.detector.parameters(), None)
        return "cpu" if weight is None else str(weight.device.type)

    def bare_call(self, batches: Iterable[Batch]) -> Callable[[], None]:
        """What is timed: the call of mmdet's detector alone, on tensors that are there already.

        Not :meth:`run`, which also watches the mask head and keeps what it sees.

        Args:
            batches: what each call of the returned function works through.
        """
        inputs = [(_images(batch).to(self.device), batch.metas) for batch in batches]

        def call() -> None:
            with torch.no_grad():
                for images, metas in inputs:
                    # mmdet writes into the metas.
                    self.detector(
                        img=[images],
                        img_metas=[[dict(meta) for meta in metas]],
                        return_loss=False,
                        rescale=True,
                    )

        return call

    def raw(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The heads' outputs, by the names that the raw graph gives them; see :class:`Family`.

        Raises:
            PyTorchFails: some are NaN: there is nothing to compare with.
        """
        images = _images(batch)
        size = tuple(images.shape[-2:])
        metas = [{**meta, "batch_input_shape": size} for meta in batch.metas]
        with torch.no_grad():
            outputs = self.family.raw_reference(self.detector, images, metas)
        nan = [name for name, value in outputs.items() if bool(value.isnan().any())]
        if nan:
            raise PyTorchFails(
                f"PyTorch's own outputs are no numbers (NaN in {', '.join(nan[:3])}"
                f"{', ...' if len(nan) > 3 else ''}): look at the checkpoint and at the images"
            )
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
        tensors = {name: torch.from_numpy(value.copy()) for name, value in raw.items()}
        family, detector = self.family, self.detector
        with _topk_lowest_first() if lowest_first else contextlib.nullcontext():
            return self._detections(
                batch,
                mask_ranges,
                lambda images, metas: family.post_process(detector, tensors, images, metas),
            )


def _why_failing(detector: nn.Module, images: Tensor, error: Exception) -> str:
    size = " x ".join(map(str, images.shape))
    return (
        f"{type(detector).__name__}: mmdet itself fails in PyTorch on a batch of {size} "
        f"({quoted(error)}): correct the config, or give images that it takes"
    )


def _images(batch: Batch) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(batch.images))


def _one(result: Any, seen: tuple[Any, Any] | None, bounds: Any, threshold: float) -> Detections:
    """One image's result, with the mask probabilities in the order of its detections."""
    if seen is None:
        return Detections.from_mmdet(result, mask_threshold=threshold)
    labels, probs = seen
    # mmdet's result is class by class, and within a class in the order of the mask head's input.
    order = np.argsort(labels, kind="stable")
    ranges = None if bounds is None else bounds[order]
    return Detections.from_mmdet(result, probs[order], ranges, threshold)


def _of_maps(
    result: Any,
    note: MapNote | None,
    maps: ImageMaps,
    sizes: tuple[Any, Any],
    ranges: Tensor | None,
) -> Detections:
    """One image's result, with the maps that its masks were made of in the order of its detections.

    Args:
        result: mmdet's.
        note: of the maps; None: nothing is detected.
        maps: how they are meant.
        sizes: of the network's input, and of the image in it before padding.
        ranges: (K, 2), between which the note's scores lie; None: not asked.
    """
    if note is None:
        return Detections.from_mmdet(result, mask_threshold=maps.threshold)
    order = np.argsort(note.labels.numpy(), kind="stable")
    values = note.maps.float().numpy()[order]
    return Detections.from_mmdet(
        result,
        values,
        mask_threshold=maps.threshold,
        frame=maps.frame(values.shape[1:], *sizes),
        score_range=None if ranges is None else ranges.float().numpy()[order],
    )


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

    with contextlib.ExitStack() as stack:
        for one in heads:
            stack.enter_context(overridden(one, get_seg_masks=watch(one)))
        yield seen


def max_per_img(detector: nn.Module) -> int | None:
    """Where a detector cuts an image's detections; None where its config keeps all."""
    cfg: Any = detector.cfg
    config = cfg.model.get("test_cfg") or {}
    value = (config.get("rcnn") or config.get("rpn") or config).get("max_per_img")
    return int(value) if value is not None and value > 0 else None
