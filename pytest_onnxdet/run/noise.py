"""Measures the noise of float32 on a recording's first batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.noise import Noise, map_noise
from pytest_onnxdet.verify.noise import detection_noise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.reference.recording import Measures


def measuring(reference: Reference) -> Measures:
    """The noise of this reference, as :func:`pytest_onnxdet.reference.recording.record` asks it."""
    return partial(measure, reference)


def measure(
    reference: Reference,
    batches: Sequence[Batch],
    raw: Sequence[Mapping[str, NDArray[np.float32]]],
    detections: Sequence[Detections],
) -> Noise:
    """How far PyTorch's float32 is from float64.

    Where mmdet's own code of a detector does not run in float64 from one end to the other, that of
    its raw outputs is measured alone, and detections keep the outer allowances.

    Args:
        reference: the detector.
        batches: the images.
        raw: their raw outputs in float32.
        detections: what float32 finds in their valid images.
    """
    from pytest_onnxdet.reference.float64 import Float64, samples

    results: list[Detections] | None = []
    with Float64(reference.detector) as double:
        exact = [double.raw(batch) for batch in batches]
        try:
            results = [found for batch in batches for found in double.run(batch)]
        except (RuntimeError, TypeError):  # torch: expected scalar type Float but found Double
            results = None
    sampled = [list(samples(reference, *pair)) for pair in zip(batches, raw, strict=True)]
    maps = map_noise(exact, list(zip(*sampled, strict=True)))
    if results is None:
        return Noise(exact=exact, maps=maps)
    found = detection_noise(results, detections, Tolerance())
    return Noise(exact=exact, maps=maps, **found)
