"""``onnxdet test``: files that are not of this machine, none at all, or of other formats."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from cli_models import Ran, Tiny
from PIL import Image
from tiny_retinanet import CLASSES

from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.datasets import DatasetSpec, check_coco

Run = Callable[..., Ran]
Document = dict[str, Any]
ORT = ("--backend", "onnxruntime")


def first_as(kind: str) -> bytes:
    """An image in a format that is not for OpenCV."""
    if kind == "GIF":
        file = io.BytesIO()
        Image.new("RGB", (64, 48), "red").save(file, "GIF")
        return file.getvalue()
    return {
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "PDF": b"%PDF-1.4\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }[kind]


@pytest.mark.parametrize("kind", ["GIF", "HEIC", "PDF", "SVG"])
def test_images_of_formats_that_opencv_does_not_read(
    tried: Callable[..., Ran],
    images: Path,
    runs: list[int],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    own = cv2.imdecode
    monkeypatch.setattr(  # from 4.11 on OpenCV reads GIFs
        cv2, "imdecode", lambda raw, flags: None if bytes(raw[:3]) == b"GIF" else own(raw, flags)
    )
    (images / "003.png").write_bytes(first_as(kind))
    ran = tried()
    said = f"{kind}, which OpenCV here does not read: convert it to PNG or JPEG"
    assert ran.code == 2 and "003.png: is " in ran.err and said in ran.err, ran.err
    assert not runs


def test_images_that_are_addresses(
    tried: Callable[..., Ran], document: Document, runs: list[int]
) -> None:
    address = "http://images.cocodataset.org/val2017/000000000139.jpg"
    document["images"][2]["file_name"] = address
    ran = tried()
    assert (
        ran.code == 2 and "an address: files of this machine are read, nothing by http" in ran.err
    )
    del document["images"][2]["file_name"]
    document["images"][2]["coco_url"] = address
    ran = tried()
    said = "image 3 has no file_name (coco_url is not fetched: images are files below img_prefix)"
    assert ran.code == 2 and said in ran.err and not runs, ran.err


@pytest.mark.parametrize("key", ["ann_file", "img_prefix", "data_root"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://bucket/coco", "files of this machine are read, nothing by s3: copy or mount them"),
        ("petrel:s3://bucket/coco/a.json", "nothing by s3"),
        ("https://host/coco", "nothing by https"),
        ("\\\\server\\share\\coco", "a share of Windows' network: mount it"),
    ],
)
def test_places_that_are_not_of_this_machine(
    tried: Callable[..., Ran], runs: list[int], key: str, place: str, said: str
) -> None:
    ran = tried(options=(f"data.test.{key}={place}",))
    assert ran.code == 2 and f"data.test.{key} is {place}: " in ran.err and said in ran.err
    assert len(ran.err.splitlines()) == 1 and not runs


def test_an_annotation_file_that_is_a_pipe(
    tried: Callable[..., Ran], tmp_path: Path, images: Path, runs: list[int]
) -> None:
    """Which mmdet would wait for without end."""
    os.mkfifo(tmp_path / "pipe.json")
    for name, kind in (("pipe.json", "a named pipe"), ("images", "a folder")):
        ran = tried(options=(f"data.test.ann_file={tmp_path / name}",))
        assert ran.code == 2 and f"{name}: is {kind}, not an annotation file" in ran.err, ran.err
    spec = DatasetSpec("own", tmp_path / "pipe.json", images, classes=CLASSES)
    with pytest.raises(DataError, match=r"no such annotation file \(but a named pipe of that name"):
        check_coco(spec)
    spec = DatasetSpec("own", Path("s3://bucket/a.json"), images, classes=CLASSES)
    with pytest.raises(DataError, match="nothing by s3"):
        check_coco(spec)
    assert not runs


@pytest.mark.parametrize("backend", ["petrel", "ceph", "memcached", "lmdb", "http"])
def test_stores_that_are_not_a_disk(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, backend: str
) -> None:
    """The files are read from disk, which is told once."""
    config = tmp_path / "c.py"
    client = f"dict(backend={backend!r}, path_mapping={{'./data/': 's3://bucket/'}})"
    config.write_text(
        tiny.config.read_text().replace(
            "dict(type='LoadImageFromFile')",
            f"dict(type='LoadImageFromFile', file_client_args={client})",
        )
        + f"data['test'].update(file_client_args={client})\n"
    )
    words = ("test", config, dynamic, *ORT, "--eval", "bbox")
    own, ran = onnxdet("test", tiny.config, *words[2:]), onnxdet(*words)
    assert ran.code == 0, ran.err
    told = f"data.test reads by file_client_args of backend {backend!r}: here files are read from"
    assert ran.err.count(told) == 1
    figures = [line for line in ran.out.splitlines() if "mAP" in line]
    assert figures and figures == [line for line in own.out.splitlines() if "mAP" in line]
