"""A detector whose weights are random and detect something."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pytest_onnxdet.data.batches import collate
from pytest_onnxdet.families import lower
from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.calibrate import calibrate
from pytest_onnxdet.models.structure import CALIBRATION

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.models.spec import ModelSpec


def calibrated_detector(spec: ModelSpec, dataset: Dataset, families: FamilyRegistry) -> nn.Module:
    """The spec's detector, calibrated as its family says on a few images from all over the data.

    Raises:
        BuildError: it cannot be built.
        UnsupportedPart: no family takes it, or it does not lower.
        NotCalibratedError: none says how it is calibrated.
    """
    detector = build_detector(replace(spec, weights=None))
    lower(detector, "onnxruntime", families=families)  # a part may be unknown to mmdet, too
    calibration = families.of(detector).calibration(detector)
    count = min(calibration.images or CALIBRATION, len(dataset))
    batch = collate([dataset.sample(i * len(dataset) // count) for i in range(count)])
    calibrate(detector, torch.from_numpy(batch.images), batch.metas, calibration)
    return detector
