"""Tiny detectors of mmdet's own configs, with random weights that detect something."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch, alone, collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.families import lower
from pytest_onnxdet.families.calibrated import calibrated_detector
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.spec import ModelSpec, Tolerance
from pytest_onnxdet.models.structure import GRAINED
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections

WIDTHS, NECK = (4, 8, 16, 32), 16
CLASSES = ("circle", "square", "triangle")
NORM = {"type": "GN", "num_groups": 4, "requires_grad": True}


def dense_overrides(**more: Any) -> dict[str, Any]:
    """What makes a config of a ResNet, an FPN and a dense head a tiny one.

    Args:
        more: of the head.
    """
    head = {
        "num_classes": len(CLASSES),
        "in_channels": NECK,
        "feat_channels": NECK,
        "stacked_convs": 1,
        **more,
    }
    return {
        "model.backbone": {
            "_delete_": True,
            "type": "ResNet",
            "depth": 18,
            "base_channels": WIDTHS[0],
            "norm_eval": False,
        },
        "model.neck.in_channels": list(WIDTHS),
        "model.neck.out_channels": NECK,
        **{f"model.bbox_head.{key}": value for key, value in head.items()},
        "data.test.pipeline.1.img_scale": (128, 96),
    }


@dataclass(frozen=True)
class Tiny:
    """A detector and two different images, one of them padded."""

    detector: nn.Module
    batch: Batch

    @functools.cached_property
    def detections(self) -> list[Detections]:
        """What PyTorch finds, image by image: some heads of mmdet's take no batches."""
        reference = Reference(self.detector)
        return [found for one in alone(self.batch) for found in reference.run(one)]

    def graph(self, path: Path, lowering: str, opset: int = 17, raw: bool = False) -> Any:
        """A dynamic graph, traced at another size and batch, on ONNX Runtime: its outputs."""
        height, width = self.batch.images.shape[2:]
        options = ExportOptions(
            batch=3,
            size=(height + 32, width + 64),
            lowering=lowering,
            opset=opset,
            postprocess=not raw,
        )
        info = export_detector(self.detector, options, path)
        artifact = Artifact(path, "tiny", raw, info)
        with OnnxRuntimeBackend("cpu").prepare(artifact, threads=1) as session:
            return session.run(self.batch)

    def eager(self, lowering: str = "onnxruntime", **more: Any) -> list[Detections]:
        """What the deploy model finds in PyTorch."""
        model = lower(self.detector, lowering, **more)
        with torch.no_grad():
            values = model(
                torch.from_numpy(self.batch.images), torch.from_numpy(self.batch.image_shape)
            )
        outputs = dict(zip(model.outputs, (value.numpy() for value in values), strict=True))
        return from_outputs(outputs, self.batch)

    def raw(self) -> dict[str, NDArray[np.float32]]:
        """mmdet's raw outputs of the images."""
        ones = [Reference(self.detector).raw(one) for one in alone(self.batch)]
        return {name: np.concatenate([one[name] for one in ones]) for name in ones[0]}

    def held(self, candidate: Sequence[Detections]) -> None:
        """Something is found in each image, and the candidate finds the same."""
        assert all(len(one) for one in self.detections)
        result = compare_detections(self.detections, candidate, Tolerance())
        assert result.ok, result.format()


def tiny(config: str, overrides: dict[str, Any], **test_cfg: Any) -> Tiny:
    """The detector of one of mmdet's own configs, thinned and calibrated.

    Args:
        config: where it lies in mmdet's folder of configs.
        overrides: see `dense_overrides`.
        test_cfg: settings of its test_cfg.
    """
    changed = {**overrides, **{f"model.test_cfg.{k}": v for k, v in test_cfg.items()}}
    spec = ModelSpec("tiny", config, overrides=changed, classes=CLASSES, dataset=GRAINED)
    torch.manual_seed(0)
    dataset = load_dataset(builtin_datasets().get(GRAINED), load_config(spec), limit=2)
    detector = calibrated_detector(spec, dataset, builtin_families())
    return Tiny(detector, collate([dataset.sample(i) for i in range(2)]))
