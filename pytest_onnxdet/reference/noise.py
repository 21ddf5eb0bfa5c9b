"""How far float32 itself is from the exact answer: the measure of every allowance.

A network's float32 outputs depend on the order in which sums are taken, so two correct runtimes
differ. How much, PyTorch alone shows: it is run in float32, rounded in more than one way,
and in float64, which is exact beside it (1e-9 of the difference). A backend is right if it is as
near to the exact answer as PyTorch is.

Nothing here imports PyTorch: :mod:`pytest_onnxdet.reference.float64` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

#: How much farther than PyTorch a backend may be from float64, at a map's worst element and by
#: root mean square. Of two equally good roundings of one map the worst of a few hundred elements
#: are seen to differ by up to 2.6 and the means by up to 1.8 (twelve minis, ONNX Runtime, batch 1
#: to 3, a crowd among the images); twice that keeps clean runs below half of the allowance. A layer
#: whose weights are scaled by 1.0004, or rounded to fp16, is off by hundreds.
WORST, MEAN = 6.0, 4.0
#: How much wider allowances are on a GPU, whose libraries take 3 x 3 convolutions by Winograd's
#: minimal filtering. Computed by that in float32, raw outputs are up to 7.1 times as far from
#: float64 as PyTorch's by root mean square and 20.7 times at the worst element (twelve minis,
#: tools/winograd_noise.py): again below half of the allowance.
GPU = 8.0


@dataclass(frozen=True)
class MapNoise:
    """The distance of PyTorch's float32 from float64 in one raw output, over all recorded batches.

    Attributes:
        worst: at the worst element.
        rms: by root mean square.
        step: float32's step at the output's greatest absolute value: no runtime can be held to
            less at the worst element.
    """

    worst: float
    rms: float
    step: float

    @property
    def allowed_worst(self) -> float:
        """How far a backend's worst element may be from float64."""
        return WORST * max(self.worst, self.step)

    @property
    def allowed_rms(self) -> float:
        """How far a backend may be from float64 by root mean square."""
        # A rounding to the nearest is off by up to half a step, 0.29 of one by root mean square.
        return MEAN * max(self.rms, 0.29 * self.step)


@dataclass(frozen=True)
class Noise:
    """What was measured on a recording's first batches.

    Attributes:
        exact: for each recorded batch, the raw outputs in float64.
        maps: by raw output.
        box_px: pixels of the original image, the worst box coordinate of detections that float32
            and float64 share.
        box_rel: the same as a share of the box's longer side.
        score: the worst score of these.
        mask_prob: the worst mask probability of these, None without masks.
        detections: how many were compared; with none the last four are not used.
        spread: by how much the device's allowances are wider than a CPU's; is not recorded.
    """

    exact: Sequence[Arrays] = ()
    maps: Mapping[str, MapNoise] = field(default_factory=dict)
    box_px: float = 0.0
    box_rel: float = 0.0
    score: float = 0.0
    mask_prob: float | None = None
    detections: int = 0
    spread: float = 1.0

    def on(self, device: str) -> Noise:
        """The same noise, with the allowances of a device.

        Args:
            device: ``cpu``, or a GPU by whatever name.
        """
        return replace(self, spread=1.0 if device == "cpu" else GPU)


def map_noise(exact: Sequence[Arrays], samples: Sequence[Sequence[Arrays]]) -> dict[str, MapNoise]:
    """The noise of each raw output.

    Args:
        exact: a batch's raw outputs in float64, batch by batch.
        samples: several float32 results, each batch by batch like ``exact``.

    Raises:
        ValueError: there is no sample, or its batches are not those of ``exact``.
    """
    if not samples or any(len(sample) != len(exact) for sample in samples):
        raise ValueError("noise needs float32 results of the very batches that float64 has")
    noise: dict[str, MapNoise] = {}
    for name in exact[0] if exact else ():
        size = sum(batch[name].size for batch in exact)
        greatest = max(float(np.abs(batch[name]).max(initial=0.0)) for batch in exact)
        worst = rms = 0.0
        for sample in samples:
            gaps = [
                np.abs(s[name].astype(np.float64) - e[name])
                for s, e in zip(sample, exact, strict=True)
            ]
            worst = max(worst, *(float(gap.max(initial=0.0)) for gap in gaps))
            rms = max(
                rms, float(np.sqrt(sum(float((gap**2).sum()) for gap in gaps) / max(1, size)))
            )
        noise[name] = MapNoise(worst, rms, float(np.spacing(np.float32(greatest))))
    return noise
