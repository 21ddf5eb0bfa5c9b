"""What a model under test is, as frozen data. Imports nothing heavy: collection reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from typing import Any


def is_name(text: str) -> bool:
    """Whether a text can be a model's name, which is a pytest marker, too."""
    return text.isidentifier() and not text.startswith("_")


@dataclass(frozen=True)
class Tolerance:
    """How far a backend's result may be from PyTorch's.

    Attributes:
        box_px: largest difference of a box coordinate, pixels of the original image.
        box_rel: the same as a share of the box's longer side; the larger of the two counts. A
            decoder that multiplies exp(t) by a prior's size makes of float32's last digits a share
            of the box, and not a number of pixels.
        score: largest difference of a score.
        mask_prob: largest difference of a mask probability.
        mask_iou: smallest IoU of two pasted masks.
        ap: largest difference of COCO AP, on the 0-1 scale, in either direction.
        raw_rtol, raw_atol: allowance for the heads' raw outputs.
        box_bias_px, score_bias, mask_bias: largest mean of the signed differences of all detections
            together: each coordinate's, the score's, the mask probabilities'. Infinite: not asked.
        min_score: detections that score lower on both sides are not compared.
        reason: why a value is wider than the default; empty for the default.
    """

    box_px: float = 0.01
    box_rel: float = 2e-4
    score: float = 1e-4
    mask_prob: float = 1e-3
    mask_iou: float = 0.999
    ap: float = 0.0005
    raw_rtol: float = 1e-3
    raw_atol: float = 1e-5
    box_bias_px: float = math.inf
    score_bias: float = math.inf
    mask_bias: float = math.inf
    min_score: float = 0.0
    reason: str = ""


GPU = Tolerance(
    box_px=0.05,
    score=5e-4,
    mask_prob=5e-3,
    mask_iou=0.99,
    ap=0.002,
    raw_atol=1e-3,
    min_score=0.05,
    reason="a GPU's convolutions add up in another order, by other algorithms, than PyTorch's do",
)
HALF = Tolerance(
    box_px=2.0,
    score=2e-2,
    mask_prob=1e-1,
    mask_iou=0.9,
    ap=0.01,
    raw_rtol=2e-2,
    raw_atol=1e-1,
    # By tools/half_noise.py the means are up to 0.03 px, 1.9e-4 and 6e-5, of models whose choices
    # hold. Half a pixel, a score 0.001 and a mask 0.01 off, of every detection, are beyond.
    box_bias_px=0.06,
    score_bias=5e-4,
    mask_bias=2.5e-3,
    min_score=0.1,
    reason="fp16 keeps 11 bits: 1/2048 of a value with each operation",
)


@dataclass(frozen=True)
class KnownFailure:
    """A failure that somebody knows of and has put off. One that passes, or has expired, fails.

    Attributes:
        check: ``parity``, ``accuracy``, ...
        reason: what is wrong, in words.
        issue: where it is followed up: a number or an address.
        expires: the last day on which it is excused.
        backend: a glob over backends' names.
        shape: ``static``, ``dynamic``, or ``*`` for both.
    """

    check: str
    reason: str
    issue: str
    expires: date
    backend: str = "*"
    shape: str = "*"

    def __str__(self) -> str:
        return f"{self.reason} ({self.issue}, until {self.expires})"

    def covers(self, check: str | None, backend: str, shape: str) -> bool:
        """Whether it speaks of a check of a case."""
        here = fnmatchcase(backend, self.backend) and fnmatchcase(shape, self.shape)
        return check == self.check and here


@dataclass(frozen=True)
class ModelSpec:
    """A detector to verify: the config it is built from, its weights and what it should reach.

    Attributes:
        name: a Python identifier; also the name of the model's pytest marker.
        config: path below mmdet's configs, or an absolute path to a config file.
        profile: "mini", "full", or any name a downstream repository invents.
        overrides: applied to the config as ``mmcv.Config.merge_from_dict`` does.
        weights: path of a .safetensors or .pth file, or a URL; None: the initial weights.
        dataset: a name in the data set registry.
        classes: class names in label order.
        masks: whether the model gives instance masks.
        expected_ap: documented or measured AP, {"bbox": ..., "segm": ...}, on the 0-1 scale.
        tolerances: by backend name; one that is missing gets the default of its precision and
            device.
        tied_images: the share of images in which parity may be expected to rest on a proof that
            only float ties are decided otherwise.
        static_shape: (H, W) of the input in static mode; None: the smallest multiple of 32
            that holds every image of the data set after the test pipeline.
        known_failures: failures that are excused for a while.
    """

    name: str
    config: str
    profile: str = "mini"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    dataset: str = "shapes"
    classes: tuple[str, ...] = ()
    masks: bool = False
    expected_ap: Mapping[str, float] = field(default_factory=dict)
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    static_shape: tuple[int, int] | None = None
    tied_images: float = 0.05
    known_failures: tuple[KnownFailure, ...] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"model name {self.name!r} cannot be a pytest marker: use letters, digits and "
                "underscores, starting with a letter"
            )

    def tolerance(self, backend: str, precision: str = "fp32", device: str = "cpu") -> Tolerance:
        """The allowance for a backend.

        Args:
            backend: its name.
            precision: ``fp16`` gets :data:`HALF` unless the spec names another for the backend.
            device: where it runs; other than ``cpu`` likewise gets :data:`GPU`.
        """
        default = Tolerance() if device == "cpu" else GPU
        return self.tolerances.get(backend, HALF if precision == "fp16" else default)
