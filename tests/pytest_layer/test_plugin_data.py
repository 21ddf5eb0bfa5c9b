"""Data in a run as people have it: completed and told, or refused in one line."""

import json

import pytest
from plugin_output import cases

IMAGES = 6
CONFTEST = """
from dataclasses import replace
from pathlib import Path

from pytest_onnxdet.data.datasets import DatasetSpec, SHAPES
from pytest_onnxdet.models.mini import CLASSES, mini_specs

HERE = Path(__file__).parent


def pytest_onnxdet_models(registry):
    mini = next(spec for spec in mini_specs() if spec.name == "retinanet")
    for name in ("completed", "reversed"):
        registry.register(replace(mini, name=name, dataset=name, profile="own"))


def pytest_onnxdet_datasets(registry):
    for name in ("completed", "reversed"):
        path = HERE / f"{name}.json"
        registry.register(DatasetSpec(name, path, SHAPES / "val", classes=CLASSES))
"""


def test_data_is_completed_and_told_or_refused(project: pytest.Pytester) -> None:
    from pytest_onnxdet.data.datasets import SHAPES

    document = json.loads((SHAPES / "annotations.json").read_text())
    document["images"] = document["images"][:IMAGES]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
    for one in document["annotations"]:
        del one["iscrowd"], one["area"]
    for image in document["images"]:
        del image["height"], image["width"]
    (project.path / "completed.json").write_text(json.dumps(document))
    document["categories"].reverse()
    (project.path / "reversed.json").write_text(json.dumps(document))
    project.makeconftest(CONFTEST)
    result = project.runpytest_subprocess(
        *("--onnxdet", "--onnxdet-profile=own", "--onnxdet-backend=onnxruntime"),
        *("--onnxdet-shape=static", "--onnxdet-batch=2", "--onnxdet-report=out"),
        *("-m", "accuracy", f"--onnxdet-cache={project.path / 'cache'}"),
    )
    out = " ".join(result.stdout.str().split())
    for said in (
        "Data: ",
        "no height or width of 6 images (1, 2, 3, ...): measured.",
        ": taken for 0.",
        ": taken from the segmentation.",
        "categories in the order triangle, square, circle, but labels follow circle, square, tri",
    ):
        assert said in out, result.stdout.str()
    assert "KeyError" not in out and "Traceback" not in out
    outcomes = {
        (case["model"], case["check"]): case["outcome"] for case in cases(project.path / "out")
    }
    assert outcomes == {("completed", "accuracy"): "passed", ("reversed", "accuracy"): "failed"}
