"""``--show``: what the picture shows, and when a window opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cli_models import Ran, Screen
from numpy.typing import NDArray

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeSession
from pytest_onnxdet.commands.images import SAMPLE
from pytest_onnxdet.commands.pictures import _BAR, _colour

Run = Callable[..., Ran]
SCENE = cv2.imread(str(SAMPLE))


def show(onnxdet: Run, folder: Path, *words: object) -> tuple[Ran, list[NDArray[np.uint8]]]:
    """What the command says, and the picture's halves under their captions."""
    common = ("export", "mini:retinanet", "--output-file", folder / "r.onnx", "--show")
    ran = onnxdet(*common, "--shape", 128, 160, *words)
    assert ran.code == 0, ran.out + ran.err
    picture = cv2.imread(str(folder / "r_detections.png"))
    assert picture.shape == (_BAR + SCENE.shape[0], 2 * SCENE.shape[1], 3)
    return ran, np.split(picture, 2, axis=1)


def outlined(panel: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """How many pixels of a panel have exactly a class's colour and had not in the scene."""
    now, before = ((one == colour).all(axis=2) for one in (panel[_BAR:], SCENE))
    return int((now & ~before).sum())


def test_both_panels_show_the_image_and_its_boxes(onnxdet: Run, tmp_path: Path) -> None:
    ran, (torch_side, onnx_side) = show(onnxdet, tmp_path)
    assert str(tmp_path / "r_detections.png") in ran.out
    for panel in (torch_side, onnx_side):
        caption, image = panel[:_BAR], panel[_BAR:]
        assert caption.min() < 100 and caption.max() == 255
        same = (image == SCENE).all(axis=2)
        assert 0.5 < same.mean() < 0.999  # the scene, and something on it
        assert sum(outlined(panel, _colour(label)) > 40 for label in range(3)) >= 1
    assert not np.array_equal(torch_side[:_BAR], onnx_side[:_BAR])
    assert np.array_equal(torch_side[_BAR:], onnx_side[_BAR:])


def test_the_right_panel_is_the_graphs(
    onnxdet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (torch_side, _) = show(onnxdet, tmp_path)
    honest = OnnxRuntimeSession.run

    def nothing(self: Any, batch: Any) -> Any:
        outputs = {name: array.copy() for name, array in honest(self, batch).items()}
        outputs["labels"][:], outputs["dets"][:] = -1, 0
        return outputs

    monkeypatch.setattr(OnnxRuntimeSession, "run", nothing)
    _, (left, right) = show(onnxdet, tmp_path)
    assert np.array_equal(left, torch_side)
    assert np.array_equal(right[_BAR:], SCENE)


def test_without_a_display_no_window_opens(onnxdet: Run, tmp_path: Path) -> None:
    ran, _ = show(onnxdet, tmp_path)
    assert ran.err.count("there is no display: images are not shown in a window") == 1


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_with_a_display_a_window_shows_the_picture(
    onnxdet: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: Screen, name: str
) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv(name, ":9")
    ran, _ = show(onnxdet, tmp_path)
    assert screen.titles == ["r_detections.png"] and "no display" not in ran.err
    (shown,) = screen.pictures
    written = cv2.imread(str(tmp_path / "r_detections.png"))
    assert np.array_equal(shown[..., ::-1], written)  # OpenCV's channels are the other way round


def test_no_picture_of_raw_outputs(onnxdet: Run, tmp_path: Path) -> None:
    common = ("export", "mini:retinanet", "--output-file", tmp_path / "w.onnx", "--show")
    ran = onnxdet(*common, "--shape", 128, 160, "--skip-postprocess")
    assert ran.code == 0 and "graph w.onnx: opset 11" in ran.out
    assert "no picture is written: with --skip-postprocess there are no detections" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["w.onnx"]
