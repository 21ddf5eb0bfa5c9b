"""``onnxdet test``: painted images, in a folder and in a window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_models import Ran, Screen, Tiny

from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")


def test_show_dir_and_threshold(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def changed(threshold: str) -> int:
        folder = tmp_path / threshold
        ran = onnxdet(
            *("test", tiny.config, dynamic, *ORT, "--show", "--show-dir", folder),
            *("--show-score-thr", threshold),
        )
        assert ran.code == 0 and ran.err.count("there is no display") == 1  # not for each image
        assert len(list(folder.iterdir())) == 6
        path = sorted(folder.iterdir())[0]
        original: Any = cv2.imread(str(SHAPES / "val" / path.name))
        return int((cv2.imread(str(path)) != original).any(axis=2).sum())

    assert changed("0.05") > changed("0.9999") == 0


def test_one_window_until_it_is_closed(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, screen: Screen
) -> None:
    from matplotlib import pyplot

    screen.closed_after = 4
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show", "--show-dir", tmp_path / "show")
    assert ran.code == 0, ran.err
    assert screen.titles == [f"{index:03d}.png" for index in range(4)]
    assert all(picture.ndim == 3 for picture in screen.pictures)
    assert len(list((tmp_path / "show").iterdir())) == 6  # the run goes on
    assert not pyplot.get_fignums() and "not shown" not in ran.err


def test_a_screen_without_a_way_to_open_windows(
    onnxdet: Run, tiny: Tiny, dynamic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")  # whatever a desk has
    monkeypatch.setenv("DISPLAY", ":0")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show")
    assert ran.code == 0 and ran.err.count("opens no windows") == 1


def test_no_window_is_prepared_that_nobody_asked_for(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, screen: Screen
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0 and not screen.titles and "window" not in ran.err
