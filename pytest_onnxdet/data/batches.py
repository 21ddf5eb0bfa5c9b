"""Samples and batches: images as arrays with what mmdet's pipeline says about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.core.errors import StageError

#: Bytes of images that :class:`CachedBatches` keeps in memory.
CACHE_BYTES = 512_000_000


class DataError(StageError):
    """Data cannot be read or used; the message names the file at fault and the remedy."""

    stage = "data"


@dataclass
class Sample:
    """One image after the config's test pipeline.

    Attributes:
        image: float32 (C, h, w), padded by the pipeline's own Pad step.
        meta: mmdet's img_meta of the image.
    """

    image: NDArray[np.float32]
    meta: dict[str, Any]


@dataclass
class Batch:
    """Images of one size.

    Attributes:
        images: float32 (N, C, H, W), zero-padded at the right and the bottom.
        image_shape: int64 (N, 2), each image's (h, w) before any padding: ``img_shape``.
        metas: N img_metas, as the pipeline gave them but for ``pad_shape``: (H, W, 3).
        valid: how many of the N count; the rest repeat images to fill the batch.
    """

    images: NDArray[np.float32]
    image_shape: NDArray[np.int64]
    metas: list[dict[str, Any]]
    valid: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.valid < 0:
            self.valid = len(self.metas)


class Source(Protocol):
    """What `Batches` needs of a data set."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """Image ``index`` after the test pipeline."""
        ...


def collate(
    samples: Sequence[Sample],
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Batch:
    """Zero-pad samples to one size and stack them.

    Args:
        samples: at least one.
        size: (H, W) of the batch; None: the largest height and width among the samples.
        channels: how many the detector takes; None: as many as the first sample has.

    Raises:
        DataError: there is no sample, one does not fit into ``size``, or has other channels.
    """
    if not samples:
        raise DataError("a batch of no images: give at least one")
    wanted = samples[0].image.shape[0] if channels is None else channels
    for row, sample in enumerate(samples):
        if sample.image.shape[0] != wanted:
            whose = "the detector takes" if channels is not None else "the first image has"
            raise DataError(
                f"{sample.meta.get('filename', f'sample {row}')}: {sample.image.shape[0]} "
                f"channel(s) after the test pipeline, where {whose} {wanted}: correct the "
                "pipeline's loading step (color_type) or the backbone's in_channels"
            )
    heights, widths = zip(*(sample.image.shape[1:] for sample in samples), strict=True)
    height, width = size or (max(heights), max(widths))
    images = np.zeros((len(samples), wanted, height, width), np.float32)
    shapes = np.zeros((len(samples), 2), np.int64)
    for row, sample in enumerate(samples):
        # What the pipeline padded beyond the image is zeros: only the image has to fit, or the
        # whole canvas where the image is centred on one (CornerNet's ``border``).
        centred = "border" in sample.meta
        inner_h, inner_w = sample.image.shape[1:] if centred else sample.meta["img_shape"][:2]
        if inner_h > height or inner_w > width:
            raise DataError(
                f"{sample.meta.get('filename', f'sample {row}')}: {inner_h} x {inner_w} px after "
                f"the test pipeline does not fit the batch's {height} x {width}: use a larger "
                "static shape or the dynamic mode"
            )
        h, w = min(sample.image.shape[1], height), min(sample.image.shape[2], width)
        images[row, :, :h, :w] = sample.image[:, :h, :w]
        shapes[row] = sample.meta["img_shape"][:2]
    # mmdet's CornerHead reads the network input's size from pad_shape. Its own collate leaves the
    # size before batching there, and boxes of a padded image come out scaled.
    metas = [{**sample.meta, "pad_shape": (height, width, 3)} for sample in samples]
    return Batch(images, shapes, metas)


class Batches:
    """A data set in batches, in order; each is computed when asked for, as a full set is large.

    Args:
        dataset: where samples come from.
        size: images a batch; the last batch has what is left.
        shape: (H, W) of every batch; None: each batch's own largest.
        limit: only the first so many images.
        fill: bring a smaller last batch up to ``size`` by repeating images from the start of the
            data set; ``Batch.valid`` says how many are real.
        channels: how many an image must have; None: as many as the first of its batch.

    Raises:
        ValueError: ``size`` is less than 1.
    """

    def __init__(
        self,
        dataset: Source,
        size: int,
        shape: tuple[int, int] | None = None,
        limit: int | None = None,
        fill: bool = False,
        channels: int | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"a batch of {size} images: give 1 or more")
        self.dataset, self.size, self.shape, self.fill = dataset, size, shape, fill
        self.channels = channels
        self.images = len(dataset) if limit is None else min(limit, len(dataset))

    def __len__(self) -> int:
        return -(-self.images // self.size)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        chosen = list(range(number * self.size, min((number + 1) * self.size, self.images)))
        valid = len(chosen)
        if self.fill:
            chosen += [i % self.images for i in range(self.size - valid)]
        samples = [self.dataset.sample(index) for index in chosen]
        batch = collate(samples, self.shape, self.channels)
        batch.valid = valid
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return (self[number] for number in range(len(self)))


class CachedBatches(Batches):
    """Batches that are read once, as far as :data:`CACHE_BYTES` go."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(
            batches.dataset,
            batches.size,
            batches.shape,
            limit=batches.images,
            fill=batches.fill,
            channels=batches.channels,
        )
        self._cache: dict[int, Batch] = {}
        self._bytes = 0

    def __getitem__(self, number: int) -> Batch:
        if number not in self._cache:
            batch = super().__getitem__(number)
            if self._bytes + batch.images.nbytes > CACHE_BYTES:
                return batch
            self._cache[number] = batch
            self._bytes += batch.images.nbytes
        return self._cache[number]


def alone(batch: Batch) -> Iterator[Batch]:
    """A batch's valid images, each as a batch of its own at the same padded size."""
    for i in range(batch.valid):
        row = slice(i, i + 1)
        yield Batch(batch.images[row], batch.image_shape[row], batch.metas[row], valid=1)
