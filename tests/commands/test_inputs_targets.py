"""What the commands may write: never over what they read, nor into what is no file."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_models import SIZE, Ran, Tiny

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")


@pytest.mark.parametrize("which", ["config", "checkpoint", "link", "image"])
def test_a_graph_does_not_come_over_what_it_is_made_of(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, images: Path, which: str
) -> None:
    config = shutil.copy(tiny.config, tmp_path / "c.py")
    checkpoint = shutil.copy(tiny.checkpoint, tmp_path / "c.pth")
    image = images / "000.png"
    (tmp_path / "link.onnx").symlink_to(checkpoint)
    target = {
        "config": config,
        "checkpoint": checkpoint,
        "link": tmp_path / "link.onnx",
        "image": image,
    }[which]
    before = [Path(path).read_bytes() for path in (config, checkpoint, image)]
    words = ("--output-file", target, "--shape", *SIZE, "--input-img", image)
    ran = onnxdet("export", config, checkpoint, *words)
    said = {"config": "the config", "image": "--input-img"}.get(which, "the checkpoint")
    assert ran.code == 2 and f"{Path(target).name} is {said}, and would be written" in ran.err
    assert [Path(path).read_bytes() for path in (config, checkpoint, image)] == before


def test_the_picture_does_not_come_over_the_image(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, images: Path
) -> None:
    image = images / "g_detections.png"
    shutil.copy(images / "000.png", image)
    words = ("--output-file", images / "g.onnx", "--shape", *SIZE, "--test-img", image, "--show")
    ran = onnxdet("export", *tiny, *words)
    assert ran.code == 2 and "--show: " in ran.err and "is --test-img, and would be" in ran.err


def results_over(onnxdet: Run, tiny: Tiny, dynamic: Path, file: Path, *words: Any) -> Ran:
    config = f"data.test.ann_file={file}"
    return onnxdet("test", tiny.config, dynamic, *ORT, *words, "--cfg-options", config)


@pytest.mark.parametrize("ending", ["bbox", "segm", "proposal"])
def test_results_do_not_come_over_the_annotations(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path, runs: list[int], ending: str
) -> None:
    file = Path(shutil.copy(few, tmp_path / f"a.{ending}.json"))
    before = file.read_bytes()
    prefix = f"jsonfile_prefix={tmp_path / 'a'}"
    for words in (("--format-only",), ("--eval", "bbox")):
        ran = results_over(onnxdet, tiny, dynamic, file, *words, "--eval-options", prefix)
        assert ran.code == 2 and f"a.{ending}.json is the annotation file, and would" in ran.err
    link = tmp_path / "r.pkl"
    for made in (link.symlink_to, link.hardlink_to):
        link.unlink(missing_ok=True)
        made(file)
        ran = results_over(onnxdet, tiny, dynamic, file, "--out", link)
        assert ran.code == 2 and "--out: " in ran.err and "is the annotation file" in ran.err
    assert file.read_bytes() == before and not runs


def test_results_do_not_come_over_other_inputs(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    images: Path,
    few: Path,
    tmp_path: Path,
    runs: list[int],
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("circle\nsquare\ntriangle\n")
    link = tmp_path / "r.pkl"
    for target, said in (
        (tiny.config, "the config"),
        (dynamic, "the model"),
        (images / "003.png", "an image of the data set"),
        (names, "data.test.classes"),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        options = (f"data.test.img_prefix={images}", f"data.test.classes={names}")
        ran = results_over(onnxdet, tiny, dynamic, few, "--out", link, "--cfg-options", *options)
        assert ran.code == 2 and f"r.pkl is {said}, and would be written over" in ran.err, ran.err
    assert not runs


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "{}/pipe.pkl"), "--out: {}/pipe.pkl is a named pipe: give a file's name"),
        (
            ("--format-only", "--eval-options", "jsonfile_prefix={}/p"),
            "jsonfile_prefix: {}/p.bbox.json is a named pipe",
        ),
        (
            ("--format-only", "--eval-options", "jsonfile_prefix=s3://bucket/r"),
            "jsonfile_prefix: s3://bucket/r is an address: give a path of this machine",
        ),
        (("--eval", "bbox", "--eval-options", "jsonfile_prefix=5"), "jsonfile_prefix: 5: give a"),
        (("--format-only", "--eval-options", "jsonfile_prefix={}/pipe.pkl/r"), "cannot be writ"),
        (("--eval", "bbox", "--cfg-options", "data.test.classes={}/pipe.pkl"), "a named pipe"),
        (
            ("--eval", "bbox", "--cfg-options", "data.test.proposal_file={}/pipe.pkl"),
            "pipe.pkl: is a named pipe, not a file of proposals",
        ),
        (
            ("--eval", "bbox", "--cfg-options", "data.test.proposal_file=gone.pkl"),
            "gone.pkl: no such file of proposals",
        ),
        (
            ("--eval", "bbox", "--cfg-options", "data.test.classes=circle"),
            "data.test.classes is 'circle': a text is the path of a file of class names",
        ),
        (
            ("--eval", "bbox", "--cfg-options", "data.test.classes=[[circle],[square]]"),
            "data.test.classes is [['circle'], ['square']]: give a list of names",
        ),
        (("--eval", "bbox", "--cfg-options", "data.test.classes=3"), "classes is 3: give a list"),
    ],
)
def test_what_is_no_file_and_no_name_is_not_waited_for(
    onnxdet: Run,
    tiny: Tiny,
    dynamic: Path,
    tmp_path: Path,
    runs: list[int],
    words: tuple[str, ...],
    said: str,
) -> None:
    for name in ("pipe.pkl", "p.bbox.json"):
        os.mkfifo(tmp_path / name)
    filled = [word.replace("{}", str(tmp_path)) for word in words]
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *filled)
    assert ran.code == 2 and said.replace("{}", str(tmp_path)) in ran.err, ran.err
    assert len(ran.err.splitlines()) == 1 and not runs


def test_nothing_comes_over_what_a_config_inherits(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.py"
    base.write_text(tiny.config.read_text())
    (tmp_path / "between.py").write_text("_base_ = ['base.py']\n")
    own = tmp_path / "own.py"
    own.write_text("_base_ = 'between.py'\n")
    link = tmp_path / "r.pkl"
    link.symlink_to(base)
    derived = Tiny(own, tiny.checkpoint)
    ran = results_over(onnxdet, derived, dynamic, few, "--out", link)
    assert ran.code == 2 and "r.pkl is a `_base_` of the config, and would" in ran.err, ran.err
    ran = onnxdet("export", own, tiny.checkpoint, "--output-file", link)
    assert ran.code == 2 and "r.pkl is a `_base_` of the config, and would" in ran.err, ran.err
    assert base.read_text() == tiny.config.read_text()


def test_a_graph_does_not_come_over_the_data(
    onnxdet: Run, tiny: Tiny, few: Path, images: Path, tmp_path: Path
) -> None:
    names, copied = tmp_path / "names.txt", tmp_path / "few.json"
    names.write_text("circle\nsquare\ntriangle\n")
    copied.write_bytes(few.read_bytes())
    options = (f"data.test.ann_file={copied}", f"data.test.classes={names}")
    options += (f"data.test.img_prefix={images}",)
    for target, said in (
        (copied, "the annotation file"),
        (names, "data.test.classes"),
        (images / "003.png", "an image of data.test.img_prefix"),
    ):
        before = target.read_bytes()
        words = ("--output-file", target, "--shape", "96", "128", "--cfg-options", *options)
        ran = onnxdet("export", *tiny, *words)
        assert ran.code == 2 and f"is {said}, and would be written over" in ran.err, ran.err
        assert target.read_bytes() == before


def test_results_do_not_come_over_weights_beside_the_model(
    onnxdet: Run, tiny: Tiny, dynamic: Path, few: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(str(dynamic)), str(model), save_as_external_data=True, location="weights.pkl"
    )
    weights = tmp_path / "weights.pkl"
    before = weights.read_bytes()
    ran = results_over(onnxdet, tiny, model, few, "--out", weights)
    assert ran.code == 2 and "weights.pkl is weights of the model, and would" in ran.err, ran.err
    assert weights.read_bytes() == before
