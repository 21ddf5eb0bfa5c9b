"""``onnxdet test``: painted images, in a folder and in a window."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
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


def test_pictures_stay_inside_the_folder_and_are_as_many_as_images(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path
) -> None:
    """By a path upwards, an absolute one, of one name in several folders, and of no format."""
    document = json.loads(few.read_text())
    data, out = tmp_path / "data" / "a", tmp_path / "deep" / "out"
    names = ["1.png", "../b/1.png", str(tmp_path / "c/1.png"), "sub/1.png", "SUB/1.PNG", "none"]
    for image, name in zip(document["images"], names, strict=True):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHAPES / "val" / image["file_name"], data / name)
        image["file_name"] = name
    (tmp_path / "a.json").write_text(json.dumps(document))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    options = (f"data.test.ann_file={tmp_path / 'a.json'}", f"data.test.img_prefix={data}")
    ran = onnxdet(
        *("test", tiny.config, dynamic, *ORT, "--show-dir", out, "--cfg-options", *options)
    )
    assert ran.code == 0, ran.err
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {str(path.relative_to(out)) for path in made} == {
        *("1.png", "_up/b/1.png", "_up/_up/c/1.png", "sub/1.png", "SUB/1-2.PNG", "none.png")
    }
    assert all(cv2.imread(str(path)) is not None for path in made)


@pytest.mark.parametrize("way", ["the folder", "a link to it", "a link to one", "a hard link"])
def test_the_data_sets_own_images_are_not_painted_over(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    runs: list[int],
    way: str,
) -> None:
    data, out = tmp_path / "val", tmp_path / "out"
    shutil.copytree(SHAPES / "val", data)
    if way == "the folder":
        out = data
    elif way == "a link to it":
        out.symlink_to(data)
    else:
        out.mkdir()
        link = out / "003.png"
        link.symlink_to(data / "003.png") if "hard" not in way else link.hardlink_to(
            data / "003.png"
        )
    before = {path: path.read_bytes() for path in data.iterdir()}
    words = ("--show-dir", out, "--cfg-options", f"data.test.img_prefix={data}")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and ".png is an image of the data set and would be painted" in ran.err
    assert not runs and before == {path: path.read_bytes() for path in data.iterdir()}


def test_a_link_does_not_lead_out_of_the_folder(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, runs: list[int]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "else").write_text("mine")
    (tmp_path / "out" / "003.png").symlink_to(tmp_path / "else")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show-dir", tmp_path / "out")
    assert ran.code == 2 and "003.png leads out of" in ran.err and not runs
    assert (tmp_path / "else").read_text() == "mine"


def test_a_folder_that_cannot_be_is_refused_before_the_run(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, runs: list[int], monkeypatch: Any
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show-dir", folder)
        assert ran.code == 2 and "cannot be made" in ran.err
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    ran = onnxdet("test", tiny.config, dynamic, *ORT, "--show-dir", tmp_path / "out")
    assert ran.code == 2 and "out cannot be written to: choose another folder" in ran.err
    assert not runs


def test_pictures_of_other_kinds_of_images(tmp_path: Path) -> None:
    """Of 16 bit, one and four channels, turned or not: as eight bits of colour, as detected in."""
    from PIL import Image

    from pytest_onnxdet.data.photographs import picture

    rng = np.random.default_rng(0)
    for shape, kind in (((9, 5), np.uint16), ((9, 5), np.uint8), ((9, 5, 4), np.uint8)):
        cv2.imwrite(str(tmp_path / "a.png"), rng.integers(0, 255, shape).astype(kind))
        for color in ("color", "unchanged", "grayscale"):
            step = {"type": "LoadImageFromFile", "color_type": color}
            seen = picture([step], tmp_path / "a.png")
            assert seen.shape == (9, 5, 3) and seen.dtype == np.uint8
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 255, (9, 5, 3)).astype(np.uint8)).save(
        tmp_path / "t.jpg", exif=exif
    )
    step = {"type": "LoadImageFromFile"}
    assert picture([step], tmp_path / "t.jpg").shape == (5, 9, 3)
    stored = {**step, "color_type": "unchanged"}
    assert picture([stored], tmp_path / "t.jpg").shape == (9, 5, 3)
    own = [lambda results: {"img": rng.normal(size=(9, 5, 7))}]
    assert picture(own, tmp_path / "t.jpg").shape == (9, 5, 3)
