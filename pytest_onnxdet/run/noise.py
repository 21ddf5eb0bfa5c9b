"""Measures the noise of float32 on a recording's first batches."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

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
        raw: their raw outputs in float32; none: those are not measured.
        detections: what float32 finds in their valid images; none: likewise.
    """
    from pytest_onnxdet.reference.float64 import Float64, samples

    figures: dict[str, Any] = {}
    with Float64(reference) as double:
        exact = [double.raw(batch) for batch, _ in zip(batches, raw, strict=False)]
        # torch: expected scalar type Float but found Double
        with contextlib.suppress(RuntimeError, TypeError):
            results = (
                [detected for batch in batches for detected in double.run(batch)]
                if detections
                else []
            )
            figures = detection_noise(results, detections, Tolerance())
    sampled = [list(samples(reference, *pair)) for pair in zip(batches, raw, strict=False)]
    maps = map_noise(exact, list(zip(*sampled, strict=True))) if sampled else {}
    return Noise(exact=exact, maps=maps, **figures)
