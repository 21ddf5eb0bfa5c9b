"""Which views a test pipeline makes, whatever its steps are called."""

from typing import Any

import pytest

from pytest_onnxdet.data.augmentation import augmentation
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.run.augmented import augmented


def pipeline(**step: Any) -> list[dict[str, Any]]:
    return [{"type": "Load"}, {"type": "Views", "transforms": [{"type": "Resize"}], **step}]


@pytest.mark.parametrize(
    ("step", "views"),
    [
        ({"img_scale": (8, 8), "flip": False}, ""),
        ({"img_scale": [(8, 8)], "flip": False}, ""),
        ({"scale_factor": 1.0}, ""),
        ({"img_scale": (8, 8), "flip": True}, "flip"),
        ({"img_scale": [(8, 8), (9, 9)]}, "2 scales"),
        ({"scale_factor": [0.5, 1.0, 2.0], "flip": True}, "flip and 3 scales"),
    ],
)
def test_views_are_named(step: dict[str, Any], views: str) -> None:
    assert augmentation(pipeline(**step)) == views


def test_a_step_without_inner_steps_makes_one_view() -> None:
    assert augmentation([{"type": "RandomFlip", "flip": True}, object()]) == ""


def test_no_mini_augments_and_the_documented_cornernet_does() -> None:
    minis = builtin_registry().select((), "mini")
    assert all(not augmentation(load_config(spec).data.test.pipeline) for spec in minis)
    assert augmented(minis) == augmented(minis, thorough=True) == {}
    full = builtin_registry().select((), "full")
    assert augmented(full) == augmented(full, thorough=True)


@pytest.mark.parametrize(
    ("overrides", "views"),
    [
        ({}, ""),
        ({"data.test.pipeline.1.flip": True}, "flip"),
        ({"data.test.pipeline.1.img_scale": [(640, 480), (1333, 800)]}, "2 scales"),
    ],
)
def test_overrides_count(overrides: dict[str, Any], views: str) -> None:
    spec = ModelSpec("net", "retinanet/retinanet_r50_fpn_1x_coco.py", overrides=overrides)
    assert (
        augmented([spec]) == augmented([spec], thorough=True) == ({"net": views} if views else {})
    )


def test_a_config_that_is_not_there_is_left_to_who_builds_it() -> None:
    assert augmented([ModelSpec("net", "none.py")]) == {}
