"""Data sets on disk, read and evaluated by mmdet's own CocoDataset."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.core.registry import Registry
from pytest_onnxdet.data.altered import Enlarged, Grain
from pytest_onnxdet.data.annotations import (
    Annotations,
    Measure,
    for_mmdet,
    read_annotations,
)
from pytest_onnxdet.data.batches import DataError, Sample
from pytest_onnxdet.data.masks import has_masks
from pytest_onnxdet.data.photographs import (
    Header,
    check_images,
    measure_by,
    picture,
    read_header,
    require_collected,
    require_meta,
    why_unreadable,
)
from pytest_onnxdet.data.places import why_absent
from pytest_onnxdet.data.scenes import CLASSES
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
from pytest_onnxdet.models.unbuildable import quoted, unwrapped

SHAPES = Path(__file__).parent / "shapes"
STATIC_MULTIPLE = 32
#: The kind of a data set without annotations.
IMAGES_ALONE = "images"
#: Of one whose objects have boxes and no outlines.
BOXES_ALONE = "boxes"
_KINDS = ("coco", IMAGES_ALONE, BOXES_ALONE)


@dataclass(frozen=True)
class DatasetSpec:
    """Where a data set lies.

    Attributes:
        name: what ``ModelSpec.dataset`` refers to.
        annotations: COCO json.
        images: folder that the json's file names are relative to.
        kind: the annotation format: "coco"; "images" where the json lists images alone, so that
            there is no AP; "boxes" where no object has an outline, so that there is none of masks.
        classes: category names, in the order of the json's categories, which is label order.
        grain: standard deviation, in grey levels, of noise added to each image as it is read, the
            same at every reading. In an even area all pixels, features and scores are equal, and
            which of equal boxes is kept is left to chance; no photograph has such areas.
        enlarged: how many times as wide and high each image is made as it is read. The annotations
            stay those of the smaller image, so there is no AP.
    """

    name: str
    annotations: Path
    images: Path
    kind: str = "coco"
    classes: tuple[str, ...] = ()
    grain: float = 0.0
    enlarged: int = 1


class DatasetRegistry(Registry[DatasetSpec]):
    """Data set specs, unique by name."""

    def duplicate(self, thing: DatasetSpec, present: DatasetSpec) -> ValueError:
        """The error for a second data set of one name."""
        return ValueError(f"data set {thing.name!r} is registered already: use another name")

    def get(self, name: str) -> DatasetSpec:
        """The spec of that name; raises `DataError` listing the names there are."""
        try:
            return self.entries[name]
        except KeyError:
            raise DataError(
                f"no data set {name!r}; there are: {', '.join(self.names())}: register it with "
                "the hook pytest_onnxdet_datasets"
            ) from None


def builtin_datasets() -> DatasetRegistry:
    """A fresh registry with the drawn scenes: as they are, with grain, as large as photographs."""
    shapes = DatasetSpec("shapes", SHAPES / "annotations.json", SHAPES / "val", classes=CLASSES)
    grained = replace(shapes, name="grained_shapes", grain=8.0)
    return DatasetRegistry([shapes, grained, replace(grained, name="large_shapes", enlarged=4)])


class Dataset:
    """A COCO data set seen through a config's test pipeline.

    Samples are computed at each call, not kept: a full-size data set does not fit in memory.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        coco: Any,
        pipeline: Sequence[dict[str, Any]],
        notes: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.coco = coco
        self.notes = tuple(notes)
        self._pipeline = pipeline
        self._fitted: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.coco)

    def keep_only(self, chosen: Sequence[int]) -> None:
        """Leaves the samples of these numbers, in this order."""
        for name in ("data_infos", "img_ids"):
            listed = getattr(self.coco, name)
            setattr(self.coco, name, [listed[number] for number in chosen])

    @property
    def image_ids(self) -> list[int]:
        """COCO image ids in sample order."""
        return list(self.coco.img_ids)

    def path(self, index: int) -> Path:
        """The image file of sample ``index``."""
        return self.spec.images / self.coco.data_infos[index]["filename"]

    def sample(self, index: int) -> Sample:
        """Image ``index`` through the test pipeline; the first one of its augmentations.

        Raises:
            DataError: the image is missing, unreadable, or the pipeline fails on it.
        """
        path = self.path(index)
        if not path.is_file():
            raise DataError(
                f"{path}: no such image{why_absent(path)}, though {self.spec.annotations} lists "
                "it: put it there or correct the folder"
            )
        try:
            data = self.coco[index]
        except Exception as error:
            raise DataError(why_unreadable(path, error, self._pipeline)) from error
        require_collected(path, data)
        image, meta = data["img"], data["img_metas"]
        if isinstance(image, list | tuple):
            image, meta = image[0], meta[0]
        image = getattr(image, "data", image) if not hasattr(image, "numpy") else image
        meta = meta.data if hasattr(meta, "data") else meta
        require_meta(path, meta)
        return Sample(np.ascontiguousarray(image.numpy(), np.float32), dict(meta))

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """The kinds of AP that the annotations allow; None: any."""
        return ("bbox",) if self.spec.kind == BOXES_ALONE else None

    @property
    def said(self) -> dict[str, Any]:
        """What a record says of the data: ``data_notes``, where there are any."""
        return {"data_notes": list(self.notes)} if self.notes else {}

    def check_images(self, masks: bool, present: bool = True) -> None:
        """Adds to ``notes`` what is odd about the images; see `photographs.check_images`.

        Raises:
            DataError: one is missing, or cannot be evaluated.
        """
        images = [(self.path(index), info) for index, info in enumerate(self.coco.data_infos)]
        self.notes += check_images(images, self._pipeline, masks=masks, present=present)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Image ``index`` before the pipeline, to paint on: (H, W, 3), BGR."""
        return picture(self._pipeline, self.path(index))

    def fitted_size(self) -> tuple[int, int]:
        """(H, W): the smallest multiples of 32 that hold every image after the test pipeline.

        One image is taken through the pipeline for each distinct size in the data set and way
        in which a camera was held, as the size of the result depends on nothing else. The files
        themselves are looked at: what a json lists may be another size, or none.
        """
        if self._fitted is None:
            first: dict[Header | int, int] = {}
            for index in range(len(self)):
                first.setdefault(read_header(self.path(index)) or index, index)
            shapes = np.array([self.sample(i).image.shape[1:] for i in first.values()])
            height, width = -(-shapes.max(0) // STATIC_MULTIPLE) * STATIC_MULTIPLE
            self._fitted = int(height), int(width)
        return self._fitted

    def evaluate(
        self, results: list[Any], metrics: Sequence[str] = ("bbox", "segm")
    ) -> dict[str, float]:
        """COCO metrics by mmdet's ``CocoDataset.evaluate``: ``bbox_mAP``, ``segm_mAP``, ...

        Args:
            results: one entry an image in sample order: a list with, for each class, a
                float (n, 5) array; or a pair of that and the masks, one list a class, RLE or
                bool (H, W), for mask models.
            metrics: "segm" is left out where the results hold no masks.

        Returns:
            Metrics on the 0-1 scale; no detection in the whole data set is AP 0.
        """
        if self.spec.enlarged != 1:
            raise DataError(f"{self.spec.name}: enlarged images do not fit their annotations")
        if len(results) != len(self):
            raise DataError(f"{len(results)} results for {len(self)} images")
        wanted = [m for m in metrics if m != "segm" or isinstance(results[0], tuple)]
        with contextlib.redirect_stdout(io.StringIO()):
            figures = self.coco.evaluate(
                [_encoded(result) for result in results], metric=wanted, logger="silent"
            )
        values = {k: float(v) for k, v in figures.items() if not isinstance(v, str)}
        return {f"{metric}_mAP": 0.0 for metric in wanted} | values


def load_dataset(spec: DatasetSpec, cfg: Any, limit: int | None = None) -> Dataset:
    """Open ``spec`` with the test pipeline of ``cfg`` (an mmcv Config).

    Args:
        spec: where the data set lies.
        cfg: the model's config; its ``data.test.pipeline`` is used.
        limit: keep only the first so many images.

    Raises:
        DataError: the annotations or the folder are missing or broken, or the categories are
            not the spec's classes.
    """
    ensure_torchvision()
    from mmdet.datasets import build_dataset

    pipeline = copy.deepcopy(cfg.data.test.pipeline)
    masks = has_masks(cfg.get("model") or {}) and spec.kind != BOXES_ALONE
    annotations = check_coco(spec, masks, measure_by(pipeline, spec.images))
    # The first step reads the image.
    if spec.grain:
        pipeline.insert(1, Grain(spec.grain))
    if spec.enlarged != 1:
        pipeline.insert(1, Enlarged(spec.enlarged))
    with contextlib.redirect_stdout(io.StringIO()), for_mmdet(annotations) as file:
        try:
            coco = build_dataset(
                {
                    "type": "CocoDataset",
                    "ann_file": str(file),
                    "img_prefix": str(spec.images),
                    "classes": spec.classes,
                    "pipeline": pipeline,
                    "test_mode": True,
                }
            )
        except Exception as error:  # the annotations were looked at: it is the pipeline
            raise DataError(
                f"{spec.annotations}: the test data cannot be opened "
                f"({quoted(unwrapped(error)[1])}): correct data.test.pipeline of the config"
            ) from error
    if limit is not None:
        coco.data_infos = coco.data_infos[:limit]
        coco.img_ids = coco.img_ids[:limit]
    coco.ann_file = str(spec.annotations)
    if not len(coco):
        raise DataError(f"{spec.annotations}: no images: there would be nothing to compare")
    # Of a json that was made of a folder there is nothing to say.
    notes = () if spec.kind == IMAGES_ALONE else annotations.notes
    if spec.kind == BOXES_ALONE and has_masks(cfg.get("model") or {}):
        notes = (*notes, f"{spec.annotations}: no segmentations: AP is that of boxes alone")
    dataset = Dataset(spec, coco, pipeline, notes)
    dataset.check_images(masks, present=False)
    return dataset


def check_coco(
    spec: DatasetSpec, masks: bool = False, measure: Measure | None = None
) -> Annotations:
    """The spec's annotations, checked.

    Args:
        spec: where they lie.
        masks: whether every object needs a segmentation.
        measure: see :func:`pytest_onnxdet.data.annotations.read_annotations`.

    Raises:
        DataError: the spec's files are not there, or do not say what the spec says.
    """
    if spec.kind not in _KINDS:
        raise DataError(
            f"data set {spec.name!r}: kind {spec.kind!r}: give one of {', '.join(_KINDS)}"
        )
    if not spec.annotations.is_file():
        raise DataError(
            f"{spec.annotations}: no such annotation file{why_absent(spec.annotations)} (data set "
            f"{spec.name!r}): give the folder that holds it"
        )
    if not spec.images.is_dir():
        raise DataError(
            f"{spec.images}: no such image folder{why_absent(spec.images)} (data set "
            f"{spec.name!r}): give the right one"
        )
    return read_annotations(spec.annotations, classes=spec.classes, masks=masks, measure=measure)


def _encoded(result: Any) -> Any:
    """A result whose masks are run-length encoded, as CocoDataset wants them."""
    from mmdet.core import encode_mask_results

    if not isinstance(result, tuple):
        return result
    boxes, masks = result
    if isinstance(masks, tuple):  # Mask Scoring R-CNN: masks and their scores
        return boxes, (_encoded((boxes, masks[0]))[1], masks[1])
    first = next((mask for of_class in masks for mask in of_class), None)
    plain = first is None or isinstance(first, dict)
    return boxes, masks if plain else encode_mask_results(masks)
