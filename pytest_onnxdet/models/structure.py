"""The structure check: a documented detector without its checkpoint. Imports nothing heavy.

Random weights that detect something (:mod:`pytest_onnxdet.models.calibrate`) show whether a graph
computes what PyTorch computes. They say nothing of AP, so such cases carry a profile of their own,
which every table names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pytest_onnxdet.core.vocabulary import STRUCTURE
from pytest_onnxdet.models.pipeline import settings_of_steps
from pytest_onnxdet.models.spec import ModelSpec

#: The drawn scenes enlarged would be even areas, where suppression decides between equal boxes.
GRAINED = "grained_shapes"
#: Where a pipeline keeps an image's size, images are as large as photographs from the start.
LARGE = "large_shapes"
#: Images that are enough for it, of two sizes, and those at most that weights are calibrated on. Of
#: one that BatchNorm has not seen, a deep random network's logits may be 10,000 times as large.
LIMIT, CALIBRATION = 2, 4
#: The share of images that may be expected to tie.
TIED = 0.05


def structure_spec(spec: ModelSpec, dataset: str | None = None) -> ModelSpec:
    """The spec with random weights, on the drawn scenes unless there is a better data set.

    ``weights`` is no file but a name, by which the cache keeps their graphs separate. How many
    images may tie is not the spec's, which knows trained weights: it is :data:`TIED`, or more where
    the family knows more of random numbers.

    Without a data set the spec's config is read, and mmdet imported: its pipeline decides between
    the scenes.
    """
    if dataset is None:
        dataset = LARGE if _keeps_size(spec) else GRAINED
    return replace(
        spec,
        profile=STRUCTURE,
        weights=f"random, calibrated on {dataset}",
        dataset=dataset,
        expected_ap={},
        tied_images=TIED,
    )


def _keeps_size(spec: ModelSpec) -> bool:
    try:
        from pytest_onnxdet.models.build import BuildError, load_config
    except ImportError:
        return False
    try:
        return keeps_size(load_config(spec).data.test.pipeline)
    except (BuildError, ImportError):
        return False  # building the detector will fail for the same reason, and say so


def keeps_size(pipeline: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a test pipeline leaves images at their size: no step names one, or a scale."""
    steps = list(settings_of_steps(pipeline))
    named = any(step.get("img_scale") is not None for step in steps)
    scales = [step["scale_factor"] for step in steps if step.get("scale_factor") is not None]
    return not named and all(scale in (1, [1], (1,)) for scale in scales)


def is_structure(spec: ModelSpec) -> bool:
    """Whether the spec's weights are random."""
    return spec.profile == STRUCTURE
