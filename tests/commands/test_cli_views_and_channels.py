"""What a config asks for beside one view of a colour image: told, refused, or followed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cli_models import SIZE, Ran, Tiny, calibrated, data_of
from tiny_retinanet import CLASSES, PIPELINE, TINY

from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
FLIP = ("--cfg-options", "data.test.pipeline.1.flip=True")
GREY = (
    "dict(type='LoadImageFromFile')",
    "dict(type='LoadImageFromFile', color_type='grayscale')",
)


def test_augmentation_is_told(onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "r.pkl")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *out, *FLIP)
    assert ran.code == 0 and "the test pipeline augments (flip)" in ran.err
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *out)
    assert ran.code == 0 and "augments" not in ran.err


@pytest.mark.parametrize("command", ["test", "export"])
def test_strict_refuses_augmentation(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, command: str
) -> None:
    words: dict[str, tuple[Any, ...]] = {
        "test": (tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl"),
        "export": (*tiny, "--output-file", tmp_path / "g.onnx"),
    }
    ran = onnxdet(command, *words[command], *FLIP, "--strict")
    assert ran.code == 2 and "--strict: " in ran.err and "augments (flip)" in ran.err
    assert not list(tmp_path.iterdir())


def grey(text: str) -> str:
    """A pipeline that reads grey images."""
    text = text.replace(*GREY).replace("to_rgb=True", "to_rgb=False")
    return re.sub(r"mean=\[[^\]]*\], std=\[[^\]]*\]", "mean=[110.], std=[60.]", text)


@pytest.fixture(scope="module")
def tiny_grey(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny detector of one channel."""
    folder = tmp_path_factory.mktemp("grey")
    config = folder / "grey.py"
    model = TINY.replace("type='ResNet',", "type='ResNet', in_channels=1,")
    config.write_text(model + grey(PIPELINE) + data_of(few, SHAPES / "val"))
    detector = calibrated(config)
    state = {"meta": {"CLASSES": CLASSES}, "state_dict": detector.state_dict()}
    torch.save(state, folder / "grey.pth")
    return Tiny(config, folder / "grey.pth")


def test_a_detector_of_one_channel_exports_verifies_and_is_tested(
    onnxdet: Run, tiny_grey: Tiny, tmp_path: Path
) -> None:
    graph = tmp_path / "grey.onnx"
    words = ("--output-file", graph, "--shape", *SIZE, "--verify")
    for more in ((), ("--dynamic-export",)):
        ran = onnxdet("export", *tiny_grey, *words, *more)
        assert ran.code == 0, ran.out + ran.err
    ran = onnxdet("test", tiny_grey.config, graph, *ORT, "--eval", "bbox")
    assert ran.code == 0, ran.err


def test_a_grey_image_is_not_spread_over_three_channels(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path
) -> None:
    """mmdet raises; numpy copied the channel into all three, and both sides agreed."""
    config = tmp_path / "wrong.py"
    config.write_text(TINY + grey(PIPELINE) + data_of(few, SHAPES / "val"))
    said = "1 channel(s) after the test pipeline, where the detector takes 3"
    ran = onnxdet("test", config, dynamic, *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 2 and said in ran.err
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE, "--verify")
    ran = onnxdet("export", config, tiny.checkpoint, *words)
    assert ran.code == 2 and "the detector takes images of 3 channel(s)" in ran.err


FOUR = ("type='LoadImageFromFile'", "type='LoadImageFromFile', color_type='unchanged'")
FOUR_IN = ("type='ResNet',", "type='ResNet', in_channels=4,")


def four(text: str, normalised: int = 4) -> str:
    """A pipeline that reads images as they are, and normalises so many channels."""
    text = text.replace(*FOUR).replace("to_rgb=True", "to_rgb=False")
    mean, deviation = [110.0] * normalised, [60.0] * normalised
    return re.sub(r"mean=\[[^\]]*\], std=\[[^\]]*\]", f"mean={mean}, std={deviation}", text)


@pytest.fixture(scope="module")
def four_channels(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Path]:
    """The tiny detector of four channels, and images that have as many."""
    folder = tmp_path_factory.mktemp("four")
    (folder / "images").mkdir()
    for image in json.loads(few.read_text())["images"]:
        colour = cv2.imread(str(SHAPES / "val" / image["file_name"]))
        near = np.concatenate([colour, colour[..., :1] // 2], axis=2)
        cv2.imwrite(str(folder / "images" / image["file_name"]), near)
    config = folder / "four.py"
    data = data_of(few, folder / "images")
    config.write_text(TINY.replace(*FOUR_IN) + four(PIPELINE) + data)
    detector = calibrated(config, channels=4)
    state = {"meta": {"CLASSES": CLASSES}, "state_dict": detector.state_dict()}
    torch.save(state, folder / "four.pth")
    return Tiny(config, folder / "four.pth"), folder / "images"


def test_a_detector_of_four_channels_exports_verifies_and_is_tested(
    onnxdet: Run, four_channels: tuple[Tiny, Path], tmp_path: Path
) -> None:
    """By shipped scenes, which have three, and by images of its own; painted, too."""
    model, images = four_channels
    graph = tmp_path / "four.onnx"
    words = ("--output-file", graph, "--shape", *SIZE, "--verify")
    own = ("--input-img", images / "001.png", "--test-img", images / "002.png")
    for more in ((), own, ("--dynamic-export",)):
        ran = onnxdet("export", *model, *words, *more)
        assert ran.code == 0, ran.out + ran.err
    ran = onnxdet("test", model.config, graph, *ORT, "--eval", "bbox", "--show-dir", tmp_path / "o")
    assert ran.code == 0, ran.err
    assert cv2.imread(str(tmp_path / "o" / "001.png"), cv2.IMREAD_UNCHANGED).shape[2] == 3


def test_other_channels_than_the_detectors_or_the_pipelines_are_numbers(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, four_channels: tuple[Tiny, Path]
) -> None:
    model, images = four_channels
    data = data_of(few, images)
    config = model.config.with_name("other.py")
    of_image = "000.png: 4 channel(s) after the test pipeline, where the detector takes 3"
    of_config = "4 value(s) as mean and the detector takes images of 3 channel(s)"
    as_read = "000.png: 4 channel(s) as read, where the pipeline's Normalize has 3"
    for normalised, said, before in ((4, of_image, of_config), (3, as_read, as_read)):
        config.write_text(TINY + four(PIPELINE, normalised) + data)
        ran = onnxdet("test", config, dynamic, *ORT, "--eval", "bbox")
        assert ran.code == 2 and said in ran.err
        words = ("--output-file", config.with_name("g.onnx"), "--shape", *SIZE, "--verify")
        ran = onnxdet("export", config, tiny.checkpoint, *words, "--input-img", images / "000.png")
        assert ran.code == 2 and before in ran.err
