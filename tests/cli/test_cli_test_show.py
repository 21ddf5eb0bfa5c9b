"""``onnxdet test``: painted images, in a folder and in a window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_models import Ran, Tiny

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


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A display on which the window's titles are written down; it is closed after ``CLOSED``."""
    from matplotlib import pyplot
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.figure import Figure

    from pytest_onnxdet.commands import window

    titles: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(window, "_interactive", lambda _: ["Agg"])

    def titled(self: Any, title: str) -> None:
        if title.endswith(".png - any key: next, close: show no more"):  # not matplotlib's own
            titles.append(title.split()[0])

    monkeypatch.setattr(FigureManagerBase, "set_window_title", titled)

    def wait(self: Any, timeout: float = -1) -> None:
        (axes,) = self.axes
        (image,) = axes.images
        assert image.get_array().ndim == 3
        if len(titles) == CLOSED:
            pyplot.close(self)

    monkeypatch.setattr(Figure, "waitforbuttonpress", wait)
    return titles


CLOSED = 4


def test_one_window_until_it_is_closed(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, screen: list[str]
) -> None:
    from matplotlib import pyplot

    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show", "--show-dir", tmp_path / "show")
    assert ran.code == 0, ran.err
    assert screen == [f"{index:03d}.png" for index in range(CLOSED)]
    assert len(list((tmp_path / "show").iterdir())) == 6  # the run goes on
    assert not pyplot.get_fignums() and "not shown" not in ran.err


def test_a_screen_without_a_way_to_open_windows(
    onnxdet: Run, tiny: Tiny, dynamic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("MPLBACKEND", "agg")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show")
    assert ran.code == 0 and ran.err.count("opens no windows") == 1


def test_no_window_is_prepared_that_nobody_asked_for(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, screen: list[str]
) -> None:
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--out", tmp_path / "r.pkl")
    assert ran.code == 0 and not screen and "window" not in ran.err
