"""Configs and checkpoints as people have them, through the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import SIZE, Ran, Tiny

Run = Callable[..., Ran]


@pytest.fixture
def export(onnxdet: Run, tmp_path: Path, tiny: Tiny) -> Callable[..., Ran]:
    """Exports the tiny detector with another config or checkpoint, and verifies it."""

    def run(
        change: Callable[[str], str] = str, state: Any = None, words: tuple[str, ...] = ()
    ) -> Ran:
        config, file = tmp_path / "own.py", tiny.checkpoint
        config.write_text(change(tiny.config.read_text()))
        if state is not None:
            file = tmp_path / "own.pth"
            torch.save(state, file)
        graph = ("--output-file", tmp_path / "own.onnx", "--shape", *SIZE, "--verify")
        return onnxdet("export", config, file, *graph, *words)

    return run


def test_syncbn_and_fp16_of_a_config(export: Callable[..., Ran]) -> None:
    def change(text: str) -> str:
        sync = "depth=18, norm_cfg=dict(type='SyncBN', requires_grad=True),"
        return text.replace("depth=18,", sync) + "\nfp16 = dict(loss_scale=512.)\n"

    ran = export(change)
    assert ran.code == 0 and "the same, 20 detections" in ran.out and ran.err == "", ran


def beside(text: str) -> str:
    """The config with its test_cfg beside the model."""
    start = text.index("    test_cfg=dict(")
    inner, _, rest = text[start:].partition("max_per_img=20))")
    model = text[:start].rstrip().rstrip(",") + ")\n"
    return f"{model}{inner.strip()}max_per_img=20)\n{rest}"


@pytest.mark.parametrize("key", ["test_cfg", "model.test_cfg"])
def test_a_cap_of_a_test_cfg_beside_the_model(export: Callable[..., Ran], key: str) -> None:
    assert export(beside).code == 0
    ran = export(beside, words=("--cfg-options", f"{key}.max_output_boxes_per_class=1"))
    assert ran.code == 1 and "The graph was capped (max_output_boxes_per_class=1)" in ran.out
    ran = export(beside, words=("--cfg-options", f"{key}.nms.max_output_boxes_per_class=1"))
    assert ran.code == 1 and "The graph was capped (max_output_boxes_per_class=1)" in ran.out


def test_class_names_of_another_number_are_told(export: Callable[..., Ran], tiny: Tiny) -> None:
    state = torch.load(tiny.checkpoint, weights_only=True)
    ran = export(state={**state, "meta": {"CLASSES": ("a", "b")}})
    assert (
        ran.code == 0
        and "the checkpoint names 2 classes and the head's num_classes is 3" in ran.err
    )
    ran = export(state={**state, "meta": {"CLASSES": "person"}})
    assert ran.code == 0 and "the checkpoint names 1 classes" in ran.err
    ran = export(state={**state, "meta": {"CLASSES": ("triangle", "square", "circle")}})
    said = (
        "the checkpoint's classes are triangle, square, circle, ... and the config's data has them"
    )
    assert ran.code == 0 and said in ran.err


def test_a_note_is_said_once(export: Callable[..., Ran]) -> None:
    ran = export(lambda text: text.replace("max_per_img=20", "max_per_img=20, nms_post=7"))
    assert ran.code == 0 and ran.err.count("nms_post is a key of an older mmdet") == 1


@pytest.mark.parametrize("words", [("a=(1,2",), ("a=[1,2",), ("a.b=[(1,2]",)])
def test_brackets_that_do_not_match(export: Callable[..., Ran], words: tuple[str, ...]) -> None:
    ran = export(words=("--cfg-options", *words))
    assert ran.code == 2 and f"{words[0]!r}: brackets do not match" in ran.err


def test_a_part_that_the_config_does_not_have_is_told(export: Callable[..., Ran]) -> None:
    known = ("test_cfg.max_per_img=3", "data.test.pipeline.0.type=LoadImageFromFile")
    ran = export(words=("--cfg-options", *known))
    assert ran.code == 0 and "nothing of that name" not in ran.err
    ran = export(words=("--cfg-options", "modle.test_cfg.score_thr=0.9", *known))
    said = "--cfg-options: modle.test_cfg.score_thr: the config has nothing of that name"
    assert ran.code == 0 and said in ran.err


def test_a_graph_is_written_where_a_link_leads(export: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.onnx").write_text("old")
    (tmp_path / "own.onnx").symlink_to("elsewhere/real.onnx")
    assert export().code == 0
    assert (tmp_path / "own.onnx").is_symlink()
    assert (tmp_path / "elsewhere" / "real.onnx").read_bytes()[:3] != b"old"
    (tmp_path / "own.onnx").unlink()
    (tmp_path / "own.onnx").symlink_to("own.onnx")
    assert export().code == 0 and not (tmp_path / "own.onnx").is_symlink(), "it led nowhere"
    (tmp_path / "own.onnx").unlink()
    (tmp_path / "own.onnx").symlink_to("/dev/stdout")
    ran = export()
    assert ran.code == 2 and "own.onnx is " in ran.err and "give a file's name" in ran.err
