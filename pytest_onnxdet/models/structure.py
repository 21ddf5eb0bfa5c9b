"""The structure check: a documented detector without its checkpoint. Imports nothing heavy.

Random weights that detect something (:mod:`pytest_onnxdet.models.calibrate`) show whether a graph
computes what PyTorch computes. They say nothing of AP, so such cases carry a profile of their own,
by which every table tells them apart.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_onnxdet.core.vocabulary import STRUCTURE
from pytest_onnxdet.models.spec import ModelSpec, Tolerance

#: The drawn scenes enlarged would be even areas, where suppression decides between equal boxes.
GRAINED = "grained_shapes"
#: CornerNet's pipeline keeps an image's size, so its images are as large as photographs.
OWN_SIZE = {"cornernet": "large_shapes"}
#: Images that are enough for it, of two sizes, and those that the weights are calibrated on.
LIMIT, CALIBRATION = 2, 2

# Two runtimes may be as far apart as both are from float64, so raw outputs are allowed twice what
# PyTorch's own float32 is off by, measured on the calibrated models. Detections keep the defaults.
OFF = "PyTorch's float32 is off by up to {:.1e} from float64 in its full-size {}"
ROUNDING = Tolerance(raw_atol=1e-4, reason=OFF.format(3.3e-5, "logits (RetinaNet)"))
DEEP_ROUNDING = {
    "yolov3": Tolerance(raw_atol=7e-4, reason=OFF.format(3.3e-4, "maps")),
}
# Each of PointRend's 100 masks of an image has 784 points chosen of 12,544, so some tie in each.
MOST_TIED = {"point_rend": 1.0}
BACKENDS = ("onnxruntime", "onnxruntime[tensorrt-lowering]")


def structure_spec(spec: ModelSpec, dataset: str | None = None) -> ModelSpec:
    """The spec with random weights, on the drawn scenes unless there is a better data set.

    ``weights`` is no file but a name, so that graphs in the cache are told apart by it.
    """
    dataset = dataset or OWN_SIZE.get(spec.name, GRAINED)
    rounding = DEEP_ROUNDING.get(spec.name, ROUNDING)
    return replace(
        spec,
        profile=STRUCTURE,
        weights=f"random, calibrated on {dataset}",
        dataset=dataset,
        expected_ap={},
        tied_images=MOST_TIED.get(spec.name, 0.0),
        tolerances={**spec.tolerances, **dict.fromkeys(BACKENDS, rounding)},
    )


def is_structure(spec: ModelSpec) -> bool:
    """Whether the spec's weights are random."""
    return spec.profile == STRUCTURE
