"""A spec's detector, ready to run: with its weights, or with random ones that detect something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_onnxdet.models.structure import is_structure
from pytest_onnxdet.reference.threads import share_cores

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.models.spec import ModelSpec


def make_detector(
    spec: ModelSpec,
    downloads: Path,
    threads: int | None,
    dataset: Callable[[], Dataset],
    families: FamilyRegistry,
) -> nn.Module:
    """The unmodified detector: eval mode, CPU, weights loaded. The same in every process.

    Args:
        spec: which one.
        downloads: where checkpoints are kept.
        threads: for PyTorch and OpenCV; None: no limit.
        dataset: gives the spec's data set; asked only for random weights, calibrated on it.
        families: where the detector's is looked up, which says how it is calibrated.

    Raises:
        BuildError: it cannot be built, or its weights do not load.
        UnsupportedPart: no family takes it; its weights are not read then.
        NotCalibratedError: its weights are random, and no family says how it is calibrated.
    """
    import torch

    from pytest_onnxdet.families.calibrated import calibrated_detector
    from pytest_onnxdet.models.build import build_detector

    share_cores(threads)
    with torch.random.fork_rng(devices=[]):
        # Weights that are drawn are drawn alike in every worker.
        torch.manual_seed(0)
        if is_structure(spec):
            return calibrated_detector(spec, dataset(), families)
        return build_detector(spec, downloads=downloads, check=families.of)
