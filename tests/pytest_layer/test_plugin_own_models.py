"""Detectors that a user names by config and checkpoint, with nothing to write."""

import json
import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_output import cases
from tiny_retinanet import CLASSES, PIPELINE, TINY

# Imported here so that an inner run, which forgets what it imported, does not import it again.
from pytest_onnxdet.data.datasets import SHAPES, builtin_datasets, load_dataset
from pytest_onnxdet.families.calibrated import calibrated_detector
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.build import load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec

DATA = """
data = dict(test=dict(
    type='CocoDataset', ann_file='gone.json', img_prefix='gone', pipeline=test_pipeline))
"""
CONFIG = TINY + PIPELINE + DATA
FAST = ("--onnxdet", "--onnxdet-cache=cache", "--onnxdet-shape=dynamic", "--onnxdet-batch=2")
FAST += ("--onnxdet-backend=onnxruntime",)
ONE = ("--onnxdet-config=ours-2.py", "--onnxdet-checkpoint=epoch_12.pth")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the config's detector that detect something, in a checkpoint."""
    folder = tmp_path_factory.mktemp("ours")
    config = folder / "ours-2.py"
    config.write_text(CONFIG)
    spec = ModelSpec("ours", str(config), dataset="grained_shapes", classes=CLASSES)
    data = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec), limit=2)
    torch.manual_seed(0)
    detector = calibrated_detector(spec, data, builtin_families())
    path = folder / "epoch_12.pth"
    torch.save({"meta": {"CLASSES": CLASSES}, "state_dict": detector.state_dict()}, path)
    return path


@pytest.fixture
def ours(project: pytest.Pytester, weights: Path) -> pytest.Pytester:
    """An empty folder with a config, a checkpoint and four photographs."""
    shutil.copy(weights, project.path)
    (project.path / "ours-2.py").write_text(CONFIG)
    photos = project.path / "photos"
    photos.mkdir()
    for path in sorted((SHAPES / "val").iterdir())[:4]:
        shutil.copy(path, photos)
    return project


def test_a_config_a_checkpoint_and_a_folder_are_enough(ours: pytest.Pytester) -> None:
    result = ours.runpytest_subprocess(
        *FAST, *ONE, "--onnxdet-images=photos", "-m", "parity or accuracy", "--onnxdet-report=out"
    )
    result.assert_outcomes(passed=1, skipped=1)
    by_check = {case["check"]: case for case in cases(ours.path / "out")}
    parity = by_check["parity"]
    assert (parity["id"], parity["profile"]) == ("ours_2-onnxruntime-dynamic-b2", "own")
    assert parity["metrics"]["images"] == 4 and parity["metrics"]["detections"] > 0
    assert "no annotations: there is no AP" in by_check["accuracy"]["reason"]


def accuracy_of(project: pytest.Pytester, *options: str) -> dict[str, Any]:
    """The record of the accuracy check on four images, which passes."""
    more = ("--onnxdet-limit=4", "-m", "accuracy", "--onnxdet-report=out")
    result = project.runpytest_subprocess(*FAST, *options, *more)
    result.assert_outcomes(passed=1)
    (accuracy,) = cases(project.path / "out")
    return accuracy


def test_with_annotations_there_is_ap(ours: pytest.Pytester) -> None:
    data = f"--onnxdet-annotations={SHAPES / 'annotations.json'}"
    accuracy = accuracy_of(ours, *ONE, f"--onnxdet-images={SHAPES / 'val'}", data)
    assert accuracy["metrics"]["bbox_mAP_delta"] == 0


MASKS = """
from mmcv import Config
from pytest_onnxdet.models.build import config_root
_cfg = Config.fromfile(str(config_root() / {config!r}))
_cfg.merge_from_dict({overrides!r})
model, data = _cfg.model.to_dict(), _cfg.data.to_dict()
data["test"]["classes"] = ("circle", "square", "triangle")
"""


def test_masks_without_outlines_to_compare_with_have_the_ap_of_their_boxes(
    project: pytest.Pytester,
) -> None:
    spec = builtin_registry().get("mask_rcnn", "mini")
    text = MASKS.format(config=spec.config, overrides=dict(spec.overrides))
    (project.path / "masky.py").write_text(text)
    document = json.loads((SHAPES / "annotations.json").read_text())
    for one in document["annotations"]:
        one.pop("segmentation", None)
    (project.path / "boxes.json").write_text(json.dumps(document))
    accuracy = accuracy_of(
        project,
        "--onnxdet-config=masky.py",
        f"--onnxdet-checkpoint={spec.weights}",
        "--onnxdet-annotations=boxes.json",
        f"--onnxdet-images={SHAPES / 'val'}",
    )
    assert accuracy["metrics"]["bbox_mAP_delta"] == 0 and "segm_mAP" not in accuracy["metrics"]
    assert "no segmentations: AP is that of boxes alone" in str(accuracy["metrics"]["data_notes"])


def test_the_ini_file_may_say_it_all(ours: pytest.Pytester) -> None:
    ours.makeini(
        """
        [pytest]
        onnxdet = true
        onnxdet_config = ours-2.py
        onnxdet_checkpoint = epoch_12.pth
        onnxdet_images = photos
        """
    )
    result = ours.runpytest("--collect-only", "-q", "-m", "ours_2 and parity and batch1")
    result.stdout.fnmatch_lines(["*test_parity[[]ours_2-onnxruntime-static-b1[]]"])


def test_pyprojects_ini_options_are_texts(ours: pytest.Pytester) -> None:
    table = '[tool.pytest.ini_options]\nonnxdet = true\nonnxdet_images = "photos"\n'
    table += 'onnxdet_checkpoint = "epoch_12.pth"\nonnxdet_config = {}\n'
    pyproject(ours, table.format('"ours-2.py"'))
    result = ours.runpytest("--collect-only", "-q", "-m", "ours_2 and parity and batch1")
    result.stdout.fnmatch_lines(["*test_parity[[]ours_2-onnxruntime-static-b1[]]"])
    pyproject(ours, table.format('["ours-2.py"]'))
    result = ours.runpytest("--collect-only", "-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*onnxdet_config in *pyproject.toml: [[]'ours-2.py'[]]: give one*"]
    )


def test_a_model_may_be_called_what_a_shipped_data_set_is(ours: pytest.Pytester) -> None:
    (ours.path / "shapes.py").write_text(CONFIG)
    words = ("--onnxdet-checkpoint=epoch_12.pth", "--onnxdet-images=photos", "--collect-only", "-q")
    result = ours.runpytest("--onnxdet", "--onnxdet-config=shapes.py", "-m", "parity", *words)
    result.stdout.fnmatch_lines(["*test_parity[[]shapes-*"])


def pyproject(ours: pytest.Pytester, text: str) -> None:
    (ours.path / "pyproject.toml").write_text(textwrap.dedent(text))


TWO = """
[tool.pytest-onnxdet.models.one]
config = "ours-2.py"
checkpoint = "epoch_12.pth"
images = "photos"

[tool.pytest-onnxdet.models.two]
config = "ours-2.py"
checkpoint = "epoch_12.pth"
images = "photos"
tolerances.onnxruntime = {box_px = 0.5, reason = "a new NPU"}
known_failures = [
    {check = "parity", shape = "static", reason = "off", issue = 7, expires = 2100-01-31},
]
"""


def test_pyproject_names_several(ours: pytest.Pytester) -> None:
    pyproject(ours, TWO)
    ours.makeconftest(
        """
        def pytest_collection_modifyitems(items):
            for item in items:
                case = item.callspec.params.get("onnxdet_case")
                if case is not None and case.spec.name == "two":
                    assert case.spec.tolerance("onnxruntime").box_px == 0.5
                    known, = case.spec.known_failures
                    excused = item.get_closest_marker("xfail") is not None
                    assert excused == (case.shape == "static" and "test_parity" in item.name)
        """
    )
    result = ours.runpytest("--onnxdet", "--collect-only", "-q", "--onnxdet-batch=1")
    assert result.ret == pytest.ExitCode.OK
    found = {line.partition("[")[2].split("-")[0] for line in result.outlines if "[" in line}
    assert found == {"one", "two"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('config = "ours-2.py"\n', "", "models.one]: config is missing"),
        ('"epoch_12.pth"', '"gone.pth"', "models.one] checkpoint: there is no *gone.pth"),
        ("images =", "imges =", "models.one]: no key 'imges'; there are: annotations, checkpoint*"),
        (".one]", ".o-ne]", "models.o-ne]: a name is letters*"),
        (
            "0.5",
            '"0.5"',
            "models.two] tolerances.onnxruntime: box_px is '0.5': give a number from 0",
        ),
        ("0.5", "inf", "models.two] tolerances.onnxruntime: box_px is inf: give a number from 0"),
        ("0.5", "-1", "models.two] tolerances.onnxruntime: box_px is -1: give a number from 0"),
        (
            "tolerances.onnxruntime",
            "tolerances.nope",
            "*tolerances of 'nope', which is no backend*",
        ),
        (".one]", "._one]", "models._one]: a name is letters*"),
        (".models.one]", ".model.one]", "[[]tool.pytest-onnxdet] holds 'model', 'models': give*"),
        (
            "pytest-onnxdet.models.one",
            "pytest_onnxdet.models.one",
            "*write [[]tool.pytest-onnxdet*",
        ),
        (', reason = "a new NPU"', "", "models.two] tolerances.onnxruntime: reason is missing*"),
        ("box_px", "box", "models.two] tolerances.onnxruntime: no key 'box'; there are:*"),
        (", issue = 7", "", "models.two] known_failures[[]0]: issue is missing"),
        ("2100-01-31", '"soon"', "*known_failures[[]0]: expires is 'soon': give a day*"),
        ("static", "statik", "*the known failure*matches nothing: shape 'statik'*"),
        ("[tool", "[[tool", "*pyproject.toml: *"),
    ],
)
def test_mistakes_in_pyproject_are_told(
    ours: pytest.Pytester, old: str, new: str, said: str
) -> None:
    pyproject(ours, TWO.replace(old, new, 1))
    result = ours.runpytest("--onnxdet", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{said}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--onnxdet-config=gone.py",), "*--onnxdet-config: *gone.py: there is no such file"),
        (("--onnxdet-checkpoint=epoch_12.pth",), "*give --onnxdet-config, too"),
        (("--onnxdet-config=ours-2.py",), "*no weights: give --onnxdet-checkpoint, or*"),
        (ONE, "*data.test.ann_file is gone.json, which is not there: give --onnxdet-images*"),
        ((*ONE, "--onnxdet-images=ours-2.py"), "*this is a file; give a folder"),
        ((*ONE, "--onnxdet-profile=mini"), "*leave it out beside --onnxdet-config"),
        ((*ONE, "--onnxdet-annotations=gone"), "*there is no such file or folder"),
        (("--onnxdet-config=pipe",), "*--onnxdet-config: *pipe: this is a named pipe; give a file"),
        ((ONE[0], "--onnxdet-checkpoint=pipe"), "*pipe: this is a named pipe; give a file"),
        ((*ONE, "--onnxdet-annotations=pipe"), "*pipe: is a named pipe, not an annotation file*"),
        ((*ONE, "--onnxdet-images=cache"), "*there is no such folder"),
        ((*ONE, "--onnxdet-annotations=photos"), "*no Annotations/?.xml*"),
    ],
)
def test_mistakes_on_the_command_line_are_told(
    ours: pytest.Pytester, words: tuple[str, ...], said: str
) -> None:
    os.mkfifo(ours.path / "pipe")
    result = ours.runpytest("--onnxdet", "--collect-only", "-q", *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ufeffcircle\nsquare\ntriangle\n", "begins with a byte order mark"),
        ("circle\nsquare\ntriangle\n\n", "line 4 is empty"),
        (None, "a named pipe, not a file of class names"),
    ],
)
def test_a_file_of_class_names_that_mmdet_reads_otherwise(
    ours: pytest.Pytester, text: str | None, said: str
) -> None:
    names = ours.path / "names.txt"
    os.mkfifo(names) if text is None else names.write_text(text, encoding="utf-8")
    (ours.path / "ours-2.py").write_text(f"{CONFIG}data['test']['classes'] = {str(names)!r}\n")
    state = torch.load(ours.path / "epoch_12.pth")["state_dict"]
    torch.save({"state_dict": state}, ours.path / "epoch_12.pth")
    result = ours.runpytest("--onnxdet", "--collect-only", *ONE, "--onnxdet-images=photos")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*ours-2.py: data.test.classes is *names.txt: {said}*"])


def test_class_names_have_to_be_as_many_as_the_heads_tell_apart(ours: pytest.Pytester) -> None:
    torch.save({"meta": {"CLASSES": ("a", "b")}, "state_dict": {}}, ours.path / "two.pth")
    result = ours.runpytest(
        "--onnxdet",
        "--onnxdet-config=ours-2.py",
        "--onnxdet-checkpoint=two.pth",
        "--onnxdet-images=photos",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*two.pth: meta.CLASSES has 2 names ('a', 'b'), and*num_classes=3*"]
    )


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("'circle'", "data.test.classes is 'circle': a text is the path of a file*"),
        ("5", "data.test.classes is 5: give a list of names"),
        ("'names.txt'", None),
    ],
)
def test_the_configs_class_names_are_a_list_or_a_file(
    ours: pytest.Pytester, classes: str, said: str | None
) -> None:
    (ours.path / "ours-2.py").write_text(CONFIG.replace("gone.json'", f"x', classes={classes}"))
    (ours.path / "names.txt").write_text("one\ntwo\nthree\n")
    torch.save({"state_dict": {}}, ours.path / "epoch_12.pth")
    result = ours.runpytest("--onnxdet", "--collect-only", "-q", *ONE, "--onnxdet-images=photos")
    if said is None:
        assert result.ret == pytest.ExitCode.OK
    else:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*ours-2.py: {said}"])


def test_of_several_data_sets_one_is_to_be_named(ours: pytest.Pytester) -> None:
    file = SHAPES / "annotations.json"
    both = f"ann_file=['{file}', '{file}'], img_prefix='{SHAPES / 'val'}'"
    (ours.path / "ours-2.py").write_text(
        CONFIG.replace("ann_file='gone.json', img_prefix='gone'", both)
    )
    result = ours.runpytest("--onnxdet", "--collect-only", *ONE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*data.test is one with several files of 2 data sets: set it to one, or give --onnxdet*"]
    )
    result = ours.runpytest("--onnxdet", "--collect-only", *ONE, "--onnxdet-images=photos")
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("names", [(1, 2, 3), ("a", "a", "b")])
def test_class_names_are_texts_each_once(ours: pytest.Pytester, names: tuple[object, ...]) -> None:
    torch.save({"meta": {"CLASSES": names}, "state_dict": {}}, ours.path / "odd.pth")
    result = ours.runpytest(
        "--onnxdet",
        "--onnxdet-config=ours-2.py",
        "--onnxdet-checkpoint=odd.pth",
        "--onnxdet-images=photos",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"*odd.pth: meta.CLASSES holds {names[0]!r}: give texts, each once"]
    )


@pytest.mark.parametrize("text", ["models = 5", "[[models]]\nconfig = 'ours-2.py'", "[models]"])
def test_tables_of_another_form_are_told(ours: pytest.Pytester, text: str) -> None:
    text = text.replace("[models", "[tool.pytest-onnxdet.models")
    head = "" if text.startswith("[") else "[tool.pytest-onnxdet]\n"
    pyproject(ours, head + text)
    result = ours.runpytest("--onnxdet", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*[[]tool.pytest-onnxdet.models] is*give a table*"])


def test_a_day_may_have_a_time(ours: pytest.Pytester) -> None:
    pyproject(ours, TWO.replace("2100-01-31", "2100-01-31T00:00:00"))
    result = ours.runpytest("--onnxdet", "--collect-only", "-q", "--onnxdet-batch=1")
    assert result.ret == pytest.ExitCode.OK


def test_a_name_that_is_no_marker_gets_one(ours: pytest.Pytester) -> None:
    (ours.path / "_ours.py").write_text(CONFIG)
    words = ("--onnxdet-checkpoint=epoch_12.pth", "--onnxdet-images=photos", "--collect-only", "-q")
    result = ours.runpytest("--onnxdet", "--onnxdet-config=_ours.py", "-m", "model__ours", *words)
    result.stdout.fnmatch_lines(["*test_parity[[]model__ours-*"])


def test_random_weights_need_no_checkpoint(ours: pytest.Pytester) -> None:
    result = ours.runpytest(
        "--onnxdet",
        "--onnxdet-config=ours-2.py",
        "--onnxdet-checkpoints=none",
        "--onnxdet-images=photos",
        "--collect-only",
        "-q",
        "--onnxdet-cache=cache",
    )
    assert result.ret == pytest.ExitCode.OK
