"""PyTorch's own AP in a run: the spec says what is to be reached, where a whole set is run."""

import json
from pathlib import Path

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
    common = dict(dataset="few_shapes", profile="full")
    for name, ap in (("right", {right}), ("wrong", {right} + 0.002)):
        registry.register(replace(mini, name=name, expected_ap={{"bbox": ap}}, **common))
    poor = replace(mini, dataset="few_shapes", profile="poor")
    registry.register(replace(poor, name="poor", expected_ap={{"bbox": {right} + 0.06}}))
    registry.register(replace(poor, name="fair", expected_ap={{"bbox": {right} + 0.04}}))


def pytest_onnxdet_datasets(registry):
    registry.register(
        DatasetSpec("few_shapes", HERE / "few.json", SHAPES / "val", classes=CLASSES)
    )
"""


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def found(project: pytest.Pytester, shared_cache: Path) -> pytest.Pytester:
    """Detectors that find what the mini does in few images, where specs say different things."""
    from pytest_onnxdet.data.datasets import SHAPES

    document = json.loads((SHAPES / "annotations.json").read_text())
    document["images"] = document["images"][:IMAGES]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in kept]
    (project.path / "few.json").write_text(json.dumps(document))
    project.makeini(f"[pytest]\nonnxdet_cache = {shared_cache}\n")
    return project


def run(
    found: pytest.Pytester, right: float, profile: str, *words: str, expression: str = "accuracy"
) -> pytest.RunResult:
    found.makeconftest(CONFTEST.format(right=right))
    return found.runpytest_subprocess(
        "--onnxdet",
        f"--onnxdet-profile={profile}",
        "--onnxdet-backend=onnxruntime",
        "--onnxdet-shape=dynamic",
        "--onnxdet-report=out",
        "-m",
        expression,
        *words,
    )


@pytest.fixture(scope="module")
def right(shared_cache: Path) -> float:
    """PyTorch's AP on those images, dynamic shapes, batch size 1."""
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
    from pytest_onnxdet.models.build import build_detector, load_config
    from pytest_onnxdet.models.registry import builtin_registry
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.verify.accuracy import average_precision

    spec = builtin_registry().get("retinanet")
    data = load_dataset(builtin_datasets().get("shapes"), load_config(spec), limit=IMAGES)
    reference = Reference(build_detector(spec))
    return average_precision(
        data, [one for batch in Batches(data, 1) for one in reference.run(batch)]
    )


def test_a_documented_ap_has_to_be_reached(found: pytest.Pytester, right: float) -> None:
    names = "--onnxdet-model=right,wrong"
    result = run(found, right, "full", names)

    # At other batch sizes documents say nothing, and both are what the backend is.
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines([f"*wrong-onnxruntime-dynamic-b1: bbox AP*is {right:.4f}*"])
    failed = [case for case in cases(found.path / "out") if case["outcome"] == "failed"]
    assert [case["id"] for case in failed] == ["wrong-onnxruntime-dynamic-b1"]
    assert "documented is" in failed[0]["reason"] and "the data set" in failed[0]["reason"]
    assert failed[0]["metrics"]["bbox_mAP_delta"] == pytest.approx(0, abs=5e-4)
    assert failed[0]["metrics"]["evaluation_seconds"] > 0

    result = run(found, right, "full", names, f"--onnxdet-limit={IMAGES - 1}")

    result.assert_outcomes(passed=6)
    assert {case["metrics"]["bbox_mAP_torch"] for case in cases(found.path / "out")} != {right}


def test_another_ap_may_not_be_much_lower(found: pytest.Pytester, right: float) -> None:
    result = run(found, right, "poor", expression="accuracy and batch1")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"*poor-onnxruntime-dynamic-b1: bbox AP*is {right:.4f}*"])
