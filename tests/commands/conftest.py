"""Two detectors small enough to export many times, and the command run in this process."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from against_mmdet import Mini, exported
from cli_models import SIZE, Ran, Screen, Tiny, calibrated, data_of, first_annotations
from tiny_retinanet import CLASSES, PIPELINE, TINY

from pytest_onnxdet.cli import main
from pytest_onnxdet.data.datasets import SHAPES

IMAGES = 6


@pytest.fixture
def onnxdet(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command with these words; never lets an exception through."""

    def run(*words: object) -> Ran:
        capfd.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    return run


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_display() -> Iterator[None]:
    """On a desk `--show` would open windows, and what is said of a missing display would not be."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches that are run."""
    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeSession

    ran: list[int] = []
    own = OnnxRuntimeSession._run

    def counted(self: Any, feeds: Any) -> Any:
        ran.append(len(feeds["input"]))
        return own(self, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "_run", counted)
    return ran


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A display on which what the window shows is written down; set ``closed_after`` to close it.

    No window is opened, whatever the desk is that the tests run at.
    """
    from matplotlib import pyplot
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.figure import Figure

    from pytest_onnxdet.commands import window

    seen = Screen()
    pyplot.switch_backend("agg")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(window, "_interactive", lambda _: ["Agg"])

    def titled(self: Any, title: str) -> None:
        if title.endswith(".png - any key: go on, close: show no more"):  # not matplotlib's own
            seen.titles.append(title.split()[0])

    monkeypatch.setattr(FigureManagerBase, "set_window_title", titled)

    def wait(self: Any, timeout: float = -1) -> None:
        (axes,) = self.axes
        (image,) = axes.images
        seen.pictures.append(np.asarray(image.get_array()))
        if len(seen.titles) == seen.closed_after:
            pyplot.close(self)

    monkeypatch.setattr(Figure, "waitforbuttonpress", wait)
    return seen


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations of the first drawn scenes only."""
    path = tmp_path_factory.mktemp("few") / "few.json"
    path.write_text(json.dumps(first_annotations(IMAGES)))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Tiny:
    """A RetinaNet of two levels with random weights that detect something."""
    folder = tmp_path_factory.mktemp("tiny")
    config = folder / "tiny_retinanet.py"
    config.write_text(TINY + PIPELINE + data_of(few, SHAPES / "val"))
    detector = calibrated(config)
    checkpoint = folder / "tiny.pth"
    state = {"meta": {"CLASSES": CLASSES}, "state_dict": detector.state_dict()}
    torch.save(state, checkpoint)
    return Tiny(config, checkpoint)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Tiny:
    """The mini Mask R-CNN as a config file of its own, likewise with random weights."""
    from pytest_onnxdet.commands.common import open_config

    folder = tmp_path_factory.mktemp("masked")
    config = folder / "mini_mask_rcnn.py"
    options = {"model.test_cfg.rcnn.max_per_img": 8, "data.test.ann_file": str(few)}
    cfg = open_config("mini:mask_rcnn", options).cfg
    cfg.dump(str(config))
    detector = calibrated(config)
    torch.save({"state_dict": detector.state_dict()}, folder / "masked.pth")
    return Tiny(config, folder / "masked.pth")


@pytest.fixture(scope="session")
def dynamic(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector's dynamic graph."""
    path = tmp_path_factory.mktemp("graphs") / "dynamic.onnx"
    words = ["export", *map(str, tiny), "--output-file", str(path), "--dynamic-export"]
    assert main([*words, "--shape", *SIZE]) == 0
    return path


@pytest.fixture(scope="session")
def stock_masks(masked: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mask model's dynamic graph with the stock tool's interface; it is verified."""
    path = tmp_path_factory.mktemp("graphs") / "stock.onnx"
    words = ["export", *map(str, masked), "--output-file", str(path), "--dynamic-export"]
    words += ["--single-input", "--mask-output", "image", "--opset-version", "16", "--verify"]
    assert main([*words, "--shape", *SIZE, "--show"]) == 0
    return path


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """A trained detector of boxes and masks, for figures that are held to mmdet's."""
    return exported("mask_rcnn", tmp_path_factory.mktemp("mini"))


@pytest.fixture
def document(few: Path) -> dict[str, Any]:
    """What annotations are written from; change it before `tried`."""
    return dict(json.loads(few.read_text()))


@pytest.fixture
def images(tmp_path: Path, document: dict[str, Any]) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for image in document["images"]:
        shutil.copy(SHAPES / "val" / image["file_name"], folder)
    return folder


@pytest.fixture
def tried(
    onnxdet: Callable[..., Ran],
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    document: dict[str, Any],
    images: Path,
) -> Callable[..., Ran]:
    """Runs the command on ``document`` and ``images`` as they are then."""

    def run(*metrics: str, raw: bytes | None = None, options: tuple[str, ...] = ()) -> Ran:
        path = tmp_path / "a.json"
        path.write_bytes(json.dumps(document).encode() if raw is None else raw)
        places = (f"data.test.ann_file={path}", f"data.test.img_prefix={images}", *options)
        words = ("--eval", *(metrics or ("bbox",)), "--cfg-options", *places)
        ran = onnxdet("test", tiny.config, dynamic, "--backend", "onnxruntime", *words)
        assert "unforeseen" not in ran.err
        return ran

    return run
