"""``--cfg-options`` that decide how many boxes a graph gives: counted, or told to be idle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from cli_models import SIZE, Ran, Tiny, outputs

from pytest_onnxdet.commands.caps import take_caps
from pytest_onnxdet.commands.common import CommandError

Run = Callable[..., Ran]
TEST = "model.test_cfg."


@pytest.fixture
def count(onnxdet: Run, tmp_path: Path) -> Callable[..., tuple[int, int]]:
    """Exports with options, and counts the detections: of an image, and the most of a class."""

    def counted(model: Tiny | tuple[str, ...], *options: str, opset: int = 16) -> tuple[int, int]:
        file = tmp_path / "c.onnx"
        words = ("--cfg-options", *options) if options else ()
        common = ("export", *model, "--output-file", file, "--shape", *SIZE)
        ran = onnxdet(*common, "--opset-version", opset, *words)
        assert ran.code == 0, ran.err
        assert "no effect" not in ran.err
        labels = outputs(file)["labels"][0]
        used = labels[labels >= 0]
        return len(used), int(np.bincount(used, minlength=1).max())

    return counted


def test_of_a_single_stage_model(tiny: Tiny, count: Callable[..., tuple[int, int]]) -> None:
    plain, of_class = count(tiny)
    assert plain == 20 and of_class > 3
    assert count(tiny, TEST + "max_per_img=7")[0] == 7
    assert 0 < count(tiny, TEST + "nms_pre=2")[0] <= 4  # of two levels
    assert 0 < count(tiny, TEST + "deploy_nms_pre=3")[0] <= 3
    assert count(tiny, TEST + "max_output_boxes_per_class=2")[1] == 2
    assert count(tiny, TEST + "nms.max_output_boxes_per_class=2")[1] == 2
    assert count(tiny, TEST + "deploy_nms_pre=-1", opset=11) == (plain, of_class)
    assert count(tiny, TEST + "nms.max_output_boxes_per_class=-1") == (plain, of_class)


def test_of_mask_rcnn(masked: Tiny, count: Callable[..., tuple[int, int]]) -> None:
    rcnn = TEST + "rcnn."
    plain, of_class = count(masked)
    assert plain == 8 and of_class > 2
    assert count(masked, rcnn + "max_per_img=5")[0] == 5
    assert count(masked, rcnn + "max_output_boxes_per_class=1")[1] == 1
    assert count(masked, rcnn + "nms.max_output_boxes_per_class=1")[1] == 1
    # Each region can give a detection of each of the three classes.
    assert 0 < count(masked, rcnn + "deploy_nms_pre=1")[0] <= 3
    assert count(masked, rcnn + "deploy_nms_pre=-1", TEST + "rpn.deploy_nms_pre=-1")[0] == plain


def test_of_yolov3(count: Callable[..., tuple[int, int]]) -> None:
    yolo, low = ("mini:yolov3",), (TEST + "score_thr=0.0001", TEST + "conf_thr=0.0001")
    plain, of_class = count(yolo, *low)
    assert plain == 100 and of_class > 2
    assert count(yolo, *low, TEST + "max_per_img=7")[0] == 7
    assert 0 < count(yolo, *low, TEST + "deploy_nms_pre=2")[0] <= 6
    assert count(yolo, *low, TEST + "nms.max_output_boxes_per_class=2")[1] == 2


def test_the_graph_and_pytorch_ignore_yolov3s_nms_pre(onnxdet: Run, tmp_path: Path) -> None:
    common = ("export", "mini:yolov3", "--output-file", tmp_path / "y.onnx", "--shape", *SIZE)
    ran = onnxdet(*common, "--verify", "--cfg-options", TEST + "nms_pre=1")
    assert ran.code == 0, ran.out + ran.err
    assert "test_cfg.nms_pre has no effect: YOLOv3 in PyTorch does not read it" in ran.err
    assert int(ran.out.split("the same, ")[1].split()[0]) > 3  # one of each level would be three


@pytest.mark.parametrize("place", ["", "nms."])
def test_pytorch_stays_valid_and_uncapped(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, place: str
) -> None:
    """PyTorch's suppression refuses words that it does not know, and knows no caps."""
    common = ("export", *tiny, "--output-file", tmp_path / "p.onnx", "--shape", *SIZE, "--verify")
    ran = onnxdet(*common, "--cfg-options", f"{TEST}{place}max_output_boxes_per_class=2")
    assert ran.code == 1 and "DIFFERENT" in ran.out, ran.out + ran.err
    assert "The graph was capped (max_output_boxes_per_class=2)" in ran.out


@pytest.mark.parametrize("model", ["detr", "cornernet"])
@pytest.mark.parametrize("cap", ["deploy_nms_pre", "max_output_boxes_per_class"])
def test_a_cap_that_does_nothing_is_not_claimed(
    onnxdet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, cap: str
) -> None:
    from pytest_onnxdet.commands import verify

    monkeypatch.setattr(verify, "verify", lambda *_: False)
    common = ("export", f"mini:{model}", "--output-file", tmp_path / "n.onnx")
    shape = (127, 127) if model == "cornernet" else SIZE
    ran = onnxdet(*common, "--shape", *shape, "--verify", "--cfg-options", f"{TEST}{cap}=3")
    assert ran.code == 1 and f"test_cfg.{cap} has no effect:" in ran.err, ran.err
    assert "Verification failed" in ran.out and "capped" not in ran.out


def test_caps_of_proposals_do_nothing(onnxdet: Run, masked: Tiny, tmp_path: Path) -> None:
    common = ("export", *masked, "--output-file", tmp_path / "r.onnx", "--shape", *SIZE)
    rpn = (TEST + "rpn.deploy_nms_pre=5", TEST + "rpn.nms.max_output_boxes_per_class=5")
    ran = onnxdet(*common, "--opset-version", 16, "--verify", "--cfg-options", *rpn)
    assert ran.code == 0, ran.out + ran.err
    for name in ("deploy_nms_pre", "max_output_boxes_per_class"):
        assert f"test_cfg.rpn.{name} has no effect" in ran.err
        assert f"test_cfg.rcnn.{name} caps the second stage" in ran.err


def test_raw_outputs_are_not_capped(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    common = ("export", *tiny, "--output-file", tmp_path / "w.onnx", "--shape", *SIZE)
    ran = onnxdet(*common, "--skip-postprocess", "--cfg-options", TEST + "deploy_nms_pre=3")
    assert ran.code == 0 and "with --skip-postprocess nothing is selected" in ran.err


def test_a_cap_is_a_whole_number() -> None:
    def caps(**test_cfg: Any) -> dict[str, int]:
        return take_caps(mmcv.Config({"model": {"test_cfg": test_cfg}}))

    assert caps() == caps(deploy_nms_pre=0) == caps(deploy_nms_pre=-1) == {}
    assert caps(nms={"max_output_boxes_per_class": 4}) == {"max_output_boxes_per_class": 4}
    with pytest.raises(CommandError, match=r"test_cfg\.deploy_nms_pre: 'x': give a whole number"):
        caps(deploy_nms_pre="x")
