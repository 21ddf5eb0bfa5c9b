"""Recordings in the cache: the reference runs once per model, images and batches.

An entry is one file (:mod:`pytest_onnxdet.bundle.format`), named by the hash of everything that
decides what PyTorch finds. It is written beside its place and renamed into it under a file lock, so
that of several processes one computes and the others wait and read. A file that does not read back
whole is recorded again, with a warning; one in another version of the format counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.bundle.format import FORMAT, BundleError, OtherFormat, read, write
from pytest_onnxdet.core.locks import StoreError, locked
from pytest_onnxdet.core.notes import note
from pytest_onnxdet.core.store import content_key, file_digest, remove_orphans, touch
from pytest_onnxdet.export.identity import code_digest, weights_digest
from pytest_onnxdet.reference.recording import (
    NOISE_IMAGES,
    RAW_BATCHES,
    RAW_IMAGES,
    Recording,
    record,
)
from pytest_onnxdet.run.by_image import ByImage, Known
from pytest_onnxdet.run.noise import measuring

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.reference.detector import Reference


VERSIONS = ("torch", "mmdet", "mmcv-full", "numpy", "opencv-python-headless", "opencv-python")


class Recordings:
    """A folder of recordings, shared by processes.

    Args:
        root: made when missing.

    Raises:
        StoreError: the folder cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the cache folder {root} cannot be made ({error.strerror}); "
                "choose another with --onnxdet-cache DIR"
            ) from error
        remove_orphans(root)

    def identity(self, detector: nn.Module, dataset: Dataset, batches: Batches) -> dict[str, Any]:
        """Everything that decides what ``detector`` finds in ``dataset``'s batches, by name."""
        cfg: Any = detector.cfg
        return {
            "weights": weights_digest(detector),
            "model": cfg.model.to_dict(),
            "pipeline": list(cfg.data.test.pipeline),
            "images": _images_digest(dataset),
            "batch": [batches.size, batches.shape, batches.fill],
            "raw": [RAW_IMAGES, RAW_BATCHES, NOISE_IMAGES],
            "format": FORMAT,
            "versions": versions(),
            "code": code_digest(detector),
        }

    def get(self, parts: Mapping[str, Any], record: Callable[[], Recording]) -> Recording:
        """The recording of these parts, made when it is missing, damaged or of another format.

        Args:
            parts: as :meth:`identity` gives them.
            record: makes it.
        """
        key = content_key(parts)
        place = self.root / f"{key}.npz"
        with locked(self.root / f"{key}.lock"):
            if place.exists():
                try:
                    stored = read(place)
                    touch(place)
                    return stored
                except OtherFormat:
                    pass
                except BundleError as error:
                    note(f"{error}; PyTorch is run again")
            made = record()
            write(place, made)
            return made


def recorded(
    reference: Reference, batches: Batches, images: Sequence[str], known: Known | None = None
) -> Recording:
    """Runs every image, measures the noise on the first ones, and counts the limits reached.

    Args:
        reference: the detector.
        batches: the images.
        images: their file names, in order.
        known: what other recordings of the same detector know of images; is added to.
    """
    known = Known() if known is None else known
    by_image = ByImage(reference, known)
    made = record(
        by_image,
        batches,
        size=batches.size,
        images=images,
        versions=versions(),
        measure=measuring(reference, known.exact),
    )
    by_image.remember(made.detections)
    return replace(made, cuts=by_image.reached)


def _images_digest(dataset: Dataset) -> str:
    """A hash of the annotations, of every image's bytes, and of what is added to them."""
    digest = hashlib.sha256(file_digest(dataset.spec.annotations).encode())
    digest.update(f"{dataset.spec.grain} {dataset.spec.enlarged}".encode())
    for index in range(len(dataset)):
        path = dataset.path(index)
        digest.update(path.name.encode())
        # A missing image is for the data room to report, when it is read.
        digest.update(file_digest(path).encode() if path.is_file() else b"")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of the packages that decide what PyTorch finds, those that are installed."""
    from importlib import metadata

    installed = {}
    for name in VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed
