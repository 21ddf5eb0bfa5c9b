"""Detectors, layers and sizes that do not export: refused by name, with nothing else printed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from cli_models import SIZE, Ran, Tiny, axes, data_of
from tiny_retinanet import CLASSES, PIPELINE, TINY

from pytest_onnxdet.data.datasets import SHAPES
from pytest_onnxdet.families import UnsupportedPart
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.run.detectors import make_detector

Run = Callable[..., Ran]
OwnModel = Callable[[str], str]

OWN = """
import torch
from mmdet.models import BACKBONES
from mmdet.models.backbones import ResNet


@BACKBONES.register_module(force=True)
class UntranslatedNet(ResNet):
    def forward(self, x):
        return tuple(y + torch.special.i0(y) for y in super().forward(x))


@BACKBONES.register_module(force=True)
class NumpyNet(ResNet):
    def forward(self, x):
        return tuple(torch.from_numpy(y.numpy() * 2) for y in super().forward(x))


@BACKBONES.register_module(force=True)
class MaskedNet(ResNet):
    def __init__(self, **settings):
        from mmcv.ops import PSAMask

        super().__init__(**settings)
        self.psa = PSAMask('collect', (3, 3))


@BACKBONES.register_module(force=True)
class RaisingNet(ResNet):
    def forward(self, x):
        if torch.jit.is_tracing():
            raise ValueError('not while tracing')
        return super().forward(x)
"""


@pytest.fixture
def refused(
    onnxdet: Run, tmp_path: Path, few: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Exports a config with random weights, which is refused; gives what stderr says."""

    def export(model: str, *words: Any, pipeline: str = PIPELINE) -> str:
        from pytest_onnxdet.commands.common import open_config
        from pytest_onnxdet.models.build import make_detector

        config, file = tmp_path / "own.py", tmp_path / "own.onnx"
        config.write_text(model + pipeline + data_of(few, SHAPES / "val"))
        made = open_config(str(config), None)
        state = make_detector(made.cfg, made.path).state_dict()
        torch.save({"state_dict": state, "meta": {"CLASSES": CLASSES}}, tmp_path / "own.pth")
        words = words or ("--shape", *SIZE)
        ran = onnxdet("export", config, tmp_path / "own.pth", "--output-file", file, *words)
        assert ran.code == 2 and ran.out == "", ran
        assert len(ran.err.splitlines()) == 1 and "unforeseen" not in ran.err, ran.err
        assert not list(tmp_path.glob("*.onnx")) and not list(tmp_path.glob(".*"))
        return ran.err

    return export


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnModel:
    """The tiny model's config with one of the backbones of ``OWN`` in it, by its name."""

    def model(kind: str) -> str:
        package = tmp_path / "package"
        package.mkdir()
        (package / "refused_layers.py").write_text(OWN)
        monkeypatch.syspath_prepend(str(package))
        text = TINY.replace("type='ResNet'", f"type='{kind}'")
        imports = "dict(imports=['refused_layers'], allow_failed_imports=False)"
        return f"{text}custom_imports = {imports}\n"

    return model


@pytest.fixture
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was traced"))


def documented(config: str, model: str) -> str:
    from pytest_onnxdet.models.build import config_root

    return f"_base_ = [{str(config_root() / config)!r}]\nmodel = dict({model})\n"


SMALL = "backbone=dict(depth=18, base_channels=4), neck=dict(in_channels=[4, 8, 16, 32], "
SMALL += "out_channels=8), "


HEADS = "bbox_roi_extractor=dict(out_channels=8), bbox_head=dict(in_channels=8, "
FAST = documented(
    "fast_rcnn/fast_rcnn_r50_fpn_1x_coco.py",
    SMALL + f"roi_head=dict({HEADS}fc_out_channels=8, num_classes=3))",
)
ONE_STAGE = [
    (FAST, "FastRCNN has no lowering: it has no proposal network (rpn_head)"),
]


@pytest.mark.parametrize(("model", "said"), ONE_STAGE, ids=["fast_rcnn"])
def test_one_stage_of_two_is_refused_by_its_name(
    refused: Callable[..., str], model: str, said: str
) -> None:
    assert said in refused(model)


@pytest.mark.parametrize(("model", "said"), ONE_STAGE, ids=["fast_rcnn"])
def test_it_is_before_weights_are_read_or_a_data_set(
    onnxdet: Run, tmp_path: Path, model: str, said: str
) -> None:
    config, graph = tmp_path / "own.py", tmp_path / "own.onnx"
    config.write_text(model + PIPELINE + data_of(tmp_path / "no.json", tmp_path))
    for checkpoint in ("https://nowhere.invalid/a.pth", tmp_path / "no.pth"):
        ran = onnxdet("export", config, checkpoint, "--output-file", graph)
        assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1, ran.err
    graph.write_bytes(b"any")
    ran = onnxdet("test", config, graph, "--backend", "onnxruntime", "--eval", "bbox")
    assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1, ran.err
    spec = ModelSpec("own", str(config), weights="https://nowhere.invalid/a.pth")
    with pytest.raises(UnsupportedPart, match=re.escape(said)):
        make_detector(spec, tmp_path, None, pytest.fail, builtin_families())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.onnx", "own.py"]


@pytest.mark.parametrize("lowering", ["onnxruntime", "tensorrt"])
def test_an_operator_without_a_lowering_is_named_before_tracing(
    refused: Callable[..., str], own_model: OwnModel, lowering: str, no_tracing: None
) -> None:
    text = refused(own_model("MaskedNet"), "--lowering", lowering)
    assert "RetinaNet has a PSAMask at backbone.psa: its operator has no lowering" in text


@pytest.mark.parametrize("lowering", ["onnxruntime", "tensorrt"])
def test_an_opset_without_deformable_convolution_is_refused(
    refused: Callable[..., str], lowering: str
) -> None:
    model = TINY.replace("depth=18,", "depth=50, dcn=dict(type='DCNv2', deform_groups=1),")
    model = model.replace("dilations=(1, 1),", "dilations=(1, 1), stage_with_dcn=(False, True),")
    model = model.replace("in_channels=[4, 8]", "in_channels=[16, 32]")
    words = ("--lowering", lowering, "--opset-version", 15, "--shape", *SIZE)
    assert "deformable convolution needs GridSample" in (text := refused(model, *words))
    assert "the least opset that works is 16" in text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("UntranslatedNet", "'aten::i0' to ONNX opset version 11 is not supported (in backbone, a"),
        ("NumpyNet", "does not depend on the image in the traced graph"),
        ("RaisingNet", "ValueError: not while tracing"),
    ],
)
@pytest.mark.parametrize("dynamic", [(), ("--dynamic-export",)])
def test_an_own_layer_that_does_not_trace(
    refused: Callable[..., str],
    own_model: OwnModel,
    kind: str,
    said: str,
    dynamic: tuple[str, ...],
) -> None:
    assert said in refused(own_model(kind), "--shape", *SIZE, *dynamic)


@pytest.mark.parametrize("lowering", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("dynamic", [(), ("--dynamic-export",)])
@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        ("yolov3", (65, 97), "both sides have to be multiples of 32: give --shape (a spec's"),
        ("ssd", (64,), "it is too small: give --shape (a spec's static_shape) 288 288 or more"),
    ],
)
def test_a_size_that_the_network_cannot_take(
    onnxdet: Run,
    tmp_path: Path,
    model: str,
    shape: tuple[int, ...],
    said: str,
    dynamic: tuple[str, ...],
    lowering: str,
) -> None:
    words = ("--output-file", tmp_path / "s.onnx", "--opset-version", 17, "--lowering", lowering)
    ran = onnxdet("export", f"mini:{model}", *words, "--shape", *shape, *dynamic)
    assert ran.code == 2 and ran.out == "" and said in ran.err, ran.err
    assert f"PyTorch takes no images of {shape[0]} x {shape[-1]} px, either" in ran.err
    assert not list(tmp_path.iterdir())
    if model == "yolov3":
        assert "96 128" in ran.err


def test_raw_outputs_of_a_size_that_the_network_cannot_take(onnxdet: Run, tmp_path: Path) -> None:
    words = ("--output-file", tmp_path / "s.onnx", "--skip-postprocess", "--shape", 65, 97)
    ran = onnxdet("export", "mini:yolov3", *words)
    assert ran.code == 2 and "multiples of 32" in ran.err, ran.err


def test_a_size_beyond_memory(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("--output-file", tmp_path / "s.onnx", "--shape", 4_000_000)
    ran = onnxdet("export", *tiny, *words)
    assert ran.code == 2 and "does not fit into memory: give a smaller --shape" in ran.err
    assert not list(tmp_path.iterdir())


def four(model: str, means: str = "[1.0, 2.0, 3.0, 4.0]") -> tuple[str, str]:
    """A model of four channels, and its pipeline."""
    pipeline = PIPELINE.replace("mean=[120., 110., 100.], std=[60., 60., 60.]", "MEANS")
    values = f"mean={means}, std=[60.0, 60.0, 60.0, 60.0]"
    return model.replace("type='ResNet',", "type='ResNet', in_channels=4,"), pipeline.replace(
        "MEANS", values
    )


@pytest.mark.parametrize("lowering", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("dynamic", [(), ("--dynamic-export",)])
def test_four_channels_are_the_graphs(
    onnxdet: Run, few: Path, tmp_path: Path, lowering: str, dynamic: tuple[str, ...]
) -> None:
    from pytest_onnxdet.commands.common import open_config
    from pytest_onnxdet.models.build import make_detector

    model, pipeline = four(TINY)
    config, file = tmp_path / "four.py", tmp_path / "four.onnx"
    config.write_text(model + pipeline + data_of(few, SHAPES / "val"))
    made = open_config(str(config), None)
    torch.save(make_detector(made.cfg, made.path).state_dict(), tmp_path / "four.pth")
    words = ("--output-file", file, "--shape", *SIZE, "--lowering", lowering)
    ran = onnxdet("export", config, tmp_path / "four.pth", *words, *dynamic)
    assert ran.code == 0, ran.err
    free = ["batch", 4, "height", "width"]
    assert axes(file)["input"] == (free if dynamic else [1, 4, 96, 128])
    onnx.checker.check_model(str(file))


@pytest.mark.parametrize(
    ("model", "pipeline", "said"),
    [
        (TINY, PIPELINE.replace("[120., 110., 100.]", "[120.]"), "1 value(s) as mean and"),
        (TINY, PIPELINE.replace("[60., 60., 60.]", "[60., 60.]"), "2 value(s) as std and"),
        (TINY, four(TINY)[1], "4 value(s) as mean and the detector takes images of 3 channel(s)"),
        (four(TINY)[0], PIPELINE, "3 value(s) as mean and the detector takes images of 4"),
    ],
)
def test_means_of_other_channels_name_both_numbers(
    refused: Callable[..., str], model: str, pipeline: str, said: str
) -> None:
    assert said in refused(model, pipeline=pipeline)


def test_an_export_that_is_ended_leaves_no_file(tmp_path: Path) -> None:
    """SIGTERM, as a time limit sends it, while the graph is being written."""
    code = (
        "import os, signal, sys\n"
        "from pytest_onnxdet.export import exporter\n"
        "def stop(*_, **__):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    import time; time.sleep(20)\n"
        "exporter.export_detector = stop\n"
        "from pytest_onnxdet.cli import main\n"
        "sys.exit(main(['export', 'mini:retinanet', '--output-file', 'a.onnx', '--shape', '96']))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert ran.returncode == 130 and "interrupted" in ran.stderr, ran.stderr
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model=3", "it has no `model` with a `type`"),
        ("model.type=3", "`model.type` is 3, which is not a detector mmdet knows"),
        ("model.backbone=None", "RetinaNet cannot be built: model (RetinaNet): TypeError"),
        ("model.bbox_head=3", "RetinaNet cannot be built: model (RetinaNet): "),
        ("data.test.pipeline=3", "`data.test.pipeline` is 3: give a list of dict(type=...)"),
        ("data.test.pipeline.1.transforms=3", "`data.test.pipeline` is [{"),
    ],
)
def test_options_that_leave_no_detector(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, option: str, said: str
) -> None:
    words = ("--output-file", tmp_path / "o.onnx", "--shape", *SIZE, "--cfg-options", option)
    ran = onnxdet("export", *tiny, *words)
    assert ran.code == 2 and said in ran.err and "unforeseen" not in ran.err, ran.err
    assert not list(tmp_path.iterdir())
