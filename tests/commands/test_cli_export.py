"""``onnxdet export``: every argument, by what it changes."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cli_models import SIZE, Ran, Tiny, axes, outputs

from pytest_onnxdet.commands import export as command
from pytest_onnxdet.commands.test import describe

Run = Callable[..., Ran]


def test_defaults_are_the_stock_tools() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = vars(parser.parse_args(["a.py", "a.pth"]))
    wanted = {
        "output_file": "tmp.onnx",
        "input_img": None,
        "test_img": None,
        "shape": [800, 1216],
        "opset_version": 11,
        "dynamic_export": False,
        "show": False,
        "verify": False,
        "simplify": False,
        "skip_postprocess": False,
        "cfg_options": None,
        "lowering": "onnxruntime",
        "single_input": False,
        "mask_output": "roi",
        "batch": None,
        "trust_checkpoint": False,
    }
    assert {name: args[name] for name in wanted} == wanted


def test_without_options_the_graph_is_static_and_called_tmp(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = onnxdet("export", *tiny, "--shape", 96)
    assert ran.code == 0, ran.err
    assert "Successfully exported ONNX model: tmp.onnx" in ran.out and "opset 11" in ran.out
    result = axes(tmp_path / "tmp.onnx")
    assert result["input"] == [1, 3, 96, 96] and result["image_shape"] == [1, 2]
    assert "verify" not in ran.out and not list(tmp_path.glob("*.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["tmp.onnx"]


def test_dynamic_export_verify_show_and_simplify(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "d.onnx"
    ran = onnxdet(
        *("export", *tiny, "--output-file", file, "--shape", *SIZE, "--opset-version", 13),
        *("--dynamic-export", "--verify", "--show", "--simplify"),
    )
    assert ran.code == 0, ran.out + ran.err
    result = axes(file)
    assert result["input"] == ["batch", 3, "height", "width"]
    assert result["dets"] == ["batch", "num_dets", 5] and result["labels"] == ["batch", "num_dets"]
    before = int(ran.out.split("Simplified: ")[1].split()[0])
    after = int(ran.out.split("before, ")[1].split()[0])
    assert after < before and after == len(onnx.load(str(file)).graph.node)
    assert "verify 96 x 128: the same" in ran.out
    assert "verify 128 x 192: the same" in ran.out
    assert "verify 96 x 128, batch 2 of different images: the same" in ran.out
    assert "opset 13" in ran.out and "Conv " in ran.out and "input: float (batch, 3" in ran.out
    assert "(boxes within, px:" in ran.out
    picture = tmp_path / "d_detections.png"
    assert str(picture) in ran.out and picture.is_file()
    assert "no display" in ran.err


def test_verify_finds_a_difference(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeSession

    honest = OnnxRuntimeSession.run

    def shifted(self: Any, batch: Any) -> Any:
        result = {name: array.copy() for name, array in honest(self, batch).items()}
        if "dets" in result:  # not the raw outputs
            result["dets"][:, 3, 0] -= 0.5
        return result

    monkeypatch.setattr(OnnxRuntimeSession, "run", shifted)
    file = tmp_path / "v.onnx"
    ran = onnxdet("export", *tiny, "--output-file", file, "--shape", *SIZE, "--verify")
    assert ran.code == 1
    assert "DIFFERENT" in ran.out and "box_shift: 1" in ran.out and "069.png" in ran.out
    assert "reference #3" in ran.out and "failed, see above; the file was kept" in ran.out
    assert file.is_file()


def test_verify_of_nothing_is_no_success(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    ran = onnxdet(
        *("export", *tiny, "--output-file", tmp_path / "n.onnx", "--shape", *SIZE, "--verify"),
        *("--cfg-options", "model.test_cfg.score_thr=0.999999"),
    )
    assert ran.code == 1 and "PyTorch finds nothing" in ran.out and "--test-img" in ran.out


def test_input_and_test_images(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    from pytest_onnxdet.commands import verify

    seen: list[list[str]] = []
    monkeypatch.setattr(command, "_export", lambda *_: describe(tmp_path / "e.onnx", "onnxruntime"))
    monkeypatch.setattr(command, "_report", lambda *_: None)
    monkeypatch.setattr(
        verify, "verify", lambda *args: not seen.append([path.name for path in args[3]])
    )
    node = onnx.helper.make_node("Identity", ["input"], ["dets"])
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(*([node], "g", [info("input", 1, [1])], [info("dets", 1, [1])]))
    onnx.save(onnx.helper.make_model(graph, ir_version=8), str(tmp_path / "e.onnx"))
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((50, 60, 3), np.uint8))
    common = ("export", *tiny, "--verify", "--output-file", tmp_path / "o.onnx")
    onnxdet(*common)
    onnxdet(*common, "--input-img", tmp_path / "a.png")
    onnxdet(*common, "--input-img", tmp_path / "a.png", "--test-img", tmp_path / "b.png")
    assert seen == [["069.png", "053.png"], ["a.png", "069.png"], ["b.png", "a.png"]]
    (tmp_path / "text.png").write_text("no image")
    for option, name, message in (
        ("--input-img", "gone.png", "gone.png: no such image"),
        ("--test-img", "text.png", "text.png: cannot be read as an image"),
    ):
        ran = onnxdet(*common, option, tmp_path / name)
        assert ran.code == 2 and message in ran.err and option in ran.err


def test_cfg_options_are_read_as_mmcv_reads_them() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["c", "k", "--cfg-options", "a.b=1", "a.c=[(1,2),(3,4)]", "d=x,y", "e=True"]
    options = parser.parse_args(words).cfg_options
    assert options == {"a.b": 1, "a.c": [(1, 2), (3, 4)], "d": ["x", "y"], "e": True}


def test_a_word_that_is_no_option(onnxdet: Run, tiny: Tiny) -> None:
    ran = onnxdet("export", *tiny, "--cfg-options", "model.test_cfg.nms_pre")
    assert ran.code == 2 and "write key=value" in ran.err


def test_lowering_tensorrt_pads_to_a_fixed_count(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "t.onnx"
    ran = onnxdet(
        *("export", *tiny, "--output-file", file, "--shape", *SIZE, "--opset-version", 17),
        *("--lowering", "tensorrt", "--verify"),
    )
    assert ran.code == 0, ran.out + ran.err
    result = outputs(file)
    assert result["dets"].shape == (1, 20, 5)


def test_single_input(onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.onnx"
    ran = onnxdet(
        *("export", *tiny, "--output-file", file, "--shape", *SIZE, "--single-input"),
        *("--dynamic-export", "--verify"),
    )
    assert ran.code == 0, ran.out + ran.err
    assert list(axes(file)) == ["input", "dets", "labels"]
    one, two = outputs(file, (64, 96), 2), outputs(dynamic, (64, 96), 2)
    np.testing.assert_allclose(one["dets"], two["dets"], rtol=1e-5, atol=1e-5)


def test_masks_of_the_inputs_size(stock_masks: Path) -> None:
    assert list(axes(stock_masks)) == ["input", "dets", "labels", "masks"]
    assert axes(stock_masks)["masks"] == ["batch", "num_dets", "height", "width"]
    masks = outputs(stock_masks, (64, 96))["masks"]
    assert masks.dtype == bool and masks.shape[2:] == (64, 96) and masks.any()
    assert stock_masks.with_name("stock_detections.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "opset 11 would not be exact: RoiAlign.*least opset that works is 16"),
        (("--skip-postprocess",), "two-stage model.*only single-stage"),
    ],
)
def test_what_mask_rcnn_cannot_do(
    onnxdet: Run, masked: Tiny, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    import re

    ran = onnxdet("export", *masked, "--output-file", tmp_path / "x.onnx", *words)
    assert ran.code == 2 and re.search(message, ran.err) and not list(tmp_path.iterdir())


class Hook:
    pass


def test_trust_checkpoint(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    whole = torch.load(tiny.checkpoint, weights_only=True)
    whole["meta"]["hook"] = Hook()
    torch.save(whole, tmp_path / "odd.pth")
    common = ("export", tiny.config, tmp_path / "odd.pth", "--output-file", tmp_path / "o.onnx")
    ran = onnxdet(*common, "--shape", *SIZE)
    assert ran.code == 2 and "Hook" in ran.err and "--trust-checkpoint" in ran.err
    ran = onnxdet(*common, "--shape", *SIZE, "--trust-checkpoint")
    assert ran.code == 0, ran.err


def test_deprecated_arguments_are_taken_with_a_warning(onnxdet: Run, tiny: Tiny) -> None:
    words = ("--dataset", "coco", "--mean", 1, 2, 3, "--std", 4, 5, 6)
    ran = onnxdet("export", tiny.config, "gone.pth", *words)
    for name in ("--dataset", "--mean", "--std"):
        assert f"warning: {name} is deprecated" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{config}", "gone.pth"), "gone.pth: no such weights file"),
        (("{config}",), "CHECKPOINT is missing"),
        (("nowhere.py", "{checkpoint}"), "nowhere.py: no such config file"),
        (("mini:nothing",), "no model 'nothing' of profile 'mini'; there are: retinanet"),
        (("retinanet/retinanet_r50_fpn_1x_coco.py", "{checkpoint}"), "do not fit RetinaNet"),
        (("{config}", "{checkpoint}", "--shape", "1", "2", "3"), "--shape: 3 values"),
        (("{config}", "{checkpoint}", "--shape", "0"), "--shape: give pixels"),
        (("{config}", "{checkpoint}", "--batch", "0"), "--batch: 0: give 1 or more"),
        (("{config}", "{checkpoint}", "--opset-version", "5"), "opset 5 is not supported: 11 to"),
        (("{config}", "{checkpoint}", "--mask-output", "image"), "RetinaNet has no masks"),
        (("{config}", "{checkpoint}", "--output-file", "no/x.onnx"), "there is no folder no"),
        (("{config}", "{checkpoint}", "--output-file", "{folder}"), "is a folder"),
        (("{config}", "{checkpoint}", "--lowering", "other"), "invalid choice: 'other'"),
        (
            ("{config}", "{checkpoint}", "--cfg-options", "data.test.pipeline.9.type=X"),
            "--cfg-options: data.test.pipeline.9.type: does not fit",
        ),
    ],
)
def test_mistakes_are_told_in_one_message(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    names = {**{k: str(v) for k, v in tiny._asdict().items()}, "folder": str(tmp_path)}
    ran = onnxdet("export", *(word.format(**names) for word in words))
    assert ran.code == 2 and message in ran.err, ran.err
    assert not Path("tmp.onnx").exists()


def test_a_checkpoint_that_cannot_be_fetched(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("pytest_onnxdet.models.download.time.sleep", lambda _: None)
    url = "http://127.0.0.1:1/net-01234567.pth"
    ran = onnxdet("export", tiny.config, url)
    assert ran.code == 2 and f"{url}: given up after 4 attempts" in ran.err
    assert "`onnxdet export CONFIG FILE`" in ran.err


def test_help_says_what_batch_is_to_a_dynamic_graph(onnxdet: Run) -> None:
    ran = onnxdet("export", "--help")
    text = " ".join(ran.out.split())
    assert ran.code == 0
    assert "With --dynamic-export the batch stays free; it is traced with so many" in text


@pytest.mark.parametrize(("batch", "tried"), [(("--batch", 1), 2), (("--batch", 3), 3)])
def test_a_dynamic_graph_is_verified_with_the_batch(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, batch: tuple[object, ...], tried: int
) -> None:
    common = ("export", *tiny, "--output-file", tmp_path / "b.onnx", "--shape", *SIZE)
    ran = onnxdet(*common, "--dynamic-export", "--verify", *batch)
    assert ran.code == 0, ran.out + ran.err
    assert axes(tmp_path / "b.onnx")["input"][0] == "batch"
    assert f"batch {tried} of different images: the same" in ran.out


def test_a_shape_below_the_least_multiple_is_told_in_one_line(
    onnxdet: Run, tiny: Tiny, tmp_path: Path
) -> None:
    common = ("export", *tiny, "--output-file", tmp_path / "s.onnx", "--shape", 16)
    ran = onnxdet(*common, "--dynamic-export", "--verify")
    assert "unforeseen" not in ran.err, ran.err
    assert "verify 32 x 32: " in ran.out


def test_a_missing_simplifier_is_told_first(onnxdet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_onnxdet.export import simplify

    monkeypatch.setattr(simplify, "find_spec", lambda _: None)
    ran = onnxdet("export", "nowhere.py", "gone.pth", "--simplify")
    assert ran.code == 2 and "pip install onnxslim" in ran.err


def test_the_unforeseen_is_one_message_too(onnxdet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_size", lambda _: 1 / 0)
    ran = onnxdet("export", "a", "b")
    assert ran.code == 2 and "unforeseen ZeroDivisionError" in ran.err and "--traceback" in ran.err
