"""Data sets on disk, read and evaluated by mmdet's own CocoDataset."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_onnxdet.core.registry import Registry
from pytest_onnxdet.data.batches import DataError, Sample
from pytest_onnxdet.data.scenes import CLASSES
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

SHAPES = Path(__file__).parent / "shapes"
STATIC_MULTIPLE = 32


@dataclass(frozen=True)
class DatasetSpec:
    """Where a data set lies.

    Attributes:
        name: what ``ModelSpec.dataset`` refers to.
        annotations: COCO json.
        images: folder that the json's file names are relative to.
        kind: the annotation format; "coco" is the only one.
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
            return self._things[name]
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

    def __init__(self, spec: DatasetSpec, coco: Any, pipeline: Sequence[dict[str, Any]]) -> None:
        self.spec = spec
        self.coco = coco
        self._pipeline = pipeline
        self._fitted: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.coco)

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
                f"{path}: no such image, though {self.spec.annotations} lists it: put it there "
                "or correct the folder"
            )
        try:
            data = self.coco[index]
        except Exception as error:
            raise DataError(_why_unreadable(path, error)) from error
        image, meta = data["img"], data["img_metas"]
        if isinstance(image, list | tuple):
            image, meta = image[0], meta[0]
        image = getattr(image, "data", image) if not hasattr(image, "numpy") else image
        meta = meta.data if hasattr(meta, "data") else meta
        return Sample(np.ascontiguousarray(image.numpy(), np.float32), dict(meta))

    def fitted_size(self) -> tuple[int, int]:
        """(H, W): the smallest multiples of 32 that hold every image after the test pipeline.

        One image is taken through the pipeline for each distinct size in the data set, as
        the size of the result depends on nothing else.
        """
        if self._fitted is None:
            first: dict[tuple[int, int], int] = {}
            for index, info in enumerate(self.coco.data_infos):
                first.setdefault((info["height"], info["width"]), index)
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
    check_coco(spec)
    ensure_torchvision()
    from mmdet.datasets import build_dataset

    pipeline = copy.deepcopy(cfg.data.test.pipeline)
    # The first step reads the image.
    if spec.grain:
        pipeline.insert(1, _Grain(spec.grain))
    if spec.enlarged != 1:
        pipeline.insert(1, _Enlarged(spec.enlarged))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = build_dataset(
            {
                "type": "CocoDataset",
                "ann_file": str(spec.annotations),
                "img_prefix": str(spec.images),
                "classes": spec.classes,
                "pipeline": pipeline,
                "test_mode": True,
            }
        )
    if limit is not None:
        coco.data_infos = coco.data_infos[:limit]
        coco.img_ids = coco.img_ids[:limit]
    if not len(coco):
        raise DataError(f"{spec.annotations}: no images: there would be nothing to compare")
    return Dataset(spec, coco, pipeline)


@dataclass(frozen=True)
class _Enlarged:
    """A pipeline step that makes images larger, as if they had been read so."""

    times: int

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        import cv2

        image = cv2.resize(results["img"], None, fx=self.times, fy=self.times)
        return {**results, "img": image, "img_shape": image.shape, "ori_shape": image.shape}


@dataclass(frozen=True)
class _Grain:
    """A pipeline step that adds normal noise to grey levels, seeded by the image's file name."""

    deviation: float

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        image = results["img"]
        seed = zlib.crc32(results["img_info"]["filename"].encode())
        noise = np.random.default_rng(seed).normal(0.0, self.deviation, image.shape)
        grained = np.clip(np.round(image + noise), 0, 255).astype(image.dtype)
        return {**results, "img": grained}


def check_coco(spec: DatasetSpec) -> None:
    """Raise `DataError` unless the spec's files are there and say what the spec says."""
    if spec.kind != "coco":
        raise DataError(f"data set {spec.name!r}: kind {spec.kind!r}: only 'coco' is read")
    if not spec.annotations.is_file():
        raise DataError(
            f"{spec.annotations}: no such annotation file (data set {spec.name!r}): give the "
            "folder that holds it"
        )
    if not spec.images.is_dir():
        raise DataError(
            f"{spec.images}: no such image folder (data set {spec.name!r}): give the right one"
        )
    try:
        document = json.loads(spec.annotations.read_text())
        names = [str(c["name"]) for c in document["categories"]]
        ids = {c["id"] for c in document["categories"]}
        images = {image["id"] for image in document["images"]}
        objects = [(a["id"], a["category_id"], a["image_id"]) for a in document["annotations"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(
            f"{spec.annotations}: not a COCO annotation file: {type(error).__name__}: {error}: "
            "it needs images, categories and annotations"
        ) from error
    unknown = [name for name in names if name not in spec.classes]
    absent = [name for name in spec.classes if name not in names]
    if unknown or absent:
        parts = [f"unknown categories {', '.join(unknown)}"] if unknown else []
        parts += [f"no category {', '.join(absent)}"] if absent else []
        raise DataError(
            f"{spec.annotations}: {'; '.join(parts)}; the data set's classes are "
            f"{', '.join(spec.classes)}: correct the file or the classes of {spec.name!r}"
        )
    if tuple(names) != spec.classes:
        # mmdet numbers labels in the order of the file.
        raise DataError(
            f"{spec.annotations}: categories in the order {', '.join(names)}, but labels follow "
            f"{', '.join(spec.classes)}: bring one in the order of the other"
        )
    for number, category, image in objects:
        if category not in ids or image not in images:
            what = f"category id {category}" if category not in ids else f"image id {image}"
            raise DataError(
                f"{spec.annotations}: annotation {number} has the unknown {what}: correct the file"
            )


def _encoded(result: Any) -> Any:
    """A result whose masks are run-length encoded, as CocoDataset wants them."""
    from mmdet.core import encode_mask_results

    if not isinstance(result, tuple):
        return result
    boxes, masks = result
    if isinstance(masks, tuple):  # Mask Scoring R-CNN: masks and their scores
        return boxes, masks
    first = next((mask for of_class in masks for mask in of_class), None)
    plain = first is None or isinstance(first, dict)
    return boxes, masks if plain else encode_mask_results(masks)


def _why_unreadable(path: Path, error: Exception) -> str:
    import cv2

    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raw = np.fromfile(path, np.uint8)
    if raw.size == 0 or cv2.imdecode(raw, cv2.IMREAD_COLOR) is None:
        return f"{path}: cannot be read as an image: replace the file"
    return f"{path}: the test pipeline fails on this image ({reason}): correct data.test.pipeline"
