"""What PyTorch detected in a set of images, as data.

A :class:`Recording` is the reference's side of every comparison, and all of it that leaves the
machine where PyTorch is: this module needs numpy alone. Files are written and read by
:mod:`pytest_onnxdet.bundle.format`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, in_little_memory
from pytest_onnxdet.reference.noise import Noise

#: The raw outputs are recorded of so many first images, and of this many batches at least: they are
#: large, and an image says as much about a convolution as a thousand do.
RAW_IMAGES, RAW_BATCHES = 4, 2
#: Of so many first images the noise of boxes, scores and masks is measured.
NOISE_IMAGES = 8
#: Of a data set's mask probabilities those of the first images are kept: up to so many images and
#: bytes, of these few in any case. 100 masks of 28 x 28 take 300 kB an image, of PointRend's
#: 224 x 224 they take 20 MB. Pasted masks are compared for all images.
PROBABILITY_IMAGES, PROBABILITY_BYTES, PROBABILITY_MIN = 100, 256_000_000, 4


@dataclass(frozen=True)
class Recording:
    """The reference's results on a set of images, in one order of batches.

    Attributes:
        inputs: SHA-256 of every batch's images and ``image_shape``, as the network gets them.
        batch: images a batch.
        images: file names.
        sizes: (height, width) of each image before the test pipeline, pixels; detections are in
            these.
        detections: one entry per image.
        raw: of the first batches the heads' outputs by name, float32 as the head gives them.
        versions: of the packages that decided the results, by name.
        noise: how far PyTorch's float32 is from float64, measured on the batches of ``raw``; None:
            not measured.
        cuts: in how many images each of the detector's limits on candidates was reached, by the
            limit's name in test_cfg (``proposals``: the proposal network's max_per_img).

    Raises:
        ValueError: its parts are not of the same images.
    """

    inputs: str
    batch: int
    images: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    detections: tuple[Detections, ...]
    raw: tuple[Mapping[str, NDArray[np.float32]], ...]
    versions: Mapping[str, str]
    noise: Noise | None = None
    cuts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {len(self.images), len(self.sizes), len(self.detections)}
        if len(counts) > 1 or len(self.raw) * self.batch >= len(self.images) + self.batch:
            raise ValueError(
                f"{len(self.images)} names, {len(self.sizes)} sizes, {len(self.detections)} "
                f"images' detections and {len(self.raw)} batches' raw outputs do not belong "
                "together"
            )


class Measures(Protocol):
    """Measures the noise of float32 on a recording's first batches."""

    def __call__(
        self,
        batches: Sequence[Batch],
        raw: Sequence[Mapping[str, NDArray[np.float32]]],
        detections: Sequence[Detections],
    ) -> Noise:
        """The noise of the raw outputs and detections that PyTorch's float32 gave these batches."""
        ...


class Runs(Protocol):
    """A detector as far as it is recorded.

    :class:`pytest_onnxdet.reference.detector.Reference` is one.
    """

    def run(self, batch: Batch) -> list[Detections]:
        """Detections of the batch's valid images."""
        ...

    def raw(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The heads' outputs of the batch."""
        ...


def record(
    reference: Runs,
    batches: Iterable[Batch],
    *,
    size: int,
    images: Sequence[str],
    versions: Mapping[str, str],
    measure: Measures | None = None,
) -> Recording:
    """Runs every batch once, and the first ones' raw outputs.

    Args:
        reference: what is recorded.
        batches: the images, in order.
        size: images a batch.
        images: file names, in the same order.
        versions: of the packages that decide the results.
        measure: asked for the noise, once; None: it is not measured.
    """
    digest = hashlib.sha256()
    sizes: list[tuple[int, int]] = []
    raw: list[Mapping[str, NDArray[np.float32]]] = []
    first: list[Batch] = []
    seen: list[Detections] = []

    def results() -> Iterator[Detections]:
        for batch in batches:
            _add(digest, batch.images)
            _add(digest, batch.image_shape)
            for meta in batch.metas[: batch.valid]:
                height, width = meta["ori_shape"][:2]
                sizes.append((int(height), int(width)))
            detected = reference.run(batch)
            more = len(raw) * size < RAW_IMAGES or len(raw) < RAW_BATCHES
            if more:
                raw.append(reference.raw(batch))
            if more or len(seen) < NOISE_IMAGES:
                first.append(batch)
                seen.extend(detected)
            yield from detected

    detections = tuple(packed(results()))
    return Recording(
        inputs=digest.hexdigest(),
        batch=size,
        images=tuple(images),
        sizes=tuple(sizes),
        detections=detections,
        raw=tuple(raw),
        versions=dict(versions),
        noise=None if measure is None else measure(first, raw, seen),
    )


def packed(results: Iterable[Detections]) -> list[Detections]:
    """All images' detections in little memory, as a full data set has 5,000 images."""

    def images() -> Iterator[Detections]:
        spent = 0
        for number, one in enumerate(results):
            spent += 0 if one.mask_probs is None else one.mask_probs.nbytes
            fits = number < PROBABILITY_IMAGES and spent <= PROBABILITY_BYTES
            yield one.packed(number < PROBABILITY_MIN or fits)

    return in_little_memory(images())


def _add(digest: Any, array: NDArray[Any]) -> None:
    digest.update(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
