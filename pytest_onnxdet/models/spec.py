"""What a model under test is, as frozen data. Imports nothing heavy: collection reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How far a backend's result may be from PyTorch's.

    Attributes:
        box_px: largest difference of a box coordinate, pixels of the original image.
        score: largest difference of a score.
        mask_prob: largest difference of a mask probability.
        mask_iou: least IoU of two pasted masks.
        ap: largest difference of COCO AP, on the 0-1 scale, in either direction.
        raw_rtol, raw_atol: allowance for the heads' raw outputs.
        reason: why a value is wider than the default; empty for the default.
    """

    box_px: float = 0.01
    score: float = 1e-4
    mask_prob: float = 1e-3
    mask_iou: float = 0.999
    ap: float = 0.0005
    raw_rtol: float = 1e-3
    raw_atol: float = 1e-5
    reason: str = ""


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
        tolerances: by backend name; a backend that is missing gets ``Tolerance()``.
        static_shape: (H, W) of the input in static mode; None: the smallest multiple of 32
            that holds every image of the data set after the test pipeline.
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

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(
                f"model name {self.name!r} cannot be a pytest marker: use letters, digits and "
                "underscores, not starting with a digit"
            )

    def tolerance(self, backend: str) -> Tolerance:
        """The allowance for ``backend``, the default one unless the spec names another."""
        return self.tolerances.get(backend, Tolerance())
