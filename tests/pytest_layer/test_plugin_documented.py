"""docs/downstream.md, taken at its word: its files make a project, and its commands work in it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from plugin_output import cases, ids

PAGE = Path(__file__).parents[2] / "docs/downstream.md"
BLOCK = re.compile(r"<!-- file: (\S+?)(, continued)? -->\n```\w+\n(.*?)```", re.DOTALL)
IMAGES = 4


@pytest.fixture
def documented(project: pytest.Pytester) -> pytest.Pytester:
    """The page's project; detector and data are those of the smallest built-in model."""
    from pytest_onnxdet.data.datasets import SHAPES
    from pytest_onnxdet.models.registry import builtin_registry

    files: dict[str, str] = {}
    for name, continued, text in BLOCK.findall(PAGE.read_text()):
        files[name] = files.get(name, "") + text if continued else text
    assert sorted(files) == [
        "conftest.py",
        "detector/counting.py",
        "detector/heads.py",
        "pytest.ini",
        "tests/test_product.py",
        "tests/test_runtime.py",
    ]
    for name, text in files.items():
        path = project.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    spec = builtin_registry().get("retinanet")
    assert spec.weights is not None
    shutil.copy(spec.weights, project.path / "detector/weights.safetensors")
    (project.path / "detector/config.py").write_text(config_text())
    (project.path / "data/val").mkdir(parents=True)
    annotations = json.loads((SHAPES / "annotations.json").read_text())
    annotations["images"] = annotations["images"][:IMAGES]
    chosen = {image["id"] for image in annotations["images"]}
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] in chosen]
    (project.path / "data/val.json").write_text(json.dumps(annotations))
    for image in annotations["images"]:
        shutil.copy(SHAPES / "val" / image["file_name"], project.path / "data/val")
    return project


def config_text() -> str:
    """A config file of one's own: the documented one, thinned as the built-in model is."""
    from pytest_onnxdet.models.mini import MINIS

    mini = MINIS["retinanet"]
    return (
        "from mmcv import Config\n"
        "from pytest_onnxdet.models.build import config_root\n"
        f"_cfg = Config.fromfile(str(config_root() / {mini['config']!r}))\n"
        f"_cfg.merge_from_dict({mini['overrides']!r})\n"
        "model = _cfg.model.to_dict()\n"
        "data = _cfg.data.to_dict()\n"
    )


def test_the_model_and_the_projects_tests_on_both_runtimes(documented: pytest.Pytester) -> None:
    skipped = "not (tensorrt or export or accuracy or latency)"
    result = documented.runpytest_subprocess(
        "--onnxdet",
        "tests",
        "--pyargs",
        "pytest_onnxdet.conformance",
        "-m",
        f"shape_finder and dynamic and batch2 and {skipped}",
        "--onnxdet-report=out",
    )

    result.assert_outcomes(passed=8)
    results = cases(documented.path / "out")
    backends = ("onnxruntime", "onnxruntime_plain")
    assert sorted((case["backend"], case["check"]) for case in results) == sorted(
        (backend, check)
        for backend in backends
        for check in ("the_graph_fits_the_device", "empty_slots_are_marked", "parity", "parity")
    )
    suites = [case for case in results if "matched" in case["metrics"]]
    assert len(suites) == len(backends)
    assert {case["metrics"]["images"] for case in suites} == {IMAGES}
    assert all(case["metrics"]["matched"] > 0 for case in suites)


@pytest.mark.parametrize("lowered", [True, False])
def test_the_head_is_lowered_as_its_family_says(documented: pytest.Pytester, lowered: bool) -> None:
    """The page's second detector, with and without its family."""
    conftest = documented.path / "conftest.py"
    text = conftest.read_text()
    if not lowered:
        assert text.count("def pytest_onnxdet_families") == 1
        text = text.replace("def pytest_onnxdet_families", "def no_hook")
    conftest.write_text(
        text.replace('"shape_finder"', '"counting_finder"').replace("config.py", "counting.py")
    )
    result = documented.runpytest_subprocess(
        "--onnxdet", "-m", "(export or parity) and dynamic and batch1 and onnxruntime"
    )
    if lowered:
        result.assert_outcomes(passed=2)
    else:
        result.assert_outcomes(errors=2)
        result.stdout.fnmatch_lines(["*CountingHead overrides RetinaHead.get_bboxes*"])


def test_what_the_commands_collect(documented: pytest.Pytester) -> None:
    both = ids(
        documented.runpytest_subprocess(
            "--onnxdet",
            "--collect-only",
            "-q",
            "-m",
            "onnxruntime_plain",
            "tests",
            "--pyargs",
            "pytest_onnxdet.conformance",
        )
    )
    neither = ids(documented.runpytest_subprocess("--collect-only", "-q", "tests"))

    assert any("test_product.py::test_sure_detections_agree[" in name for name in both)
    assert any("test_accuracy[shape_finder-onnxruntime_plain-static-b1]" in name for name in both)
    assert not any("onnxruntime-" in name for name in both)
    assert neither
    assert all("tests/test_runtime.py::TestPlainBackend::" in name for name in neither)


def test_the_backend_passes_the_suite_for_backends(documented: pytest.Pytester) -> None:
    result = documented.runpytest_subprocess("tests/test_runtime.py")
    result.assert_outcomes(passed=8)
