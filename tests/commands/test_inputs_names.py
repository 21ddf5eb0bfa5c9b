"""Files of class names as editors write them, and names that are spelt in two ways."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import SIZE, Ran, Tiny
from tiny_retinanet import CLASSES

from pytest_onnxdet.models.names import wrong_names

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")
NAMES = "circle\nsquare\ntriangle\n"
ODD = [
    ("\ufeff" + NAMES, "utf-8", "begins with a byte order mark, which mmdet takes for a part of"),
    (NAMES, "utf-16", "is UTF-16, which mmdet does not read: save it as UTF-8"),
    ("caf\u00e9\n", "latin-1", "byte 3 is not UTF-8: save it as UTF-8"),
    (NAMES + "\n", "utf-8", "line 4 is empty, which mmdet takes for a class of no name: take it"),
    (f"\n{NAMES} \n", "utf-8", "line 1 is empty, which mmdet takes for a class of no name: take "),
    ("", "utf-8", "is empty: write a class's name in each line"),
    (NAMES + "circle\n", "utf-8", "'circle' is there twice: give each class its own name"),
]


@pytest.mark.parametrize(("text", "encoding", "said"), ODD)
def test_a_file_of_names_that_mmdet_reads_otherwise(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    runs: list[int],
    text: str,
    encoding: str,
    said: str,
) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(text.encode(encoding))
    words = ("--eval", "bbox", "--cfg-options", f"data.test.classes={names}")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and f"data.test.classes is {names}: {said}" in ran.err, ran.err
    assert len(ran.err.splitlines()) == 1 and not runs


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_of_names_that_mmdet_reads(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, ends: str
) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(NAMES.rstrip().replace("\n", ends).encode())
    words = ("--eval", "bbox", "--cfg-options", f"data.test.classes={names}")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 0 and "warning" not in ran.err, ran.err


def test_lists_that_name_no_classes() -> None:
    assert not wrong_names(None) and not wrong_names(CLASSES)
    assert "with 'a' twice: give each class its own name" in wrong_names(["a", "b", "a"])
    assert "with an empty name: give each class a name" in wrong_names(["a", " "])


def test_an_export_needs_no_names_and_tells_of_wrong_ones(
    onnxdet: Run, tiny: Tiny, tmp_path: Path
) -> None:
    """They are for pictures: deployment machines often lack the data set's files."""
    checkpoint = tmp_path / "c.pth"
    torch.save({"state_dict": torch.load(tiny.checkpoint)["state_dict"]}, checkpoint)
    os.mkfifo(tmp_path / "pipe.txt")
    for name, said in (("gone.txt", "there is none"), ("pipe.txt", "a named pipe, not a file")):
        words = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE)
        option = f"data.test.classes={tmp_path / name}"
        ran = onnxdet("export", tiny.config, checkpoint, *words, "--cfg-options", option)
        assert ran.code == 0 and said in ran.err, ran.err
        assert "until then labels have no names" in ran.err and len(ran.err.splitlines()) == 1
    torch.save({**torch.load(checkpoint), "meta": {"CLASSES": CLASSES}}, checkpoint)
    ran = onnxdet("export", tiny.config, checkpoint, *words, "--cfg-options", option)
    assert ran.code == 0 and not ran.err, "the checkpoint names them"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("Circle", "'Circle' and 'circle' differ in upper and lower case"),
        ("cir_cle", "'cir_cle' and 'circle' differ in spelling (spaces, signs, forms of letters)"),
    ],
)
def test_names_that_are_spelt_otherwise_in_the_annotations(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tried: Callable[..., Ran],
    document: dict[str, Any],
    runs: list[int],
    name: str,
    how: str,
) -> None:
    words = ("--eval", "bbox", "--cfg-options", f"data.test.classes=[{name},square,triangle]")
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    assert ran.code == 2 and f"has 2 of the 3 classes {name}, square" in ran.err, ran.err
    assert f"{how} alone, which mmdet tells apart" in ran.err
    document["categories"][0]["name"] = name
    ran = tried()
    assert ran.code == 2 and "which mmdet tells apart" in ran.err, ran.err
    assert not runs


@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device"])
def test_what_is_no_file_is_not_waited_for(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "it.py"
    if kind == "a named pipe":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
    else:
        place = Path("/dev/zero")
    output = ("--output-file", tmp_path / "g.onnx", "--shape", *SIZE)
    test = ("--eval", "bbox", "--cfg-options")
    inherits = tmp_path / "c.py"
    inherits.write_text(f"_base_ = {str(place)!r}\n")
    for words, what in (
        (("export", place, tiny.checkpoint, *output), "config"),
        (("export", inherits, tiny.checkpoint, *output), "config"),
        (("test", place, dynamic, *ORT, "--eval", "bbox"), "config"),
        (("coverage", place), "config"),
        (("export", tiny.config, place, *output), "weights"),
        (("export", *tiny, *output, "--input-img", place), "image"),
        (("test", tiny.config, place, *ORT, "--eval", "bbox"), "model"),
        (("test", tiny.config, dynamic, *ORT, *test, f"data.test.ann_file={place}"), "annotation"),
        (("test", tiny.config, dynamic, *ORT, *test, f"data.test.classes={place}"), "class names"),
    ):
        ran = onnxdet(*words)
        assert ran.code == 2 and kind in ran.err and what in ran.err, (words, ran.err)
        assert len(ran.err.splitlines()) == 1 and str(place) in ran.err
