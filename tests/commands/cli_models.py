"""What the tests of the commands are about: two small detectors and what a command gave."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from tiny_retinanet import CLASSES

from pytest_onnxdet.data.datasets import SHAPES

SIZE = ("96", "128")


class Ran(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


class Tiny(NamedTuple):
    """A config and a checkpoint."""

    config: Path
    checkpoint: Path


@dataclass
class Screen:
    """What a window showed, picture by picture.

    Attributes:
        titles: without what the window adds to them.
        pictures: uint8 (H, W, 3), RGB.
        closed_after: after how many pictures somebody closes the window; None: nobody does.
    """

    titles: list[str] = field(default_factory=list)
    pictures: list[Any] = field(default_factory=list)
    closed_after: int | None = None


def calibrated(cfg_name: Path, channels: int | None = None) -> torch.nn.Module:
    """The config's detector with random weights that detect something."""
    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.commands.images import SAMPLE, SECOND, batch_of
    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.models.build import initialise, make_detector
    from pytest_onnxdet.models.calibrate import calibrate

    model = open_config(str(cfg_name), None)
    torch.manual_seed(0)
    detector = make_detector(model.cfg, model.path)
    initialise(detector)
    detector.eval()
    batch = batch_of(model.cfg, (SAMPLE, SECOND), (96, 128), fill=(True, True), channels=channels)
    calibration = builtin_families().of(detector).calibration(detector)
    calibrate(detector, torch.from_numpy(batch.images), batch.metas, calibration)
    return detector


def data_of(annotations: Path, images: Path, kind: str = "CocoDataset") -> str:
    """A config's data section."""
    return f"""
data = dict(test=dict(
    type='{kind}', ann_file='{annotations}', img_prefix='{images}', classes={CLASSES},
    pipeline=test_pipeline))
"""


def axes(path: Path) -> dict[str, list[Any]]:
    """The axes of a graph's inputs and outputs, by name."""
    graph = onnx.load(str(path)).graph
    return {
        value.name: [
            d.dim_value if d.HasField("dim_value") else d.dim_param
            for d in value.type.tensor_type.shape.dim
        ]
        for value in (*graph.input, *graph.output)
    }


def outputs(path: Path, size: tuple[int, int] = (96, 128), batch: int = 1) -> dict[str, Any]:
    """What a graph finds in noise."""
    from pytest_onnxdet.backends import builtin_backends
    from pytest_onnxdet.commands.test import describe

    rng = np.random.default_rng(0)
    feeds = {
        "input": rng.normal(size=(batch, 3, *size)).astype(np.float32),
        "image_shape": np.array([size] * batch),
    }
    artifact = describe(path, "onnxruntime")
    with builtin_backends()["onnxruntime"].prepare(artifact, threads=1) as session:
        return session.run_arrays(feeds)


def first_annotations(count: int) -> dict[str, Any]:
    """The annotations of the first drawn scenes only."""
    document = json.loads((SHAPES / "annotations.json").read_text())
    document["images"] = document["images"][:count]
    ids = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    return dict(document)
