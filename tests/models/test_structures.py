"""Which configs are of one structure."""

from pathlib import Path
from typing import Any

import pytest

from pytest_onnxdet.models.structures import UNTYPED, parts_of_config, structures


def config(**changes: Any) -> dict[str, Any]:
    model: dict[str, Any] = {
        "type": "FasterRCNN",
        "backbone": {"type": "ResNet", "depth": 50},
        "neck": [{"type": "FPN"}, {"type": "BFP"}],
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_head": [{"type": "A", "num_classes": 3}, {"type": "A", "num_classes": 5}],
        },
        "test_cfg": {"rcnn": {"nms": {"type": "soft_nms"}}},
    }
    return {"model": {**model, **changes}}


def test_parts_are_places_and_types() -> None:
    assert parts_of_config(config()) == (
        ("detector", "FasterRCNN"),
        ("backbone", "ResNet"),
        ("neck", "FPN+BFP"),
        ("roi_head", "StandardRoIHead"),
        ("roi_head.bbox_head", "A"),
        ("nms", "soft_nms"),
    )


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"backbone": {"type": "ResNet", "depth": 101}}, True),
        ({"train_cfg": {"nms": {"type": "nms"}}}, True),
        ({"backbone": {"type": "ResNet", "dcn": {"type": "DCN"}}}, False),
        ({"backbone": {"type": "ResNet", "plugins": [{"cfg": {"type": "ContextBlock"}}]}}, False),
        ({"test_cfg": {"rcnn": {"nms": {"type": "nms"}}}}, False),
        ({"bbox_head": {"num_classes": 3}}, False),
    ],
)
def test_alike_where_the_same_code_runs(changes: dict[str, Any], alike: bool) -> None:
    assert (parts_of_config(config(**changes)) == parts_of_config(config())) is alike


def test_settings_without_a_type_are_named() -> None:
    assert ("bbox_head", UNTYPED) in parts_of_config(config(bbox_head={"num_classes": 3}))


def test_files_are_grouped_and_those_without_a_model_left_out(tmp_path: Path) -> None:
    text = "model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth={}))\n"
    for name, content in (
        ("longer_name.py", text.format(18)),
        ("short.py", text.format(50) + "custom_imports = dict(imports=['not_installed'])\n"),
        ("other.py", "model = dict(type='FCOS')\n"),
        ("schedule.py", "epochs = 3\n"),
    ):
        (tmp_path / name).write_text(content)
    found = structures(sorted(tmp_path.glob("*.py")))
    assert [[path.name for path in one.configs] for one in found] == [
        ["short.py", "longer_name.py"],
        ["other.py"],
    ]
