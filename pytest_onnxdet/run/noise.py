"""Measures the noise of float32 on a recording's first batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.data.batches import alone
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.noise import Noise, map_noise
from pytest_onnxdet.reference.recording import NOISE_IMAGES
from pytest_onnxdet.run.by_image import ByInput
from pytest_onnxdet.verify.noise import detection_noise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.reference.recording import Measures


def measuring(reference: Reference, exact: ByInput[list[Detections]] | None = None) -> Measures:
    """The noise of this reference, as :func:`pytest_onnxdet.reference.recording.record` asks it."""
    return partial(measure, reference, exact=exact)


def measure(
    reference: Reference,
    batches: Sequence[Batch],
    raw: Sequence[Mapping[str, NDArray[np.float32]]],
    detections: Sequence[Detections],
    exact: ByInput[list[Detections]] | None = None,
) -> Noise:
    """How far PyTorch's float32 is from float64.

    Where mmdet's own code of a detector does not run in float64 from one end to the other, that of
    its raw outputs is measured alone, and detections keep the outer allowances.

    Args:
        reference: the detector.
        batches: the images.
        raw: their raw outputs in float32; none: those are not measured.
        detections: what float32 finds in their valid images; none: likewise. Of these the first
            :data:`NOISE_IMAGES` are measured.
        exact: what float64 is known to find; is added to.
    """
    from pytest_onnxdet.reference.float64 import Float64, samples

    figures: dict[str, Any] = {}
    exact = ByInput() if exact is None else exact
    with Float64(reference) as double:
        raw64 = [double.raw(batch) for batch, _ in zip(batches, raw, strict=False)]
        with _float32_alone():
            singles = (one for batch in batches for one in alone(batch))
            pairs = list(zip(islice(singles, NOISE_IMAGES), detections, strict=False))
            results = [result for one, _ in pairs for result in exact.get(one, double.run)]
            figures = detection_noise(results, [ours for _, ours in pairs], Tolerance())
    sampled = [list(samples(reference, *pair)) for pair in zip(batches, raw, strict=False)]
    maps = map_noise(raw64, list(zip(*sampled, strict=True))) if sampled else {}
    return Noise(exact=raw64, maps=maps, **figures)


@contextlib.contextmanager
def _float32_alone() -> Iterator[None]:
    """For the duration of the block, code of mmdet's that takes float32 alone may end it.

    torch says "expected scalar type Float but found Double".
    """
    from pytest_onnxdet.reference.detector import PyTorchFails

    try:
        yield
    except (RuntimeError, TypeError):
        pass
    except PyTorchFails as error:
        if not isinstance(error.__cause__, RuntimeError | TypeError):
            raise
