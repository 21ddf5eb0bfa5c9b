"""Heads with a forward of their own, which is run as it is: only what follows is repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_onnxdet.data.batches import collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.families import lower
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections


def with_factor(own: Any, x: Any) -> Any:
    scores, boxes = own(x)
    return scores / 1.25, boxes / 1.25, boxes[:, ::4]


def with_first_scaled(own: Any, x: Any) -> Any:
    scores, boxes = own(x)
    return scores / 1.25, boxes


def all_scaled(own: Any, x: Any) -> Any:
    (levels,) = own(x)
    return (tuple(level / 1.1 for level in levels),)


def negated(own: Any, x: Any) -> Any:
    return -own(x)


@pytest.mark.parametrize(
    ("name", "path", "method", "made"),
    [
        ("retinanet", "bbox_head", "forward_single", with_factor),
        ("yolov3", "bbox_head", "forward", all_scaled),
        ("faster_rcnn", "rpn_head", "forward_single", with_factor),
        ("faster_rcnn", "roi_head.bbox_head", "forward", with_first_scaled),
        ("mask_rcnn", "roi_head.mask_head", "forward", negated),
    ],
)
def test_it_gives_what_mmdet_makes_of_it(name: str, path: str, method: str, made: Any) -> None:
    spec = builtin_registry().get(name, "mini")
    detector: Any = build_detector(spec)
    part = detector.get_submodule(path)
    base = type(part)

    def forward(self: Any, *args: Any) -> Any:
        return made(getattr(base, method).__get__(self), *args)

    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    batch = collate([dataset.sample(number) for number in range(2)])
    before = Reference(detector).run(batch)
    part.__class__ = type("Mine", (base,), {method: forward})
    reference = Reference(detector).run(batch)
    assert all(len(one) for one in reference)
    assert not compare_detections(before, reference, Tolerance()).ok
    model = lower(detector)
    with torch.no_grad():
        values = model(torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape))
    outputs = dict(zip(model.outputs, (value.numpy() for value in values), strict=True))
    result = compare_detections(reference, from_outputs(outputs, batch), Tolerance())
    assert result.ok, result.format()
