"""A dynamic graph is run at a second size and batch before it is called dynamic."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_models import SIZE, Ran, Tiny, calibrated, data_of
from tiny_retinanet import CLASSES, PIPELINE, TINY
from torch import nn

from pytest_onnxdet.data.datasets import SHAPES
from pytest_onnxdet.export.options import ExportError, ExportOptions
from pytest_onnxdet.export.probe import require_dynamic, second_sizes

Run = Callable[..., Ran]
SWIN = """backbone=dict(
        type='SwinTransformer', embed_dims=8, depths=(2, 2), num_heads=(1, 2), window_size=4,
        strides=(4, 2), out_indices=(0, 1), patch_norm=True),
    neck=dict(type='FPN', in_channels=[8, 16],"""


@pytest.fixture(scope="module")
def swin(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny detector whose backbone computes with sizes in Python, which is rewritten."""
    folder = tmp_path_factory.mktemp("swin")
    config = folder / "swin.py"
    model = re.sub(r"backbone=dict\(.*?in_channels=\[4, 8\],", SWIN, TINY, flags=re.S)
    config.write_text(model + PIPELINE + data_of(few, SHAPES / "val"))
    detector = calibrated(config)
    state = {"meta": {"CLASSES": CLASSES}, "state_dict": detector.state_dict()}
    torch.save(state, folder / "swin.pth")
    return Tiny(config, folder / "swin.pth")


BAKING = """
from mmdet.models import BACKBONES
from mmdet.models.backbones import ResNet


@BACKBONES.register_module(force=True)
class BakingResNet(ResNet):
    def forward(self, x):
        n, h, w = int(x.shape[0]), int(x.shape[2]), int(x.shape[3])
        return super().forward(x.reshape(n, 3, h * w).reshape(n, 3, h, w))
"""


@pytest.fixture(scope="module")
def baking(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny detector with a backbone of its own, which takes sizes for numbers."""
    folder = tmp_path_factory.mktemp("baking")
    (folder / "baking_backbone.py").write_text(BAKING)
    config = folder / "baking.py"
    model = TINY.replace("type='ResNet'", "type='BakingResNet'")
    imports = "custom_imports = dict(imports=['baking_backbone'], allow_failed_imports=False)\n"
    config.write_text(imports + model + PIPELINE + data_of(few, SHAPES / "val"))
    detector = calibrated(config)
    state = {"meta": {"CLASSES": CLASSES}, "state_dict": detector.state_dict()}
    torch.save(state, folder / "baking.pth")
    return Tiny(config, folder / "baking.pth")


def test_a_backbone_whose_sizes_are_rewritten_is_dynamic(
    onnxdet: Run, swin: Tiny, tmp_path: Path
) -> None:
    """Swin computes with sizes in Python: the graph was refused."""
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE, "--opset-version", "17")
    ran = onnxdet("export", *swin, *words, "--dynamic-export", "--verify")
    assert ran.code == 0 and "any batch and size" in ran.out, ran.out + ran.err


def test_a_backbone_that_bakes_its_size_is_no_dynamic_graph(
    onnxdet: Run, baking: Tiny, tmp_path: Path
) -> None:
    """It was called "any batch and size", and was wrong at every other one."""
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE, "--opset-version", "17")
    ran = onnxdet("export", *baking, *words, "--dynamic-export")
    assert ran.code == 2, ran.out
    assert "the graph is not dynamic: at batch 3 and 224 x 256 px" in ran.err
    assert "fixed while tracing: " in ran.err and "baking_backbone.py:" in ran.err
    assert not list(tmp_path.iterdir())
    ran = onnxdet("export", *baking, *words, "--verify")  # and a static one is right
    assert ran.code == 0, ran.out


def test_a_graph_that_is_dynamic_is_called_so(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE)
    ran = onnxdet("export", *tiny, *words, "--dynamic-export")
    assert ran.code == 0 and "any batch and size" in ran.out
    assert "not tried" not in ran.err


def test_the_operator_that_baked_is_named(tiny: Tiny, tmp_path: Path) -> None:
    from pytest_onnxdet.commands.common import build, open_config

    detector = build(open_config(str(tiny.config), None), str(tiny.checkpoint))

    class Fixed(nn.Module):
        def forward(self, input: torch.Tensor, image_shape: torch.Tensor) -> torch.Tensor:
            return input.reshape(2, 3, 96 * 128).relu()

    path = tmp_path / "fixed.onnx"
    torch.onnx.export(
        Fixed(),
        (torch.zeros(2, 3, 96, 128), torch.zeros(2, 2, dtype=torch.int64)),
        str(path),
        input_names=["input", "image_shape"],
        dynamic_axes={"input": {0: "n", 2: "h", 3: "w"}},
        dynamo=False,
    )
    options = ExportOptions(shape="dynamic", batch=2, size=(96, 128))
    with pytest.raises(ExportError, match=r"at batch 3 and 224 x 256 px .* fails in Reshape '"):
        require_dynamic(detector, options, path)


@pytest.mark.parametrize(
    ("size", "small"),
    [((800, 1216), (160, 192)), ((96, 128), (224, 256)), ((511, 511), (127, 255))],
)
def test_the_second_size_is_small_another_and_no_square(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    first, larger = second_sizes(size)
    assert first == small and np.all(np.array(first) != size)
    assert larger[0] > size[0] and larger[1] > size[1] and larger[0] != larger[1]
