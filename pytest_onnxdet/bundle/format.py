"""A recording as a file: one .npz of plain arrays, with nothing in it that needs this package."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from pytest_onnxdet.core.locks import StoreError, open_mode
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.image_maps import Frame, ImageMaps
from pytest_onnxdet.data.masks import THRESHOLD, RunLengthMasks
from pytest_onnxdet.reference.noise import MapNoise, Noise
from pytest_onnxdet.reference.recording import Recording

#: What a file says it is written in. A reader takes no other: raise it with any change.
FORMAT = 3
_RAW, _EXACT, _PROBS = "raw", "exact", "probs"


class BundleError(Exception):
    """A recording's file cannot be read; the message names it and says why."""


class OtherFormat(BundleError):
    """The file is in another version of the format than this package reads."""


def write(path: Path, recording: Recording) -> None:
    """Writes a recording whole or not at all.

    Arrays: ``format`` int64 (), ``about`` (), a JSON text of what is no array; ``counts`` int64
    (images,), then over all images ``boxes`` (K, 4), ``scores`` (K,), ``labels`` (K,); with masks
    ``sizes`` int64 (K, 2), ``lengths`` int64 (K,) and ``runs`` uint8, COCO's run lengths one after
    the other; with mask probabilities ``probs`` (P, h, w), of the first images up to the last that
    has them; where masks are maps of the image ``maps``, a JSON text, ``frames`` int64 (images, 4)
    and, in place of ``probs``, ``probs/I`` (K, h, w) of image I; ``threshold`` float64 (1,), that
    of the masks; where masks have scores of their own ``mask_scores`` (K,); ``raw/B/NAME``, output
    NAME of batch B,
    and ``exact/B/NAME``, what is to be added to it for the same in float64, rounded to float32.

    Raises:
        StoreError: the disk refuses.
    """
    about = {
        "inputs": recording.inputs,
        "batch": recording.batch,
        "images": recording.images,
        "sizes": recording.sizes,
        "versions": dict(recording.versions),
        "noise": None if recording.noise is None else _figures(recording.noise),
        "raw": len(recording.raw),
        "cuts": dict(recording.cuts),
    }
    arrays: dict[str, NDArray[Any]] = {
        "format": np.array(FORMAT, dtype=np.int64),
        "about": np.array(json.dumps(about)),
        **_arrays(recording.detections),
    }
    for number, outputs in enumerate(recording.raw):
        arrays |= {f"{_RAW}/{number}/{name}": value for name, value in outputs.items()}
    if recording.noise is not None:
        for number, (outputs, exact) in enumerate(
            zip(recording.raw, recording.noise.exact, strict=True)
        ):
            arrays |= {
                f"{_EXACT}/{number}/{name}": (value - outputs[name]).astype(np.float32)
                for name, value in exact.items()
            }
    try:
        handle, name = tempfile.mkstemp(prefix=f"{path.stem}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, **arrays)
            os.chmod(name, open_mode(0o666))  # mkstemp lets nobody else read
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


def read(path: Path) -> Recording:
    """Reads what :func:`write` wrote.

    Raises:
        OtherFormat: it is of another version of the format.
        BundleError: there is no such file, or it is damaged; every array is under a checksum.
    """
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, NpzFile):
            raise ValueError("it is no archive of arrays")
        with stored:
            version = int(stored["format"]) if "format" in stored.files else 0
            if version != FORMAT:
                raise OtherFormat(
                    f"the recording {path} is in version {version} of the format, and this version "
                    f"of pytest-onnxdet reads {FORMAT}: record it again"
                )
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(str(arrays["about"]))
        inputs = about["inputs"]
        raw = tuple(_outputs(arrays, _RAW, number) for number in range(about["raw"]))
        return Recording(
            inputs=inputs,
            batch=about["batch"],
            images=tuple(about["images"]),
            sizes=tuple((height, width) for height, width in about["sizes"]),
            detections=tuple(_detections(arrays)),
            raw=raw,
            versions=about["versions"],
            cuts=about["cuts"],
            noise=None if about["noise"] is None else _noise(about["noise"], arrays, raw),
        )
    except FileNotFoundError as error:
        raise BundleError(f"there is no recording {path}") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"the recording {path} is damaged ({error})") from error


def _arrays(detections: Sequence[Detections]) -> dict[str, NDArray[Any]]:
    """All images' detections as a few arrays; see :func:`write`."""
    arrays: dict[str, NDArray[Any]] = {
        "counts": np.array([len(image) for image in detections], dtype=np.int64),
        "boxes": _joined([image.boxes for image in detections], np.zeros((0, 4), np.float32)),
        "scores": _joined([image.scores for image in detections], np.zeros(0, np.float32)),
        "labels": _joined([image.labels for image in detections], np.zeros(0, np.int64)),
    }
    masks = [image.packed().masks for image in detections]
    if all(isinstance(packed, RunLengthMasks) for packed in masks) and masks:
        encoded = [rle for packed in masks for rle in cast(RunLengthMasks, packed).encoded]
        arrays["sizes"] = np.array([rle["size"] for rle in encoded], np.int64).reshape(-1, 2)
        arrays["lengths"] = np.array([len(rle["counts"]) for rle in encoded], dtype=np.int64)
        arrays["runs"] = np.frombuffer(b"".join(rle["counts"] for rle in encoded), np.uint8)
    probs = [
        image.mask_probs for image in detections if image.mask_probs is not None and len(image)
    ]
    frames = [image.frame for image in detections if image.frame is not None]
    if frames:
        arrays["maps"] = np.array(frames[0].maps.text())
        arrays["frames"] = np.array(
            [
                (0,) * 4 if one.frame is None else (*one.frame.enlarged, *one.frame.image)
                for one in detections
            ],
            np.int64,
        )
        for number, image in enumerate(detections):
            if image.mask_probs is not None:
                arrays[f"{_PROBS}/{number}"] = image.mask_probs
    elif probs:
        arrays["probs"] = np.concatenate(probs)
    ranks = [image.mask_scores for image in detections if image.mask_scores is not None]
    if ranks and len(ranks) == len(detections):
        arrays["mask_scores"] = np.concatenate(ranks)
    arrays["threshold"] = np.array(
        [image.mask_threshold for image in detections[:1]] or [THRESHOLD]
    )
    return arrays


def _detections(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Detections]:
    """The inverse of :func:`_arrays`, image by image."""
    counts = arrays["counts"]
    if any(len(arrays[name]) != counts.sum() for name in ("boxes", "scores", "labels")):
        raise ValueError("its arrays do not belong together")
    masks = _unpacked(arrays) if "sizes" in arrays else None
    ranks = arrays.get("mask_scores")
    if ranks is not None and len(ranks) != counts.sum():
        raise ValueError("its mask scores do not belong to its boxes")
    probs, threshold = arrays.get("probs"), float(arrays["threshold"][0])
    maps = ImageMaps.read(str(arrays["maps"])) if "maps" in arrays else None
    at = 0
    for number, count in enumerate(counts.tolist()):
        rows = slice(at, at + count)
        own = None if probs is None or at + count > len(probs) else probs[rows]
        frame = None
        if maps is not None:
            own = arrays.get(f"{_PROBS}/{number}")
            height, width, *image = arrays["frames"][number].tolist()
            frame = Frame((height, width), (image[0], image[1]), maps) if height else None
        yield Detections(
            arrays["boxes"][rows],
            arrays["scores"][rows],
            arrays["labels"][rows],
            None if masks is None else RunLengthMasks(masks[rows]),
            own,
            mask_threshold=threshold,
            frame=frame,
            mask_scores=None if ranks is None else ranks[rows],
        )
        at += count


def _figures(noise: Noise) -> dict[str, Any]:
    """A noise without the exact outputs, which are arrays."""
    plain = {
        field.name: getattr(noise, field.name) for field in fields(noise) if field.name != "spread"
    }
    del plain["exact"]
    return plain | {"maps": {name: asdict(of_map) for name, of_map in noise.maps.items()}}


def _noise(
    figures: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    raw: Sequence[Mapping[str, NDArray[np.float32]]],
) -> Noise:
    """What :func:`_figures` and the arrays hold of a noise."""
    exact = [
        {
            name: outputs[name].astype(np.float64) + rest
            for name, rest in _outputs(arrays, _EXACT, number).items()
        }
        for number, outputs in enumerate(raw)
    ]
    maps = {name: MapNoise(**of_map) for name, of_map in figures["maps"].items()}
    return Noise(**{**figures, "maps": maps, "exact": exact})


def _outputs(
    arrays: Mapping[str, NDArray[Any]], kind: str, number: int
) -> dict[str, NDArray[np.float32]]:
    """One batch's outputs of a kind, in the order in which they were written."""
    prefix = f"{kind}/{number}/"
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}


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
