"""Results by image: what holds the same pixels at the same padded size is run once.

In static mode every batch size pads an image alike, in dynamic mode most images are padded alike
whatever their batch. mmdet's test tool runs images one by one, and what it finds in one does not
hang on the others of its batch; a graph in which it does departs from the reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from pytest_onnxdet.data.batches import Batch, alone
from pytest_onnxdet.run.cuts import Counting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.models.spec import Tolerance
    from pytest_onnxdet.reference.detector import Reference

T = TypeVar("T")
#: How much memory proven alternatives may take.
PROVEN_BYTES = 512_000_000


def input_key(image: Batch) -> str:
    """A hash of all that a detector is fed of one image: pixels, sizes and its img_meta."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr((image.images.shape, sorted(image.metas[0].items()))).encode())
    digest.update(np.ascontiguousarray(image.image_shape).data)
    digest.update(np.ascontiguousarray(image.images).data)
    return digest.hexdigest()


class ByInput(Generic[T]):
    """Values by what was fed in.

    Args:
        values: to begin with, by :func:`input_key`.
    """

    def __init__(self, values: Mapping[str, T] | None = None) -> None:
        self.values = dict(values or {})

    def get(self, image: Batch, make: Callable[[Batch], T]) -> T:
        """The image's value, made where it is not known.

        Args:
            image: a batch of one.
            make: makes the value of such a batch.
        """
        key = input_key(image)
        if key not in self.values:
            self.values[key] = make(image)
        return self.values[key]


class Proven:
    """Alternatives by image: what PyTorch might have detected, where float ties leave that open.

    They are PyTorch's own results, whichever candidate made it look for them. The first that went
    in are forgotten where all take more than :data:`PROVEN_BYTES`: with the ranges of refined masks
    an image's take megabytes.
    """

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, Tolerance], list[Detections]] = {}
        self._bytes = 0

    def of(self, image: Batch, tolerance: Tolerance) -> list[Detections]:
        """The alternatives of an image, a batch of one, that were proven within an allowance."""
        return list(self._by_key.get((input_key(image), tolerance), ()))

    def add(self, image: Batch, tolerance: Tolerance, alternatives: Iterable[Detections]) -> None:
        """Keeps alternatives of an image. What is open in a mask hangs on the allowance."""
        proven = self._by_key.setdefault((input_key(image), tolerance), [])
        for one in alternatives:
            proven.append(one)
            self._bytes += _size(one)
        while self._bytes > PROVEN_BYTES and self._by_key:
            self._bytes -= sum(map(_size, self._by_key.pop(next(iter(self._by_key)))))


def _size(detections: Detections) -> int:
    """Bytes, about: what is large is."""
    parts = (detections.masks, detections.mask_probs, detections.mask_range)
    return sum(getattr(part, "nbytes", 0) for part in parts) + detections.boxes.nbytes


class Known:
    """What a detector is known to find, shared by all recordings of one model.

    Attributes:
        results: of an image, by :func:`input_key`, its detections and the limits on candidates that
            it reaches.
        exact: its detections in float64, of the images that noise is measured on.
        proven: what it might have detected as well, as was proven of some candidate.
    """

    def __init__(self) -> None:
        self.results: dict[str, tuple[Detections, frozenset[str]]] = {}
        self.exact: ByInput[list[Detections]] = ByInput()
        self.proven = Proven()


class ByImage:
    """A reference that runs a batch's images one by one, and none that it knows.

    Attributes:
        reached: in how many images each limit was reached, see :class:`Counting`.

    Args:
        reference: the detector.
        known: is read, and written by :meth:`remember`.
    """

    def __init__(self, reference: Reference, known: Known) -> None:
        self._counting = Counting(reference)
        self._known = known
        self._ran: list[tuple[str, frozenset[str]]] = []
        self.reached = dict(self._counting.reached)

    def run(self, batch: Batch) -> list[Detections]:
        """Detections of the batch's valid images."""
        return [self._one(image) for image in alone(batch)]

    def raw(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The heads' outputs of the batch."""
        return self._counting.raw(batch)

    def remember(self, detections: Iterable[Detections]) -> None:
        """Keeps the detections of all images that were run, in that order, for other batches.

        They are handed back since a recording keeps them in less memory than they came in.
        """
        for (key, cuts), one in zip(self._ran, detections, strict=True):
            self._known.results[key] = one, cuts

    def _one(self, image: Batch) -> Detections:
        key = input_key(image)
        detections, cuts = self._known.results.get(key) or self._run(image)
        self._ran.append((key, cuts))
        for name in cuts:
            self.reached[name] += 1
        return detections

    def _run(self, image: Batch) -> tuple[Detections, frozenset[str]]:
        before = dict(self._counting.reached)
        (detections,) = self._counting.run(image)
        after = self._counting.reached
        return detections, frozenset(name for name in after if after[name] > before[name])
