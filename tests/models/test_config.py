"""Configs as people have them: read as mmdet reads them, or refused with the file and the line."""

import errno
import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import mmcv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_onnxdet.core.notes import Note
from pytest_onnxdet.models.checkpoint import BuildError
from pytest_onnxdet.models.config import load_config, merge
from pytest_onnxdet.models.spec import ModelSpec

TEST_CFG = "dict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9)"
DATA = "data = dict(test=dict(pipeline=[]))\n"
WHOLE = f"model = dict(type='RetinaNet', test_cfg={TEST_CFG})\n" + DATA


def written(folder: Path, text: str | bytes, name: str = "config.py") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def loaded(file: Path, **overrides: Any) -> Any:
    return load_config(ModelSpec("x", str(file), overrides=overrides))


def refusal(file: Path) -> str:
    with pytest.raises(BuildError) as caught:
        loaded(file)
    return str(caught.value)


def test_test_cfg_beside_the_model(tmp_path: Path) -> None:
    beside = f"model = dict(type='RetinaNet')\ntrain_cfg = dict(a=1)\ntest_cfg = {TEST_CFG}\n"
    cfg = loaded(written(tmp_path, beside + DATA))
    assert cfg.model.test_cfg.max_per_img == 9 and cfg.model.train_cfg.a == 1
    assert "test_cfg" not in cfg and "train_cfg" not in cfg
    for key in ("test_cfg.max_per_img", "model.test_cfg.max_per_img"):
        assert loaded(tmp_path / "config.py", **{key: 3}).model.test_cfg.max_per_img == 3
    merge(cfg, {"test_cfg.nms.iou_threshold": 0.2})
    assert cfg.model.test_cfg.nms.iou_threshold == 0.2


@pytest.mark.parametrize("name", ["test_cfg", "train_cfg"])
def test_both_places_at_once_are_refused_as_mmdet_does(tmp_path: Path, name: str) -> None:
    both = f"model = dict(type='RetinaNet', {name}=dict(a=1))\n{name} = dict(a=2)\n" + DATA
    assert f"{name} stands in `model` and beside it" in refusal(written(tmp_path, both))
    none = f"model = dict(type='RetinaNet', {name}=dict(a=1))\n{name} = None\n" + DATA
    assert loaded(written(tmp_path, none)).model[name].a == 1


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        (WHOLE + "x = (\n", ", line 3: ", "'(' was never closed"),
        (WHOLE + "y = nothing\n", ", line 3: ", "name 'nothing' is not defined"),
        (WHOLE + "import nothing_there\n", ", line 3: ", "No module named 'nothing_there'"),
        (WHOLE + "# Gr\xfc\xdfe\n", ", line 3: ", "not UTF-8 text (byte 0xfc)"),
        ("\ufeff" + WHOLE, ": ", "begins with a byte order mark"),
        (WHOLE + "a\0b\n", ": ", "does not parse"),
        (WHOLE + "_base_ = ['there.py']\n", ": its `_base_` ", "there.py is not there"),
        (WHOLE + "_base_ = [3]\n", ", line 3: ", "`_base_` holds 3"),
        (WHOLE + "_base_ = 'config.py'\n", ": its `_base_` ", "leads back to itself"),
        (WHOLE + "z = '${model.nothing}'\n", ": ", "stands for nothing"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    text: str,
    place: str,
    said: str,
) -> None:
    encoding = "latin-1" if "\xfc" in text else "utf-8"
    file, before = written(tmp_path, text.encode(encoding)), list(sys.path)
    for at in (file, written(tmp_path, "_base_ = ['config.py']\n", "child.py")):
        message = refusal(at)
        assert f"{file}{place}" in message or f"{at}: " in message, message
        assert said in message and "\n" not in message
    gc.collect()
    assert capfd.readouterr().err == "" and sys.path == before
    assert not [w for w in recwarn if "Unraisable" in w.category.__name__]


@pytest.mark.parametrize(
    "data",
    ["None", "'x'", "dict(test=None)", "dict(test=dict())", "dict(test=dict(pipeline=None))",
     "dict(test=dict(pipeline='x'))", "dict(test=dict(pipeline=[1]))",
     "dict(test=dict(pipeline=[dict(a=1)]))",
     "dict(test=dict(pipeline=[dict(type='X', transforms=3)]))"],
)  # fmt: skip
def test_a_test_pipeline_that_is_none(tmp_path: Path, data: str) -> None:
    assert "data.test.pipeline`" in refusal(written(tmp_path, WHOLE + f"data = {data}\n"))


def test_a_deviation_of_zero_is_refused(tmp_path: Path) -> None:
    step = "dict(type='Normalize', mean=[1, 1, 1], std=[0, 1, 1])"
    data = f"data = dict(test=dict(pipeline=[dict(type='MultiScale', transforms=[{step}])]))"
    assert "std of 0 ([0, 1, 1])" in refusal(written(tmp_path, WHOLE + f"{data}\n"))


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ("dict(type='MultiScaleFlipAug', img_scale=(0, 0), transforms=[])", "img_scale"),
        ("dict(type='MultiScaleFlipAug', img_scale=[(64, 64), (64, -1)])", "img_scale"),
        ("dict(type='MultiScaleFlipAug', img_scale=640)", "img_scale"),
        ("dict(type='MultiScaleFlipAug', scale_factor=float('nan'))", "scale_factor"),
        ("dict(type='MultiScaleFlipAug', flip='no')", "flip"),
        ("dict(type='Resize', img_scale=(640,))", "img_scale"),
        ("dict(type='Resize', keep_ratio='yes')", "keep_ratio"),
        ("dict(type='LoadImageFromFile', color_type='rgb')", "color_type"),
        ("dict(type='Pad', size_divisor=0)", "size_divisor"),
        ("dict(type='Pad', size_divisor=-32)", "size_divisor"),
        ("dict(type='Pad', size_divisor=2.5)", "size_divisor"),
        ("dict(type='Pad', size=(0, 64))", "size"),
        ("dict(type='Normalize', mean=[0, float('nan'), 0], std=[1, 1, 1])", "mean"),
        ("dict(type='Normalize', mean=[0, 0, 0], std=[1, 'x', 1])", "std"),
    ],
)
def test_numbers_that_prepare_no_image_are_refused(tmp_path: Path, step: str, key: str) -> None:
    """Also where nothing is prepared: an export would show nothing of it."""
    data = f"data = dict(test=dict(pipeline=[{step}]))\n"
    kind = step.partition("'")[2].partition("'")[0]
    said = refusal(written(tmp_path, WHOLE + data))
    assert f"{kind} in the test pipeline has {key}=" in said and ": give " in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "step",
    [
        "dict(type='MultiScaleFlipAug', img_scale=[(64, 48), (96, 72)], flip=True)",
        "dict(type='Resize', img_scale=(float('inf'), 640), keep_ratio=True)",
        "dict(type='Pad', size=(64, 64), size_divisor=None)",
        "dict(type='Pad', size_divisor=32.0)",
    ],
)
def test_numbers_that_mmdet_takes_are_read(tmp_path: Path, step: str) -> None:
    cfg = loaded(written(tmp_path, WHOLE + f"data = dict(test=dict(pipeline=[{step}]))\n"))
    assert len(cfg.data.test.pipeline) == 1


def test_windows_line_ends_and_a_path_of_other_letters(tmp_path: Path) -> None:
    folder = tmp_path / "gr\u00f6\u00dfe \u6a21\u578b"
    folder.mkdir()
    cfg = loaded(written(folder, WHOLE.replace("\n", "\r\n"), "tr\u00e4ger.py"))
    assert cfg.model.test_cfg.max_per_img == 9 and cfg.filename.endswith("tr\u00e4ger.py")


def test_bases_templates_and_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    written(tmp_path, WHOLE, "model.py")
    written(tmp_path, "size = 7\n", "size.py")
    child = (
        "_base_ = ['../model.py', '{{ fileDirname }}/../size.py']\n"
        "model = dict(test_cfg=dict(max_per_img={{_base_.size}}, nms=dict(_delete_=True, a=1)))\n"
        "where = '{{ fileBasenameNoExtension }}'\nsame = '${model.test_cfg.score_thr}'\n"
    )
    file = written(tmp_path / "below", child, "child.py")
    cfg = loaded(file)
    assert cfg.model.test_cfg.max_per_img == 7 and dict(cfg.model.test_cfg.nms) == {"a": 1}
    assert cfg.where == "child" and cfg.same == 0.1
    assert cfg.model.to_dict() == mmcv.Config.fromfile(str(file)).model.to_dict()
    monkeypatch.chdir(tmp_path / "below")
    again = load_config(ModelSpec("x", str(Path("child.py").absolute())))
    assert again.model.test_cfg.max_per_img == 7


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    assert "a config is a .py, .json, .yaml or .yml file" in refusal(
        written(tmp_path, WHOLE, "config.txt")
    )
    assert "a folder, not a config file" in refusal(tmp_path)
    assert "does not parse" in refusal(written(tmp_path, "{", "config.json"))


@pytest.mark.parametrize(
    "text",
    [
        "test_dataloader = dict()\n" + WHOLE,
        "optim_wrapper = dict()\n" + WHOLE,
        "model = dict(type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor'))\n",
        "test_cfg = dict(type='TestLoop')\nmodel = dict(type='RetinaNet')\n",
        "from mmengine.config import read_base\n",
        "_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']\n",
    ],
)
def test_a_config_of_mmdetection_3(tmp_path: Path, text: str) -> None:
    message = refusal(written(tmp_path, text))
    assert "MMDetection 3's" in message and "MMDetection 2.28" in message


def custom(names: object, allow: bool = False) -> str:
    return WHOLE + f"custom_imports = dict(imports={names!r}, allow_failed_imports={allow})\n"


def test_an_own_package_that_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configs = tmp_path / "configs"
    configs.mkdir()
    message = refusal(written(configs, custom(["mmcls.models"])))
    assert "there is no module 'mmcls'" in message and "pip install 'mmcls<1'" in message
    file = written(configs, custom(["ourheads.fast"]))
    message = refusal(file)
    assert "there is no module 'ourheads'; looked in " in message
    assert "the installed packages: set PYTHONPATH to the folder that holds ourheads" in message
    (tmp_path / "ourheads").mkdir()
    assert f"set PYTHONPATH={tmp_path}, where ourheads is" in refusal(file)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "is there, without this module" in refusal(file)
    with pytest.warns(Note, match="no module 'ourheads.fast'.*left out"):
        loaded(written(configs, custom(["ourheads.fast"], allow=True)))
    (tmp_path / "ourheads" / "fast.py").write_text("import not_installed_here\n")
    written(configs, custom(["ourheads.fast"]))
    assert "ourheads.fast needs not_installed_here" in refusal(file)
    (tmp_path / "ourheads" / "slow.py").write_text("1 / 0\n")
    written(configs, custom("ourheads.slow"))
    assert "ourheads.slow fails when it is imported: ZeroDivisionError" in refusal(file)
    (tmp_path / "ourheads" / "good.py").write_text("VALUE = 1\n")
    loaded(written(configs, custom(["ourheads.good"])))
    assert sys.modules["ourheads.good"].VALUE == 1


def test_a_package_beside_the_config_is_found(tmp_path: Path) -> None:
    (tmp_path / "parts_beside_it.py").write_text("VALUE = 1\n")
    before = list(sys.path)
    try:
        loaded(written(tmp_path, custom(["parts_beside_it"])))
        assert sys.modules["parts_beside_it"].VALUE == 1
        assert sys.path == [*before, str(tmp_path)]
        loaded(written(tmp_path, custom(["json"])))
        assert sys.path == [*before, str(tmp_path)]
    finally:
        sys.path[:] = before
        sys.modules.pop("parts_beside_it", None)


def test_two_packages_of_one_name_beside_two_configs_are_told_apart(tmp_path: Path) -> None:
    """The first one's parts would have been the second one's, without a word."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "parts_of_both.py").write_text("VALUE = 1\n")
    before = list(sys.path)
    try:
        loaded(written(one, custom(["parts_of_both"])))
        loaded(written(one, custom(["parts_of_both"])))
        message = refusal(written(two, custom(["parts_of_both"])))
        assert f"parts_of_both is {one / 'parts_of_both'}, as another config" in message
        sys.modules.pop("parts_of_both")
        assert "rename one, or verify the two in runs" in refusal(two / "config.py")
    finally:
        sys.path[:] = before
        sys.modules.pop("parts_of_both", None)


@pytest.mark.parametrize("value", ["'ourheads'", "dict(imports=3)", "dict(imports=[3])"])
def test_custom_imports_of_another_form(tmp_path: Path, value: str) -> None:
    message = refusal(written(tmp_path, WHOLE + f"custom_imports = {value}\n"))
    assert "custom_imports" in message and "write custom_imports = dict(" in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_no_room_for_the_copy_that_mmcv_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    file = written(tmp_path, WHOLE)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    message = refusal(file)
    assert os.strerror(number) in message and "set TMPDIR to a folder with room" in message


NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(VALUES, VALUES)
def test_any_test_cfg_beside_the_model_is_the_models_or_refused(inner: Any, outer: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = f"model = dict(type='RetinaNet', test_cfg={inner!r})\ntest_cfg = {outer!r}\n"
        file = written(Path(folder), text + DATA)
        try:
            cfg = loaded(file)
        except BuildError as error:
            assert (inner is not None and outer is not None) or isinstance(outer, dict)
            assert str(file) in str(error)
            return
        assert cfg.model.test_cfg == (outer if inner is None else inner)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_any_bases_and_custom_imports_are_read_or_refused_in_one_line(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("_base_", "custom_imports"):
            file = written(Path(folder), WHOLE + f"{name} = {value!r}\n")
            try:
                loaded(file)
            except BuildError as error:
                assert str(file) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("what", ["sys.exit()", "sys.exit(0)", "raise SystemExit('no data')"])
def test_a_config_that_ends_the_process_is_refused(tmp_path: Path, what: str) -> None:
    said = refusal(written(tmp_path, f"import sys\n{what}\n" + DATA))
    assert "line 2: the config does not parse: " in said and "SystemExit" in said
