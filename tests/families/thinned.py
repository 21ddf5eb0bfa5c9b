"""mmdet's own configs with few channels, one shallow backbone and random weights that detect."""

from __future__ import annotations

from typing import Any

import torch

from pytest_onnxdet.data.batches import Batch, collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.build import initialise, load_config, make_detector
from pytest_onnxdet.models.calibrate import calibrate
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec

CLASSES = 3
#: Channels of the documented configs, and what takes their place.
FEWER = {64: 8, 256: 24, 512: 24, 1024: 32, 2048: 64}
STAGES = (8, 16, 32, 64)
BACKBONE = {
    "_delete_": True,
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "num_stages": 4,
    "out_indices": (0, 1, 2, 3),
    "norm_cfg": {"type": "BN", "requires_grad": True},
    "norm_eval": False,
}


def thin(node: Any) -> None:
    """Fewer channels, classes and convolutions in a config's model, in place."""
    if isinstance(node, list | tuple):
        for item in node:
            thin(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if "channels" in key and isinstance(value, int):
            node[key] = FEWER.get(value, value)
        elif key == "num_classes":
            node[key] = CLASSES if value in (80, 1203) else 5
        elif key in ("num_convs", "stacked_convs") and isinstance(value, int):
            node[key] = min(value, 2)
        else:
            thin(value)


def thinned(config: str, backbone: dict[str, Any] | None = None, **overrides: Any) -> Any:
    """The detector of one of mmdet's configs, thinned; ``__`` in a key stands for a dot."""
    cfg = load_config(ModelSpec("any", config))
    thin(cfg.model)
    own = {
        "model.backbone": BACKBONE if backbone is None else backbone,
        "model.pretrained": None,
        "data.test.pipeline.1.img_scale": (160, 128),
        **{f"model.{key.replace('__', '.')}": value for key, value in overrides.items()},
    }
    if "rpn" in (cfg.model.get("test_cfg") or {}):  # few regions: it is quick in every lowering
        own |= {"model.test_cfg.rpn.nms_pre": 60, "model.test_cfg.rpn.max_per_img": 60}
        own |= {"model.test_cfg.rcnn.max_per_img": 20}
    if "neck" in cfg.model and backbone is None:
        own["model.neck.in_channels"] = list(STAGES)
    cfg.merge_from_dict(own)
    torch.manual_seed(0)
    detector = make_detector(cfg, config)
    initialise(detector)
    detector.eval()
    detector.cfg = cfg
    return detector


def two_images(detector: Any) -> Batch:
    """Two different images of different sizes, as the detector's test pipeline gives them."""
    spec = builtin_registry().get("mask_rcnn", "mini")
    dataset = load_dataset(builtin_datasets().get(spec.dataset), detector.cfg)
    return collate([dataset.sample(i) for i in (0, 1)])


def calibrated(detector: Any, batch: Batch) -> Any:
    """The detector, made to detect on these images as its family says."""
    calibration = builtin_families().of(detector).calibration(detector)
    calibrate(detector, torch.from_numpy(batch.images), batch.metas, calibration)
    return detector
