"""Detections as a file: one .npz of plain arrays, with nothing in it that needs this package."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.core.store import StoreError
from pytest_onnxdet.data.detections import Detections, in_little_memory
from pytest_onnxdet.data.masks import THRESHOLD, RunLengthMasks

#: Of a data set's mask probabilities those of the first images are kept: up to so many images and
#: bytes, of these few in any case. 100 masks of 28 x 28 take 300 kB an image, of PointRend's
#: 224 x 224 they take 20 MB. Pasted masks are compared for all images.
PROBABILITY_IMAGES, PROBABILITY_BYTES, PROBABILITY_LEAST = 100, 256_000_000, 4


def packed(found: Iterable[Detections]) -> list[Detections]:
    """All images' detections in little memory, as a full data set has 5,000 images."""

    def images() -> Iterator[Detections]:
        spent = 0
        for number, one in enumerate(found):
            spent += 0 if one.mask_probs is None else one.mask_probs.nbytes
            fits = number < PROBABILITY_IMAGES and spent <= PROBABILITY_BYTES
            yield one.packed(number < PROBABILITY_LEAST or fits)

    return in_little_memory(images())


def write(path: Path, found: Sequence[Detections]) -> None:
    """Writes detections whole or not at all.

    Arrays: ``counts`` int64 (images,), then over all images ``boxes`` (K, 4), ``scores`` (K,),
    ``labels`` (K,); with masks ``sizes`` int64 (K, 2), ``lengths`` int64 (K,) and ``runs`` uint8,
    COCO's run lengths one after the other; with mask probabilities ``probs`` (P, h, w), of the
    first images up to the last that has them; ``threshold`` float64 (1,), that of the masks.

    Raises:
        StoreError: the disk refuses.
    """
    arrays: dict[str, NDArray[Any]] = {
        "counts": np.array([len(one) for one in found], dtype=np.int64),
        "boxes": _joined([one.boxes for one in found], np.zeros((0, 4), np.float32)),
        "scores": _joined([one.scores for one in found], np.zeros(0, np.float32)),
        "labels": _joined([one.labels for one in found], np.zeros(0, np.int64)),
    }
    masks = [one.packed().masks for one in found]
    if all(isinstance(one, RunLengthMasks) for one in masks) and masks:
        encoded = [rle for one in masks for rle in cast(RunLengthMasks, one).encoded]
        arrays["sizes"] = np.array([rle["size"] for rle in encoded], np.int64).reshape(-1, 2)
        arrays["lengths"] = np.array([len(rle["counts"]) for rle in encoded], dtype=np.int64)
        arrays["runs"] = np.frombuffer(b"".join(rle["counts"] for rle in encoded), np.uint8)
    probs = [one.mask_probs for one in found if one.mask_probs is not None and len(one)]
    if probs:
        arrays["probs"] = np.concatenate(probs)
    arrays["threshold"] = np.array([one.mask_threshold for one in found[:1]] or [THRESHOLD])
    try:
        handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **arrays)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise StoreError(
            f"the cache folder {path.parent} cannot be written to ({error.strerror}); "
            "choose another with --onnxdet-cache DIR"
        ) from error


def read(path: Path) -> list[Detections]:
    """Reads what :func:`write` wrote.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: the file is damaged; every array is
            under a checksum.
    """
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    counts = arrays["counts"]
    if any(len(arrays[name]) != counts.sum() for name in ("boxes", "scores", "labels")):
        raise ValueError("its arrays do not belong together")
    masks = _unpacked(arrays) if "sizes" in arrays else None
    probs, threshold = arrays.get("probs"), float(arrays["threshold"][0])
    found, at = [], 0
    for count in counts.tolist():
        rows = slice(at, at + count)
        found.append(
            Detections(
                arrays["boxes"][rows],
                arrays["scores"][rows],
                arrays["labels"][rows],
                None if masks is None else RunLengthMasks(masks[rows]),
                None if probs is None or at + count > len(probs) else probs[rows],
                mask_threshold=threshold,
            )
        )
        at += count
    return found


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """COCO's run-length encodings of all detections."""
    ends = np.cumsum(arrays["lengths"])
    runs = arrays["runs"].tobytes()
    if len(ends) != len(arrays["boxes"]) or len(runs) != (ends[-1] if len(ends) else 0):
        raise ValueError("its masks do not belong to its boxes")
    return [
        {"size": size, "counts": runs[end - length : end]}
        for size, end, length in zip(
            arrays["sizes"].tolist(), ends.tolist(), arrays["lengths"].tolist(), strict=True
        )
    ]


def _joined(parts: Sequence[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([empty, *parts]).astype(empty.dtype)
