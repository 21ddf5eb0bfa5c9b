"""``onnxdet test`` on folders in VOC's layout as people have them: mmdet's figures, or one line."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from against_mmdet import (
    MIN_AP,
    ORT,
    TOLERANCE,
    Mini,
    Run,
    exported,
    theirs,
)
from cli_models import Ran
from draw_voc import draw

IMAGES = 6


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    return exported("retinanet", tmp_path_factory.mktemp("mini"))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return draw(tmp_path, IMAGES)


@pytest.fixture
def tried(onnxdet: Run, mini: Mini, voc: Path) -> Callable[..., Ran]:
    def run(*more: str) -> Ran:
        options = [f"data.test.{key}={value}" for key, value in settings(voc).items()]
        words = ("--eval", "mAP", "--cfg-options", *options, *more)
        ran = onnxdet("test", "mini:retinanet", mini.graph, *ORT, *words)
        assert "unforeseen" not in ran.err
        return ran

    return run


def settings(voc: Path) -> dict[str, str]:
    listed = str(voc / "ImageSets/Main/test.txt")
    return {"type": "VOCDataset", "ann_file": listed, "img_prefix": f"{voc}/"}


def edit(path: Path, pattern: str, text: str, count: int = 1) -> None:
    path.write_text(re.sub(pattern, text, path.read_text(), count=count, flags=re.S))


def as_drawn(voc: Path) -> None:
    pass


def windows_line_ends(voc: Path) -> None:
    path = voc / "ImageSets/Main/test.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def without_size(voc: Path) -> None:
    for path in (voc / "Annotations").iterdir():
        edit(path, "<size>.*</size>", "")


def difficult(voc: Path) -> None:
    edit(voc / "Annotations/001.xml", "<difficult>0<", "<difficult>1<")
    edit(voc / "Annotations/002.xml", "<difficult>0</difficult>", "")


def other_names(voc: Path) -> None:
    for path in (voc / "Annotations").iterdir():
        edit(path, "<name>circle<", "<name>hexagon<")


def no_objects(voc: Path) -> None:
    edit(voc / "Annotations/001.xml", "<object>.*</object>", "")


@pytest.mark.parametrize(
    "change",
    [as_drawn, windows_line_ends, without_size, difficult, other_names, no_objects],
)
def test_figures_are_mmdets(
    tried: Callable[..., Ran], mini: Mini, voc: Path, change: Callable[[Path], None]
) -> None:
    change(voc)
    ran = tried()
    assert ran.code == 0, ran.err
    found = dict(line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1)
    wanted = theirs(mini, settings(voc), "mAP", logger="silent")["mAP"]
    assert abs(float(found["mAP"]) - wanted) <= TOLERANCE < MIN_AP < wanted


def no_file(voc: Path) -> None:
    (voc / "Annotations/003.xml").unlink()


def no_xml(voc: Path) -> None:
    (voc / "Annotations/003.xml").write_text("003")


def no_box(voc: Path) -> None:
    edit(voc / "Annotations/001.xml", "<bndbox>.*?</bndbox>", "")


def no_corner(voc: Path) -> None:
    edit(voc / "Annotations/001.xml", "<xmax>.*?</xmax>", "")


def no_image(voc: Path) -> None:
    (voc / "JPEGImages/003.jpg").unlink()


def empty_line(voc: Path) -> None:
    edit(voc / "ImageSets/Main/test.txt", "002", "")


def a_pipe(voc: Path) -> None:
    (voc / "Annotations/003.xml").unlink()
    os.mkfifo(voc / "Annotations/003.xml")


def an_image_that_is_a_pipe(voc: Path) -> None:
    without_size(voc)  # so that mmdet opens the image
    (voc / "JPEGImages/003.jpg").unlink()
    os.mkfifo(voc / "JPEGImages/003.jpg")


def byte_order_mark(voc: Path) -> None:
    path = voc / "ImageSets/Main/test.txt"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")


def nothing_listed(voc: Path) -> None:
    (voc / "ImageSets/Main/test.txt").write_text("")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_file, "003.xml"),
        (no_xml, "the test data cannot be opened (ParseError"),
        (no_box, "the objects of 001.jpg cannot be read (AttributeError"),
        (no_corner, "the objects of 001.jpg cannot be read (AttributeError"),
        (no_image, "003.jpg: no such image"),
        (empty_line, "Annotations/.xml"),
        (a_pipe, "003.xml: is a named pipe, not an annotation file: replace it"),
        (an_image_that_is_a_pipe, "003.jpg: is a named pipe, not an image: replace it"),
        (byte_order_mark, "test.txt: begins with a byte order mark"),
        (nothing_listed, "test.txt: lists no images: nothing to test"),
    ],
)
def test_what_cannot_be_read_is_named_before_the_run(
    tried: Callable[..., Ran],
    voc: Path,
    runs: list[int],
    change: Callable[[Path], None],
    said: str,
) -> None:
    change(voc)
    ran = tried()
    assert ran.code == 2 and said in ran.err and not runs, ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_a_folder_of_coco_is_not_one_of_voc(tried: Callable[..., Ran]) -> None:
    ran = tried("data.test.img_prefix=VOC2007")
    assert ran.code == 2 and "Annotations/000.xml" in ran.err


def test_names_in_another_case_are_told(tried: Callable[..., Ran], voc: Path) -> None:
    """mmdet leaves their objects out without a word."""
    for path in (voc / "Annotations").iterdir():
        edit(path, "<name>circle<", "<name>Circle<")
    ran = tried()
    assert ran.code == 0, ran.err
    said = "test.txt: 'Circle' and 'circle' differ in upper and lower case alone, which mmdet tells"
    assert said in ran.err and "objects of that name do not count" in ran.err, ran.err
